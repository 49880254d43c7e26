"""How far are predicted times from measured ones? Calibration, table and plot of `fuselab inspect`'s times.

    python benchmarks/prediction.py                               # the table, from the constants as they are
    python benchmarks/prediction.py --fit                         # calibrate anew; write the constants and errors
    python benchmarks/prediction.py --plot docs/images/prediction.svg --json benchmarks/results/h200-prediction.json

The measurements are those of benchmarks/limiters.py: every kernel of the four experiments timed alone on an H200, its
data not in the cache. Each kernel is predicted by a fit that never saw it: once leaving out that kernel, once leaving
out its whole experiment, whose kernels resemble each other. Those errors are reported; the error of the fit to its own
data is not. The launch and the dispatch of programs are read off the empty kernels of the same file.

Beside that the cells of recorded runs, each timed in another session as a whole call, are compared with the sum of
their kernels' predictions, where the cards of all of a cell's kernels are on record.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fuselab.ir.prediction import CALIBRATIONS, Calibration, Error, Work, predict_time, work_of
from fuselab.targets import find, match

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "benchmarks" / "results" / "h200-limiters.json"
RUNS = ("h200-quick.json",)
CONSTANTS = ROOT / "src" / "fuselab" / "ir" / "prediction.toml"
START = {
    "memory_share": 0.9,
    "cache_bytes_a_clock": 33.5,
    "issue_share": 0.85,
    "latency_us": 0.4,
    "barrier_cycles": 20.0,
    "exchange_cycles": 14.0,
    "parallel_in_a_warp": 2.0,
}
"""Where the fit begins, from documents and microbenchmarks; it is held to them as much as `PULL` says."""
PULL = 0.02
OTHERS = 0.3
"""Weight of a kernel that memory does not limit: the bar is about those that it does."""
MEDIAN_BAR, WORST_BAR = 0.10, 0.30


@dataclass(frozen=True)
class Kernel:
    name: str
    experiment: str
    workload: str
    direction: str
    work: Work
    time_us: float
    limiter: str

    @property
    def memory(self) -> bool:
        return self.limiter == "memory"


def kernels(document: dict[str, Any]) -> list[Kernel]:
    """The measured kernels of a file of benchmarks/limiters.py."""
    return [
        Kernel(
            row["card"]["name"],
            row["experiment"],
            row["workload"],
            row["card"]["direction"],
            work_of(row["card"]),
            row["measured"]["figures_us"]["time_us"],
            row["measured"]["judged"]["limiter"],
        )
        for row in document["kernels"]
        if "measured" in row
    ]


def empty_launch(document: dict[str, Any]) -> tuple[float, float]:
    """Launch in us and dispatch in ns a program: the empty kernels' times against their programs, least squares."""
    points = [
        (row["card"]["launch"]["programs"], row["measured"]["figures_us"]["empty_us"])
        for row in document["kernels"]
        if "measured" in row
    ]
    launch = statistics.median(us for programs, us in points if programs < 100)
    many = [(programs, us - launch) for programs, us in points if programs >= 1000]
    slope = sum(p * us for p, us in many) / sum(p * p for p, _ in many)
    return launch, slope * 1e3


def fit(rows: Sequence[Kernel], launch_us: float, dispatch_ns: float) -> Calibration:
    """Constants with the least error over some kernels: a pattern search over their logarithms."""
    target = find("h200")
    names = list(START)
    held = CALIBRATIONS["h200"].error

    def made(point: Sequence[float]) -> Calibration:
        return Calibration(
            source=str(MEASURED.relative_to(ROOT)),
            kernels=len(rows),
            memory_bound=sum(row.memory for row in rows),
            launch_us=launch_us,
            dispatch_ns=dispatch_ns,
            error=held,
            **{name: math.exp(value) for name, value in zip(names, point, strict=True)},
        )

    def loss(point: Sequence[float]) -> float:
        constants = made(point)
        total = PULL * sum((value - math.log(START[n])) ** 2 for n, value in zip(names, point, strict=True))
        for row in rows:
            off = abs(math.log(predict_time(row.work, target, constants).time_us / row.time_us))
            # Squares near zero, lines beyond: one kernel that the model does not know must not bend the others.
            total += (1 if row.memory else OTHERS) * off * off / (off + 0.1)
        return total

    return made(_least(loss, [math.log(START[name]) for name in names]))


def _least(loss: Callable[[Sequence[float]], float], start: Sequence[float]) -> list[float]:
    point, best, step = list(start), loss(start), 0.2
    while step > 0.005:
        before = best
        for index in range(len(point)):
            for move in (step, -step):
                tried = [*point[:index], point[index] + move, *point[index + 1 :]]
                if (found := loss(tried)) < best:
                    point, best = tried, found
        if best > before - 1e-5:
            step /= 2
    return point


