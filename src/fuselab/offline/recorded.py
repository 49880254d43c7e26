"""What a recorded run chose where a description can only list: configurations that a device timed, by kernel's source.

Inductor times a kernel's configurations on the device and keeps one. Where a run of that device is on record and has a
kernel of the same source (up to paths and hashes), what was kept and the times are taken from it and marked as its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fuselab.errors import UsageError
from fuselab.offline.differences import comparable_source
from fuselab.offline.messages import Candidate
from fuselab.offline.results import Inspection, KernelResult, RecordedChoice, TargetResult, WorkloadResult
from fuselab.store import Run, open_run

__all__ = ["Recorded", "with_recorded"]

_SETTINGS = ("num_warps", "num_stages")


class Recorded:
    """The choices of one run."""

    def __init__(self, name: str, root: Path) -> None:
        """Read a run's cards.

        Raises:
            UnknownNameError: there is no such run.
            UsageError: it is itself a description, in which nothing was measured.
        """
        run: Run = open_run(name, root)
        metadata, environment = run.metadata(), run.environment()
        if metadata.device_type != "cuda":
            raise UsageError(
                f"{name} was not run on a GPU ({environment.device}): it has no measured choices",
                hint="name a run of the device, for example the one that fuselab run made there",
            )
        self.run, self.device = metadata.id, environment.device
        self._cards: dict[str, dict[str, Any]] = {}
        for path in sorted(run.path.glob("kernels/*/*/*/*/card.json")):
            source = path.with_name("kernel.py")
            if not source.is_file():
                continue
            card = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            key = comparable_source(source.read_text(encoding="utf-8", errors="replace"))
            # A run that timed configurations says more than one that took the first.
            if key not in self._cards or _timed(card):
                self._cards[key] = card

    def __len__(self) -> int:
        """Kernels that it has."""
        return len(self._cards)

    def choice(self, source: str) -> tuple[RecordedChoice, dict[str, float]] | None:
        """What the run kept for a kernel of this source, and the times of its configurations by their settings."""
        card = self._cards.get(comparable_source(source))
        if card is None or not card.get("config"):
            return None
        times = {_key(t["config"]): t["time_us"] for t in _timed(card) if t.get("time_us") is not None}
        chosen = _key(card["config"])
        return (
            RecordedChoice(run=self.run, device=self.device, config=card["config"], time_us=times.get(chosen)),
            times,
        )


def with_recorded(found: Inspection, recorded: Recorded) -> Inspection:
    """The inspection, with the run's choices where its device is the target's and the sources are the same."""
    targets = [
        msgspec.structs.replace(t, workloads=tuple(_workload(w, t, recorded) for w in t.workloads))
        if t.device == recorded.device
        else t
        for t in found.targets
    ]
    return msgspec.structs.replace(found, targets=tuple(targets))


def _workload(result: WorkloadResult, target: TargetResult, recorded: Recorded) -> WorkloadResult:
    kernels = [_kernel(kernel, Path(target.run), recorded) for kernel in result.kernels]
    mine = sum(kernel.backend == "triton" for kernel in kernels)
    known = sum(kernel.recorded is not None for kernel in kernels)
    note = f"{recorded.run} on {recorded.device} has measured choices for {known} of {mine} kernels"
    return msgspec.structs.replace(result, kernels=kernels, warnings=[*result.warnings, note])


def _kernel(kernel: KernelResult, run: Path, recorded: Recorded) -> KernelResult:
    path = run / kernel.source
    if kernel.backend != "triton" or not kernel.source or not path.is_file():
        return kernel
    answer = recorded.choice(path.read_text(encoding="utf-8", errors="replace"))
    if answer is None:
        return kernel
    choice, times = answer
    candidates = [_candidate(c, _key(choice.config), times) for c in kernel.candidates]
    return msgspec.structs.replace(kernel, recorded=choice, candidates=candidates)


def _candidate(candidate: Candidate, chosen: str, times: Mapping[str, float]) -> Candidate:
    key = _key({**candidate.config, "num_warps": candidate.num_warps, "num_stages": candidate.num_stages})
    return msgspec.structs.replace(candidate, recorded=key == chosen, recorded_us=times.get(key))


def _timed(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    section = card.get("autotune")
    return list(section.get("configurations", ())) if isinstance(section, Mapping) else []


def _key(config: Mapping[str, Any]) -> str:
    """A configuration's settings; how many stages are pipelined is one by default."""
    values = {"num_stages": 1, **config}
    names = sorted(
        n for n, v in values.items() if isinstance(v, int) and (n in _SETTINGS or n.isupper() or "BLOCK" in n)
    )
    return " ".join(f"{name}={values[name]}" for name in names)
