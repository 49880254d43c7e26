"""What cards predicted as their kernels' limiters, and what the runs that timed these kernels made of it.

    python benchmarks/card_verdicts.py runs/silu/latest runs/rms_norm/latest
    python benchmarks/card_verdicts.py runs/*/latest --out benchmarks/results/h200-card-verdicts.json
    python benchmarks/card_verdicts.py --from benchmarks/results/h200-card-verdicts.json

One row a captured kernel: the limiter that its card predicts, and the one that the run's own times of its cell show, as
``limiter.measured`` of the card has it; where they do not decide, ``judged`` is null and ``reason`` says why. Kernels
without a prediction, such as those that ATen brings along, are listed and not counted.

Where benchmarks/results/h200-limiters.json has a kernel of the same experiment and the same ``kernel_id``, ``alone``
is what taking one resource away at a time has found there: another session, a kernel of the same name. A verdict of
*instructions* here rests on the card's own count of them, so ``alone`` is the only evidence that is not the card's.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limiters import memory_share
from rich.console import Console
from rich.table import Table

from fuselab.card.limiter import judge
from fuselab.store import open_run

ALONE = Path(__file__).resolve().parent / "results" / "h200-limiters.json"
LARGEST_CARD = 1 << 26


def row(card: Mapping[str, Any], experiment: str, alone: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """What one card says of its limiter."""
    limiter = card["limiter"]
    measured = limiter.get("measured") or {}
    return {
        "experiment": experiment,
        "workload": card["workload"],
        "variant": card["variant"],
        "direction": card["direction"],
        "name": card["name"],
        "predicted": limiter.get("predicted"),
        "times_us": limiter.get("times_us"),
        "judged": measured.get("limiter"),
        "verdict": measured.get("verdict"),
        "reason": measured.get("reason", limiter.get("absent", "its cell was not timed")),
        "alone": alone.get((experiment, card["kernel_id"])),
    }


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many kernels have a prediction, are decided, are as predicted; and of how many decided ones ``alone`` is
    known and the same."""
    predicted = [r for r in rows if r["predicted"]]
    decided = [r for r in predicted if r["judged"]]
    beside = [r for r in decided if r["alone"]]
    return {
        "predicted": len(predicted),
        "decided": len(decided),
        "confirmed": sum(r["judged"] == r["predicted"] for r in decided),
        "alone": len(beside),
        "alone_same": sum(r["judged"] == r["alone"] for r in beside),
    }


def measured_alone(document: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Limiters of a file of benchmarks/limiters.py by experiment and ``kernel_id``, by the rule as it is now."""
    found = {}
    for kernel in document["kernels"]:
        card, figures = kernel["card"], kernel["measured"]["figures_us"]
        answer = judge(None, {**figures, "memory_share": memory_share(card, figures)})
        found[kernel["experiment"], card["kernel_id"]] = str(answer["limiter"])
    return found


def collected(paths: Sequence[str]) -> dict[str, Any]:
    """The document for these runs."""
    alone = measured_alone(json.loads(ALONE.read_text(encoding="utf-8")))
    runs, rows = [], []
    for path in paths:
        run = open_run(path, Path("runs"))
        metadata = run.metadata()
        device = run.environment().device
        runs.append({"id": metadata.id, "device": device, **{n: metadata.versions.get(n) for n in ("torch", "triton")}})
        for kernel in metadata.kernels:
            card = json.loads(run.read_text(f"kernels/{kernel.kernel_id}/card.json", limit=LARGEST_CARD))
            rows.append(row(card, metadata.experiment, alone))
    return {"runs": runs, "kernels": rows}


def show(document: Mapping[str, Any]) -> None:
    """The counts by experiment and variant, and each kernel that was corrected."""
    rows = document["kernels"]
    table = Table("experiment", "variant", "predicted", "decided", "confirmed", "limiters")
    groups = Counter((r["experiment"], r["variant"]) for r in rows)
    for experiment, variant in groups:
        members = [r for r in rows if (r["experiment"], r["variant"]) == (experiment, variant)]
        found = counts(members)
        limiters = Counter(r["judged"] for r in members if r["judged"])
        words = ", ".join(f"{n} {limiter}" for limiter, n in limiters.most_common())
        table.add_row(experiment, variant, *(str(found[k]) for k in ("predicted", "decided", "confirmed")), words)
    console = Console()
    console.print(table)
    for r in rows:
        if r["verdict"] == "corrected":
            where = f"{r['experiment']} {r['workload']} {r['variant']} {r['direction']} {r['name']}"
            said = f"{where}: predicted {r['predicted']}, judged {r['judged']}: {r['reason']}"
            console.print(said, markup=False, soft_wrap=True)
    found = counts(rows)
    console.print(
        f"{found['predicted']} kernels with a prediction, {found['decided']} decided, "
        f"{found['confirmed']} as predicted; {found['alone_same']} of {found['alone']} as measured alone",
        soft_wrap=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*", help="paths of runs")
    parser.add_argument("--out", type=Path, help="write every row to this file")
    parser.add_argument("--from", dest="recorded", type=Path, help="show a file that --out wrote")
    arguments = parser.parse_args()
    if bool(arguments.run) == bool(arguments.recorded):
        parser.error("give runs, or a file with --from")
    if arguments.recorded:
        document = json.loads(arguments.recorded.read_text(encoding="utf-8"))
    else:
        document = collected(arguments.run)
    show(document)
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
