"""What limits the kernels of the four experiments: the card's prediction against a measurement, on this GPU.

    PYTHONPATH=src python benchmarks/limiters.py --preset quick --json limiters.json

Every workload is compiled and captured, forward and backward; each kernel is then run alone by its own ``repro.py``:
checked, timed, and timed again with one resource taken away at a time.

- *memory*: the same instructions on data that stays in the cache. The program index is folded (``program_id(0) %
  few``), so that all programs work on the rows of the first few, which together take an eighth of the L2 cache. Nothing
  else of the kernel changes. If that makes it a fifth faster, it waits for memory: for bandwidth where it uses 0.7 or
  more of what good kernels reach, else for its latency.
- *instructions*: the folded kernel with twice as many programs. If it takes 1.6 times as long or more, the
  multiprocessors were busy; if not, programs were waiting.
- *launch*: an empty kernel of the same grid and warps. A kernel that takes less than one and a half times that does
  nothing else that can be seen.

Beside that each kernel's registers and programs a multiprocessor are compared with the driver's own.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from record import without_directories
from rich.console import Console
from rich.table import Table

from fuselab.capture import capture
from fuselab.card.limiter import SUSTAINED, judge, launch_us, limiter_of
from fuselab.experiment import load_registry
from fuselab.records import Direction
from fuselab.targets import Target, match
from fuselab.worker.check import build, run_once

EXPERIMENTS = ("layer_norm_gelu", "softmax_dropout", "rms_norm", "silu")
CACHE_PART = 8


def fold_programs(source: str, axis: int, few: int) -> str:
    """A kernel's source with its program index along one axis folded into the first few.

    Example:
        >>> print(fold_programs("x = tl.program_id(0) * 8 + tl.program_id(1)", 0, 4))
        x = tl.program_id(0) % 4 * 8 + tl.program_id(1)
    """

    class Fold(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.expr:
            self.generic_visit(node)
            folded = ast.unparse(node.func) == "tl.program_id" and ast.unparse(node.args[0]) == str(axis)
            return ast.BinOp(node, ast.Mod(), ast.Constant(few)) if folded else node

    tree = ast.fix_missing_locations(Fold().visit(ast.parse(source)))
    return ast.unparse(tree)


def programs_in_cache(programs: int, footprint: int, cache: int) -> int:
    """How many programs' rows fit in a part of the cache; at least one.

    Example:
        >>> programs_in_cache(16384, 256 << 20, 64 << 20)
        512
    """
    return max(1, min(programs, programs * (cache // CACHE_PART) // max(1, footprint)))


def load_repro(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"repro_{abs(hash(str(path)))}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def empty_kernel(folder: Path) -> Any:
    """A kernel that does nothing: written to a file, because Triton reads a kernel's source."""
    path = folder / "empty_kernel.py"
    path.write_text("import triton\n\n\n@triton.jit\ndef empty(pointer):\n    pass\n")
    spec = importlib.util.spec_from_file_location("empty_kernel", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.empty


def blocks_by_driver(compiled: Any, warps: int) -> int | None:
    """Programs that the driver says a multiprocessor holds."""
    function, shared = getattr(compiled, "function", None), getattr(compiled.metadata, "shared", 0)
    if not isinstance(function, int):
        return None
    count = ctypes.c_int()
    answer = ctypes.CDLL("libcuda.so.1").cuOccupancyMaxActiveBlocksPerMultiprocessor(
        ctypes.byref(count), ctypes.c_void_p(function), ctypes.c_int(warps * 32), ctypes.c_size_t(shared)
    )
    return count.value if answer == 0 else None


def measure(folder: Path, card: dict[str, Any], scratch: Path, empty: Any, repeats: int) -> dict[str, Any]:
    """One kernel: checked, timed as it is, with its data in the cache, with twice the programs, and empty."""
    import torch

    repro = load_repro(folder / "repro.py")
    launch = repro.load()
    checked = repro.check(launch)
    grid, warps = list(repro.KERNEL["grid"]), card["num_warps"]
    axis = max(range(3), key=lambda i: grid[i])
    compiled = launch(repro.arguments(repro.build_buffers(0, 0.0)))
    torch.cuda.synchronize()
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    few = programs_in_cache(grid[axis], card["traffic"]["fewest_bytes"], cache)
    folded = scratch / f"{abs(hash(str(folder)))}_folded.py"
    folded.write_text(fold_programs((folder / "kernel.py").read_text(), axis, few))
    cached = repro.load(folded)
    doubled = list(grid)
    doubled[axis] *= 2
    repro.KERNEL["grid"] = doubled
    twice = repro.load(folded)
    repro.KERNEL["grid"] = grid
    pointer = torch.empty(1, device="cuda")
    figures = {
        "time_us": repro.time_kernel(launch, repeats)["median_us"],
        "empty_us": repro.time_kernel(lambda _: empty[tuple(grid)](pointer, num_warps=warps), repeats)["median_us"],
        "cached_us": repro.time_kernel(cached, repeats, cold=False)["median_us"],
        "cached_twice_us": repro.time_kernel(twice, repeats, cold=False)["median_us"],
    }
    limits = card["occupancy"]["limits"]
    driver = blocks_by_driver(compiled, warps)
    return {
        "check": checked,
        "figures_us": figures,
        "judged": judge(card["limiter"]["predicted"], {**figures, "memory_share": memory_share(card, figures)}),
        "folded_to": few,
        "registers": {"card": card["registers"], "here": getattr(compiled, "n_regs", None)},
        "programs_a_multiprocessor": {"card": min(limits.values()), "driver": driver},
    }


def kernels_of(name: str, preset: str, scratch: Path) -> list[dict[str, Any]]:
    """Capture an experiment's workloads; a row for each generated kernel."""
    import torch

    experiment = load_registry()[name]
    rows = []
    for number, workload in enumerate(experiment.workloads(preset, "cuda")):
        into = scratch / name / str(number)
        torch.compiler.reset()
        inputs = experiment.make_inputs(workload, "cuda")
        with capture(into, variant="compile", workload=workload.key, caches=scratch / "caches" / name) as captured:
            run_once(build(experiment, "compile", workload), inputs, [Direction.FORWARD, Direction.BACKWARD])
        for kernel in captured.kernels:
            folder = (into / kernel.file_path).parent
            if kernel.backend == "triton":
                card = json.loads((folder / "card.json").read_text())
                rows.append({"experiment": name, "workload": workload.label, "folder": folder, "card": card})
    return rows


def report(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="what limits each kernel")
    for column in ("experiment", "workload", "direction", "kernel", "predicted", "measured", "verdict"):
        table.add_column(column, overflow="fold")
    for column in ("us", "model us", "in cache", "twice", "empty", "of peak"):
        table.add_column(column, justify="right")
    for row in rows:
        card = row["card"]
        head = [row["experiment"], row["workload"], card["direction"], card["name"]]
        if "error" in row:
            table.add_row(*head, "", "", row["error"])
            continue
        figures, judged, limiter = row["measured"]["figures_us"], row["measured"]["judged"], card["limiter"]
        model = max(limiter["times_us"].values())
        share = card["traffic"]["fewest_bytes"] / figures["time_us"] / 1e6 / row["peak_tb_per_s"]
        table.add_row(
            *head,
            limiter["predicted"],
            judged["limiter"],
            judged["verdict"],
            *(f"{v:.1f}" for v in (figures["time_us"], model, figures["cached_us"], figures["cached_twice_us"])),
            f"{figures['empty_us']:.1f}",
            f"{share:.0%}",
        )
    return table


def memory_share(card: dict[str, Any], figures: dict[str, float]) -> float:
    """The kernel's fewest bytes over its time, as a part of the bandwidth that good kernels reach."""
    target = find_target(card)
    reached = card["traffic"]["fewest_bytes"] / figures["time_us"] * 1e6
    return reached / (target.bandwidth_bytes_per_s * SUSTAINED["memory"])


def find_target(card: dict[str, Any]) -> Target:
    target = match(card["limiter"]["device"])
    if target is None:
        raise ValueError(f"{card['limiter']['device']} is not a described device")
    return target


def predicted(card: dict[str, Any]) -> str:
    """The limiter of a recorded card by the rule as it is now, its constants for a launch included."""
    target, programs = find_target(card), card["launch"]["programs"]
    resident = min(card["occupancy"]["limits"].values()) * target.multiprocessors
    times = {**card["limiter"]["times_us"], "launch": launch_us(target, programs)}
    return limiter_of(times, at_once=programs <= resident)


def markdown(document: dict[str, Any]) -> str:
    """The table of the documentation."""
    lines = [
        "| kernel | predicted | measured | us | model us | data in cache | twice that | empty |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    right = 0
    for row in document["kernels"]:
        card, found = row["card"], row["measured"]
        times = card["limiter"]["times_us"]
        figures_us = found["figures_us"]
        guess = predicted(card)
        answer = judge(guess, {**figures_us, "memory_share": memory_share(card, figures_us)})["limiter"]
        right += guess == answer
        name = f"{row['experiment']} {row['workload']} {card['direction']} `{card['name']}`"
        figures = [figures_us[key] for key in ("time_us", "cached_us", "cached_twice_us", "empty_us")]
        model = max(time for limiter, time in times.items() if limiter != "launch")
        time, cached, twice, empty = (f"{value:.1f}" for value in figures)
        mark = answer if guess == answer else f"**{answer}**"
        lines.append(f"| {name} | {guess} | {mark} | {time} | {model:.1f} | {cached} | {twice} | {empty} |")
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    head = f"{document['device']}, {versions}: {right} of {len(document['kernels'])} as predicted."
    return "\n".join([head, "", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset", action="append", choices=("smoke", "quick", "full"), help="default: smoke and quick"
    )
    parser.add_argument("--experiment", action="append", choices=EXPERIMENTS)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--markdown", type=Path, help="print the table of a JSON file, judged anew, and do nothing else"
    )
    options = parser.parse_args()
    if options.markdown:
        print(markdown(json.loads(options.markdown.read_text())))
        return 0
    import torch
    import triton

    if not torch.cuda.is_available():
        print("this benchmark needs a GPU", file=sys.stderr)
        return 2
    target = match(torch.cuda.get_device_name())
    if target is None:
        print(f"{torch.cuda.get_device_name()} is not a described device: nothing to predict with", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        empty = empty_kernel(scratch)
        for name in options.experiment or EXPERIMENTS:
            for preset in options.preset or ("smoke", "quick"):
                rows += kernels_of(name, preset, scratch / preset)
        for row in rows:
            folder, card = row.pop("folder"), row["card"]
            row["peak_tb_per_s"] = target.bandwidth_bytes_per_s / 1e12
            absent = [f"{s}: {card[s]['absent']}" for s in ("limiter", "repro", "traffic") if "absent" in card[s]]
            if absent:
                row["error"] = "; ".join(absent)
                continue
            try:
                row["measured"] = measure(folder, card, scratch, empty, options.repeats)
            except Exception as error:  # noqa: BLE001 - the other kernels stand
                row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    Console(width=220).print(report(rows))
    measured = [row for row in rows if "measured" in row]
    right = sum(row["measured"]["judged"]["verdict"] == "confirmed" for row in measured)
    failed = [row for row in measured if not row["measured"]["check"]["passed"]]
    other = [
        row for row in measured if len({v for v in row["measured"]["programs_a_multiprocessor"].values() if v}) > 1
    ]
    print(f"{right} of {len(measured)} predictions confirmed; {len(rows) - len(measured)} kernels not measured")
    print(f"{len(failed)} kernels failed their check; {len(other)} have another occupancy by the driver")
    if options.json:
        versions = {"torch": torch.__version__, "triton": triton.__version__}
        document = {"device": target.device_name, "versions": versions, "kernels": rows}
        plain = without_directories(json.loads(json.dumps(document, default=str)))
        options.json.write_text(json.dumps(plain, indent=1) + "\n")
    return 0 if measured and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