def held_out(
    rows: Sequence[Kernel], launch_us: float, dispatch_ns: float, group: Callable[[Kernel], Any]
) -> list[float]:
    """Every kernel's time by a fit without its group."""
    target = find("h200")
    fits = {
        key: fit([row for row in rows if group(row) != key], launch_us, dispatch_ns)
        for key in dict.fromkeys(group(row) for row in rows)
    }
    return [predict_time(row.work, target, fits[group(row)]).time_us for row in rows]


def errors(rows: Sequence[Kernel], times: Sequence[float], *, memory: bool = False) -> list[float]:
    """Relative errors, smallest first."""
    pairs = zip(rows, times, strict=True)
    return sorted(abs(time / row.time_us - 1) for row, time in pairs if row.memory or not memory)


def _factors(rows: Sequence[Kernel], times: Sequence[float]) -> list[float]:
    """By what factor, less one, each is too long or too short."""
    return sorted(math.exp(abs(math.log(t / row.time_us))) - 1 for row, t in zip(rows, times, strict=True))


def calibrated(document: dict[str, Any]) -> tuple[Calibration, list[dict[str, Any]]]:
    """The constants from all kernels, with the errors of fits that had not seen the kernels; and the table."""
    rows = kernels(document)
    launch_us, dispatch_ns = empty_launch(document)
    without_kernel = held_out(rows, launch_us, dispatch_ns, lambda row: (row.experiment, row.workload, row.name))
    without_experiment = held_out(rows, launch_us, dispatch_ns, lambda row: row.experiment)
    both = (without_kernel, without_experiment)
    factors = [_factors(rows, times) for times in both]
    error = Error(  # of the two ways to leave out, the worse
        memory_median=round(max(statistics.median(errors(rows, times, memory=True)) for times in both), 4),
        memory_worst=round(max(errors(rows, times, memory=True)[-1] for times in both), 4),
        all_median=round(max(statistics.median(errors(rows, times)) for times in both), 4),
        all_worst=round(max(errors(rows, times)[-1] for times in both), 4),
        all_ninth=round(max(found[math.ceil(0.9 * len(found)) - 1] for found in factors), 4),
    )
    constants = fit(rows, launch_us, dispatch_ns)
    rounded = {n: float(f"{getattr(constants, n):.4g}") for n in [*START, "launch_us", "dispatch_ns"]}
    table = [
        {
            "experiment": row.experiment,
            "workload": row.workload,
            "direction": row.direction,
            "kernel": row.name,
            "limited_by": row.limiter,
            "measured_us": row.time_us,
            "predicted_us": alone,
            "predicted_without_experiment_us": apart,
            "resident_programs": row.work.resident,
        }
        for row, alone, apart in zip(rows, without_kernel, without_experiment, strict=True)
    ]
    return msgspec.structs.replace(constants, error=error, **rounded), table


def whole_calls(document: dict[str, Any], constants: Calibration) -> list[dict[str, Any]]:
    """Cells of recorded runs, in other sessions, against the sum of their kernels; launches between them included."""
    by_cell: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in document["kernels"]:
        card = row["card"]
        by_cell.setdefault((row["experiment"], card["workload"], card["direction"]), []).append(card)
    target, found = find("h200"), []
    for name in RUNS:
        recorded = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
        for run in recorded["runs"]:
            kernels_of = run["metadata"]["kernels"]
            for cell in run["measurements"]:
                if cell["variant"] != "compile" or cell["status"] != "ok" or not cell.get("cold"):
                    continue
                key = next(
                    (
                        (cell["experiment"], k["workload"], cell["direction"])
                        for k in kernels_of
                        if k["variant"] == "compile" and k["workload"].startswith(_shape(cell["workload"]))
                    ),
                    None,
                )
                cards = by_cell.get(key, []) if key else []
                if not cards or cell["kernels_launched"] != len(cards):
                    continue  # a library's kernel, or a memset, is among them
                total = sum(predict_time(work_of(card), target, constants).time_us for card in cards)
                found.append(
                    {
                        "recorded": name,
                        "cell": f"{key[0]} {key[1]} {key[2]}",
                        "measured_us": cell["median_ns"] / 1e3,
                        "predicted_us": total,
                    }
                )
    return found


def _shape(workload: dict[str, Any]) -> str:
    return "x".join(str(n) for n in workload["shape"]) + "_" + workload["dtype"]


