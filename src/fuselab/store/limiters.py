"""What limited the kernels of a run, written to their cards from the run's own measurements."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from fuselab.card.measured import judge_cell
from fuselab.errors import StoreError
from fuselab.records import CellKey, Kernel
from fuselab.store.run import Run

__all__ = ["judge_limiters"]

_LARGEST_CARD = 1 << 26


def judge_limiters(run: Run) -> dict[str, dict[str, Any]]:
    """Fill in ``limiter.measured`` of every card with a prediction whose cell was timed; by ``kernel_id``.

    A card that cannot be read is left as it is: the run is no worse without. Doing it twice changes nothing.

    Raises:
        StoreError: the disk refused.
    """
    metadata = run.metadata()
    kernels = defaultdict(list)
    for kernel in metadata.kernels:
        kernels[_cell(metadata.experiment, kernel)].append(kernel)
    if not any(kernels.values()):
        return {}
    cells = {cell.key: cell for cell in run.measurements()}
    judged: dict[str, dict[str, Any]] = {}
    for key, members in kernels.items():
        if (cell := cells.get(key)) is None:
            continue
        cards = [card for kernel in members if (card := _card(run, kernel.kernel_id)) is not None]
        if len(cards) < len(members):
            continue
        for kernel_id, found in judge_cell(cards, cell).items():
            card = next(card for card in cards if card["kernel_id"] == kernel_id)
            if card["limiter"].get("measured") != found:
                run.write_card(kernel_id, {**card, "limiter": {**card["limiter"], "measured": found}})
            judged[kernel_id] = found
    return judged


def _card(run: Run, kernel_id: str) -> dict[str, Any] | None:
    try:
        card = json.loads(run.read_text(f"kernels/{kernel_id}/card.json", limit=_LARGEST_CARD))
    except (StoreError, ValueError):
        return None
    return card if isinstance(card, dict) and card.get("kernel_id") == kernel_id else None


def _cell(experiment: str, kernel: Kernel) -> CellKey:
    return CellKey(experiment=experiment, variant=kernel.variant, workload=kernel.workload, direction=kernel.direction)
