"""``diagnose``: why a function's graph breaks and why it is compiled again, and the edits that would remove it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from fuselab.diagnosis.events import AnyEvent, ObserveRequest
from fuselab.diagnosis.findings import Seen
from fuselab.diagnosis.processes import Observe, observe_apart
from fuselab.diagnosis.proof import Prover
from fuselab.diagnosis.records import Diagnosis, FindingKind
from fuselab.diagnosis.streams import length_of, parse_vary
from fuselab.errors import UsageError
from fuselab.experiments.user import experiment_from

__all__ = ["COUNTING_BACKEND", "TIMING_BACKEND", "diagnose"]

COUNTING_BACKEND = "eager"
"""Graph breaks and guards are Dynamo's: what is behind it does not change them, and this backend compiles nothing."""

TIMING_BACKEND = "inductor"
"""What --prove times with."""

DEADLINE_S = 600.0


def diagnose(
    target: str,
    arguments: Sequence[str] = (),
    *,
    vary: Sequence[str] = (),
    calls: int | None = None,
    prove: bool = False,
    backend: str | None = None,
    device: str = "auto",
    seed: int = 0,
    deadline_s: float = DEADLINE_S,
    tell: Callable[[str], None] = lambda _: None,
    observe: Observe | None = None,
) -> Diagnosis:
    """Find graph breaks and recompilations of a stream of calls, with the user's line, the reason and the remedy.

    The function runs in processes of its own; this one does not import torch, and no file is changed.

    Args:
        target: ``FILE.py:NAME``, a function, an ``nn.Module`` class or an instance.
        arguments: texts as for ``--arg``; without any the file's ``get_inputs()`` is called.
        vary: what differs between calls: ``x.0=8,16,32``, ``scale=0.1,0.2``, ``x.dtype=f32,bf16`` (see ``streams``).
        calls: how many calls; as many as the longest ``vary``, or 3.
        prove: try the edits that need no judgement in a copy, and say which hold.
        backend: backend of ``torch.compile``. Left out: ``eager`` to count with, ``inductor`` to time with.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: of parameters and inputs.
        deadline_s: seconds for each process.
        tell: is told what is being done.
        observe: carries out one request; for tests, which do it in their own process.

    Raises:
        UsageError: no such file, name or argument, or a text that cannot be read.
    """
    experiment = experiment_from(target, arguments, seed=seed)
    varies = [parse_vary(text) for text in vary]
    number = length_of(varies, calls)
    path, _, name = str(experiment.target).rpartition(":")

    def apart(request: ObserveRequest) -> list[AnyEvent]:
        return observe_apart(request, deadline_s=deadline_s)

    carry_out = observe or apart
    with tempfile.TemporaryDirectory(prefix="fuselab-answers-") as folder:
        request = ObserveRequest(
            target=f"{path}:{name}",
            arguments=list(arguments),
            vary=list(vary),
            calls=number,
            seed=seed,
            device=device,
            backend=backend or COUNTING_BACKEND,
            answers=str(Path(folder, "answers.pt")) if prove else "",
            keep=True,
        )
        tell(f"calling {name} {number} times")
        seen = Seen.of(carry_out(request), name)
        if seen.usage is not None:
            raise UsageError(seen.usage.reason, hint=seen.usage.hint or None)
        diagnosis = Diagnosis(
            target=target,
            arguments=list(arguments),
            vary=list(vary),
            calls=number,
            backend=request.backend,
            device_type=seen.summary.device_type if seen.summary else "",
            versions={"torch": seen.summary.torch, "fuselab": _own_version()} if seen.summary else {},
            counts=seen.counts,
            findings=seen.findings,
            failure=seen.failure,
            notes=_notes(seen),
        )
        if not prove or not seen.findings:
            return diagnosis
        if seen.failure is not None:
            note = "nothing was proved: the original does not run to its end"
            return msgspec.structs.replace(diagnosis, notes=[*diagnosis.notes, note])
        prover = Prover(request, name, seen, carry_out, backend or TIMING_BACKEND, tell)
        proofs, proved = prover.prove()
        return msgspec.structs.replace(diagnosis, proofs=proofs, proved=proved)


def _notes(seen: Seen) -> list[str]:
    notes = []
    if seen.counts is not None and seen.failure is None and not seen.counts.graphs:
        notes.append("the compiler made no graph: the function has no tensor operation that it could see")
    if any(f.function_skipped for f in seen.findings):
        notes.append("a function that the compiler gave up on runs uncompiled as a whole, not only the line")
    if any(f.kind is FindingKind.LIMIT for f in seen.findings):
        notes.append("behind the recompile limit a function runs uncompiled, so later recompilations are not seen")
    return notes


def _own_version() -> str:
    try:
        return version("fuselab")
    except PackageNotFoundError:
        return "unknown"
