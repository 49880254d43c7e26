"""The proof of edits: each is made in a copy, run in a fresh process, and held against the original.

An edit is proved when its finding is gone, nothing new came, and every answer is what the original gives uncompiled.
The user's files are never written: the copy is a text that the observing process reads in place of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fuselab.diagnosis.events import ObserveRequest
from fuselab.diagnosis.findings import Seen, sources_of
from fuselab.diagnosis.processes import Observe
from fuselab.diagnosis.records import (
    CallChange,
    Edit,
    Finding,
    FindingKind,
    Proof,
    ProofStatus,
    Proved,
    SourceChange,
)
from fuselab.diagnosis.source import applied, combined, moved_to, patch_of, read

__all__ = ["PASSES", "Prover"]

PASSES = 7
"""Passes over the stream that are timed, after the one that compiles."""

_AGAIN = "it happens again: "


@dataclass(frozen=True)
class _Copy:
    """The original with some edits."""

    changes: tuple[SourceChange, ...]
    call_changes: tuple[CallChange, ...]
    overlay: dict[str, str]


@dataclass
class Prover:
    """Tries edits of the findings of one stream, one process each.

    Args:
        request: the original stream; its ``answers`` are those kept from the uncompiled original.
        target: name of the function.
        before: what the original stream gave.
        observe: carries a request out.
        timing_backend: the backend that the original and the final copy are timed with.
        tell: is told what is tried.
    """

    request: ObserveRequest
    target: str
    before: Seen
    observe: Observe
    timing_backend: str
    tell: Callable[[str], None] = lambda _: None

    def prove(self) -> tuple[list[Proof], Proved | None]:
        """Try every edit that needs no judgement until one of its finding holds; then those that hold, together."""
        proofs: list[Proof] = []
        holds: list[tuple[int, Edit]] = []
        candidates = {i: _candidates(finding) for i, finding in enumerate(self.before.findings)}
        candidates = {i: edits for i, edits in candidates.items() if edits}
        if len(candidates) > 1:
            # The likeliest edits of all findings in one process: what holds there need not be tried alone.
            together = [(i, edits[0]) for i, edits in candidates.items()]
            for (index, edit), proof in zip(together, self._try(together), strict=True):
                if proof.status is ProofStatus.PROVED:
                    holds.append((index, edit))
                    proofs.append(proof)
                    del candidates[index]
                elif proof.status is ProofStatus.STILL_THERE and proof.reason.startswith(_AGAIN):
                    proofs.append(proof)  # no other edit's doing
                    candidates[index] = candidates[index][1:]
        for index, edits in candidates.items():
            for edit in edits:
                (proof,) = self._try([(index, edit)])
                proofs.append(proof)
                if proof.status is ProofStatus.PROVED:
                    holds.append((index, edit))
                    break
        proofs.sort(key=lambda proof: proof.finding)
        return proofs, self._together(sorted(holds, key=lambda pair: pair[0]))

    def _try(self, pairs: Sequence[tuple[int, Edit]]) -> list[Proof]:
        """One process with the edits of several findings; a verdict for each."""
        for index, edit in pairs:
            self.tell(f"proving {edit.name} for finding {index + 1}")
        copy, accepted = self._copy([edit for _, edit in pairs])
        seen = self._run(copy, self.request.backend, passes=0)
        counts = self.before.counts
        assert counts is not None  # noqa: S101 - without calls there are no findings to prove
        proofs = []
        for place, (index, edit) in enumerate(pairs):
            if place in accepted:
                status, reason = self._verdict(index, seen, copy)
            else:
                status, reason = ProofStatus.STILL_THERE, "it changes the same lines as another edit"
            equality = seen.summary.equality if seen.summary else None
            proofs.append(
                Proof(
                    finding=index,
                    edit=edit.name,
                    status=status,
                    reason=reason,
                    before=counts,
                    after=seen.counts,
                    equality=equality,
                )
            )
        return proofs

    def _verdict(self, index: int, seen: Seen, copy: _Copy) -> tuple[ProofStatus, str]:
        """How the edit of one finding ended, in a run with the edits of several."""
        failed = seen.usage.reason if seen.usage is not None else ""
        if seen.failure is not None:
            failed = f"{seen.failure.reason} ({seen.failure.stage})"
        equality = seen.summary.equality if seen.summary else None
        if failed or equality is None:
            return ProofStatus.FAILED, failed or "the answers were not compared"
        finding = self.before.findings[index]
        again = next((f for f in seen.findings if _same(finding, f, copy.changes)), None)
        if again is not None:
            return ProofStatus.STILL_THERE, f"{_AGAIN}{again.reason}"
        new = self._new(seen, copy)
        if new is not None:
            line = f" at line {new.place.line} of the copy" if new.place else ""
            return ProofStatus.STILL_THERE, f"another {new.kind.value}{line} instead: {new.title}"
        if not equality.equal:
            return ProofStatus.DIFFERENT, equality.reason
        return ProofStatus.PROVED, ""

    def _new(self, seen: Seen, copy: _Copy) -> Finding | None:
        """A finding of the copy that the original does not have, or has less often."""
        for found in seen.findings:
            known = next((f for f in self.before.findings if _same(f, found, copy.changes)), None)
            recompiled_more = known is not None and found.kind is FindingKind.RECOMPILE and found.times > known.times
            if known is None or recompiled_more:
                return found
        return None

    def _together(self, holds: Sequence[tuple[int, Edit]]) -> Proved | None:
        """All edits that hold in one copy, against the original, both timed with the same backend.

        Answers are held against the original's with the backend that computes as Python does: the timed one may round
        otherwise. Should edits that hold not hold together, the later of them are left out.
        """
        while holds:
            edits = [edit for _, edit in holds]
            copy, accepted = self._copy(edits)
            holds = [holds[i] for i in accepted]
            self.tell(f"checking {len(holds)} edit{'s' if len(holds) > 1 else ''} together")
            checked = self._run(copy, self.request.backend, passes=0)
            verdicts = [self._verdict(index, checked, copy)[0] for index, _ in holds]
            if all(verdict is ProofStatus.PROVED for verdict in verdicts):
                return self._timed(holds, copy, checked)
            holds = holds[:-1]
        return None

    def _timed(self, holds: Sequence[tuple[int, Edit]], copy: _Copy, checked: Seen) -> Proved | None:
        self.tell(f"timing the original with backend {self.timing_backend}")
        before = self._run(_Copy((), (), {}), self.timing_backend, passes=PASSES)
        self.tell(f"timing the copy with backend {self.timing_backend}")
        after = self._run(copy, self.timing_backend, passes=PASSES)
        if before.counts is None or after.counts is None or checked.summary is None or checked.summary.equality is None:
            return None
        texts = {file: source.text for file in copy.overlay if (source := read(file)) is not None}
        return Proved(
            edits=[edit for _, edit in holds],
            findings=[index for index, _ in holds],
            before=before.counts,
            after=after.counts,
            remaining=checked.findings,
            equality=checked.summary.equality,
            backend=self.timing_backend,
            patch="".join(
                patch_of(_relative(file), text, [c for c in copy.changes if c.file == file])
                for file, text in texts.items()
            ),
        )

    def _copy(self, edits: Sequence[Edit]) -> tuple[_Copy, list[int]]:
        changes, accepted = combined([edit.changes for edit in edits])
        calls = tuple(dict.fromkeys(c for i in accepted for c in edits[i].call_changes))
        overlay = {}
        for file in dict.fromkeys(change.file for change in changes):
            source = read(file)
            if source is not None:
                overlay[file] = applied(source.text, [c for c in changes if c.file == file])
        return _Copy(tuple(changes), calls, overlay), accepted

    def _run(self, copy: _Copy, backend: str, *, passes: int) -> Seen:
        request = msgspec.structs.replace(
            self.request,
            overlay=copy.overlay,
            call_changes=list(copy.call_changes),
            backend=backend,
            keep=False,
            passes=passes,
        )
        return Seen.of(self.observe(request), self.target, sources_of(copy.overlay))


def _candidates(finding: Finding) -> list[Edit]:
    return [edit for edit in finding.edits if not edit.judgement]


def _same(before: Finding, after: Finding, changes: Sequence[SourceChange]) -> bool:
    """Whether a finding of the copy is one of the original: the same line, and the same value for recompiles."""
    if before.kind is not after.kind:
        return False
    if before.place is None or after.place is None:
        same_line = before.place is after.place
    else:
        in_file = [change for change in changes if change.file == before.place.file]
        first, last = moved_to(before.place.line, in_file)
        same_line = before.place.file == after.place.file and first <= after.place.line <= last
    if before.kind is FindingKind.RECOMPILE:
        one, other = before.guards[0], after.guards[0]
        return same_line and one.subject == other.subject and one.axis == other.axis
    return same_line


def _relative(file: str) -> str:
    """The path as seen from the working directory, where the file is below it."""
    try:
        return str(Path(file).resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return file