def summary(table: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Median and worst relative error of the kernels limited by memory."""
    found = sorted(abs(row[name] / row["measured_us"] - 1) for row in table if row["limited_by"] == "memory")
    return {"kernels": len(found), "median": statistics.median(found), "worst": found[-1]}


def as_toml(constants: Calibration) -> str:
    head = CONSTANTS.read_text().partition("\n\n")[0]
    plain = msgspec.to_builtins(constants)
    error = plain.pop("error")
    # A number and a string are the same in JSON and TOML.
    tables = (("h200", plain), ("h200.error", error))
    texts = ["\n".join([f"[{name}]", *(f"{n} = {json.dumps(v)}" for n, v in table.items())]) for name, table in tables]
    return "\n\n".join([head, *texts]) + "\n"


def markdown(document: dict[str, Any]) -> str:
    """The table of the documentation."""
    lines = [
        "| kernel | limited by | measured us | predicted us | off | without its experiment |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in document["kernels"]:
        off, apart = (row[key] / row["measured_us"] - 1 for key in ("predicted_us", "predicted_without_experiment_us"))
        lines.append(
            f"| {row['experiment']} {row['workload']} {row['direction']} `{row['kernel'][:44]}` | {row['limited_by']} "
            f"| {row['measured_us']:.1f} | {row['predicted_us']:.1f} | {off:+.0%} | {apart:+.0%} |"
        )
    return "\n".join(lines)


def plot(document: dict[str, Any], path: Path) -> None:
    """Predicted against measured, both on logarithmic axes; the diagonal, and the bar of 30% beside it."""
    import altair as alt

    rows = [
        {**row, "limited by": "memory" if row["limited_by"] == "memory" else "something else"}
        for row in document["kernels"]
    ]
    ends = [0.8, 600.0]
    band = [{"measured_us": x, "low": x / (1 + WORST_BAR), "high": x * (1 + WORST_BAR), "same": x} for x in ends]
    x = alt.X("measured_us:Q", scale=alt.Scale(type="log", domain=ends), title="measured on an H200 (us)")
    scale = alt.Scale(type="log", domain=ends)
    base = alt.Chart(alt.Data(values=band))
    area = base.mark_area(opacity=0.15, color="#888").encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
    line = base.mark_line(color="#888", strokeWidth=1).encode(x=x, y=alt.Y("same:Q", scale=scale))
    points = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=70, opacity=0.85)
        .encode(
            x=x,
            y=alt.Y("predicted_us:Q", scale=scale, title="predicted by a fit without this kernel (us)"),
            color=alt.Color("experiment:N", title="experiment"),
            shape=alt.Shape("limited by:N", title="limited by"),
            tooltip=["kernel:N", "measured_us:Q", "predicted_us:Q"],
        )
    )
    found = summary(document["kernels"], "predicted_us")
    title = (
        f"{found['kernels']} memory-bound kernels: median error {found['median']:.0%}, worst {found['worst']:.0%}; "
        f"band: {WORST_BAR:.0%}"
    )
    chart = (area + line + points).properties(width=420, height=420, title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="write the constants and the errors")
    parser.add_argument("--json", type=Path, help="write the table")
    parser.add_argument("--plot", type=Path, help="write the plot (svg, png)")
    parser.add_argument("--markdown", action="store_true", help="print the table of the documentation")
    options = parser.parse_args()
    measured = json.loads(MEASURED.read_text())
    if match(measured["device"]) is not find("h200"):
        print(f"{MEASURED} is of {measured['device']}", file=sys.stderr)
        return 2
    constants, table = calibrated(measured)
    if options.fit:
        CONSTANTS.write_text(as_toml(constants))
    document = {
        "device": measured["device"],
        "note": "predicted_us: by a fit without this kernel; nothing here was used to predict itself",
        "constants": msgspec.to_builtins(constants),
        "without_the_kernel": summary(table, "predicted_us"),
        "without_its_experiment": summary(table, "predicted_without_experiment_us"),
        "kernels": table,
        "whole_calls": whole_calls(measured, constants),
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        plot(document, options.plot)
    print(markdown(document))
    for row in document["whole_calls"]:
        print(f"{row['cell']} ({row['recorded']}): {row['measured_us']:.1f} us, {row['predicted_us']:.1f} predicted")
    passed = True
    for name in ("without_the_kernel", "without_its_experiment"):
        found = document[name]
        passed &= found["median"] <= MEDIAN_BAR and found["worst"] <= WORST_BAR
        print(f"{name}: median {found['median']:.1%}, worst {found['worst']:.1%} of {found['kernels']} memory-bound")
    print(as_toml(constants))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
