"""The kernels as they are compiled: every configuration that Inductor would try, and those that fail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fuselab.offline.messages import Candidate, KernelFailure
from fuselab.records import Kernel

__all__ = ["KernelWatch", "candidates_of"]

_CHOSEN_BY = "the heuristic's first choice; nothing was measured"


class KernelWatch:
    """Takes note of what becomes of each Triton kernel."""

    def __init__(self) -> None:
        self.candidates: dict[str, list[Candidate]] = {}
        self.failures: list[KernelFailure] = []

    def failed(self, name: str, error: Exception) -> None:
        """A kernel of which no configuration compiles or fits."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = f"{type(error).__name__}: {' '.join(lines[:4])[:500]}"
        self.failures.append(KernelFailure(kernel=name, error=text))

    def compiled(self, name: str, autotuner: Any) -> None:
        """A kernel that compiled: note its configurations and keep the first, as where nothing is tuned."""
        launchers = list(getattr(autotuner, "launchers", ()))
        by_config = {id(launcher.config): launcher for launcher in launchers}
        found = []
        for result in list(getattr(autotuner, "compile_results", ())):
            launcher = by_config.get(id(result.config))
            found.append(_candidate(result.config, launcher, first=bool(launchers) and launcher is launchers[0]))
        self.candidates[name] = found
        # A forward and a backward may each have a kernel of one name: the compilation tells them apart.
        self.candidates.update({f"{name}@{c.triton_hash}": found for c in found if c.triton_hash})
        if launchers:
            autotuner.launchers[:] = launchers[:1]

    def found(self, name: str, candidates: list[Candidate]) -> None:
        """A hand-written kernel's configurations; where none of them fits on the device it has failed."""
        self.candidates[name] = candidates
        if candidates and all(candidate.problem for candidate in candidates):
            self.failures.append(KernelFailure(kernel=name, error=candidates[0].problem))

    def completed(self, kernel: Kernel, into: Path) -> Kernel:
        """The kernel's record, its card saying how the configuration was chosen and which the others are."""
        if kernel.backend != "triton" or not self.candidates.get(kernel.name):
            return kernel
        card = into / Path(kernel.file_path).parent / "card.json"
        if card.is_file():
            document = msgspec.json.decode(card.read_bytes(), type=dict[str, Any])
            candidates = candidates_of(self.candidates, kernel.name, document)
            document["configuration_chosen_by"] = _CHOSEN_BY
            document["candidates"] = msgspec.to_builtins(candidates)
            card.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
        return kernel


def candidates_of(known: Mapping[str, list[Candidate]], name: str, card: Mapping[str, Any]) -> list[Candidate]:
    """The configurations of a kernel, by its compilation where that is known, else by its name."""
    return known.get(f"{name}@{card.get('triton_hash')}") or known.get(name, [])


def _candidate(config: Any, launcher: Any, *, first: bool) -> Candidate:
    return Candidate(
        config={name: value for name, value in dict(config.kwargs).items() if isinstance(value, bool | int | str)},
        num_warps=int(config.num_warps),
        num_stages=int(config.num_stages),
        first=first,
        registers=getattr(launcher, "n_regs", None),
        spills=getattr(launcher, "n_spills", None),
        shared_bytes=getattr(launcher, "shared", None),
        triton_hash=str(getattr(launcher, "cache_hash", "") or ""),
        problem="" if launcher is not None else "takes more shared memory or threads than the device has",
    )
