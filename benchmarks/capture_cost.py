"""What capturing costs: a cold ``torch.compile`` with and without ``fuselab.capture`` around it, side by side.

    python benchmarks/capture_cost.py                   # the four experiments and a transformer block, 5 pairs each
    python benchmarks/capture_cost.py --pairs 9 --json out.json silu transformer
    python benchmarks/capture_cost.py --large --pairs 1          # a function of 10,000 operators alone; many minutes
    python benchmarks/capture_cost.py --large 500 --pairs 1 silu

Each measurement is a process of its own with empty caches: forward and backward of the function are compiled and run
once, and for the captured one everything until the context has closed is in it. Plain and captured take turns, the
order within a pair is drawn. Both have the same settings of the compiler: precompiled headers, which only pay off
from the fifth kernel on and which a capture switches off, are off for both (``--headers`` leaves them on for the
plain one, as a user has it). CPU time is that of the process and of its compilers; it says the same with less noise
on a busy machine. Memory is the largest resident set of the process until then, imports included and its compilers not.

``--large`` is for what grows with the graph: what a capture keeps of every operator, and anything about it that takes
more than twice as long for twice the operators, does not show in functions of ten. Its function has no matrix
multiplication and no gradients: residual blocks of RMSNorm and tanh, ten operators each. ``call_after_us``, which
compiles once more, is not measured of it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

EXPERIMENTS = ("layer_norm_gelu", "rms_norm", "silu", "softmax_dropout")
SUBJECTS = (*EXPERIMENTS, "transformer")
LARGE = "operators"
"""``operators:2000`` is the subject of 2000 operators."""
BAR = 0.15
FIGURES = ("wall_s", "cpu_s", "peak_mib", "call_after_us")


def residual_blocks(operators: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of that many operators: blocks of ten, and of the last one as many as are left."""
    steps: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (
        lambda x, y, weight: x.square(),
        lambda x, y, weight: y.mean(-1, keepdim=True),
        lambda x, y, weight: y + 1e-6,
        lambda x, y, weight: y.rsqrt(),
        lambda x, y, weight: y * x,
        lambda x, y, weight: y * weight,
        lambda x, y, weight: y.tanh(),
        lambda x, y, weight: y * weight,
        lambda x, y, weight: y * 0.125,
        lambda x, y, weight: y + x,
    )

    def blocks(x: Tensor, weight: Tensor) -> Tensor:
        y = x
        for i in range(operators):
            y = steps[i % len(steps)](x, y, weight)
            if i % len(steps) == len(steps) - 1:
                x = y
        return y

    return blocks


def subject(name: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A function or module to compile, and what to call it with."""
    import torch

    torch.manual_seed(0)
    kind, _, operators = name.partition(":")
    if kind == LARGE:
        return residual_blocks(int(operators)), (torch.randn(64, 256), torch.randn(256)), {}
    if name == "transformer":
        layer = torch.nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.1, activation="gelu", batch_first=True)
        return layer.train(), (torch.randn(4, 64, 256, requires_grad=True),), {}
    from fuselab.experiment import load_registry

    experiment = load_registry()[name]
    workload = experiment.workloads("smoke", "cpu")[0]
    inputs = experiment.make_inputs(workload, "cpu")
    return experiment.variant("compile").build(workload), inputs.args, inputs.kwargs


def once(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    import torch
    from torch.utils._pytree import tree_leaves

    outputs = torch.compile(function, dynamic=False)(*args, **kwargs)
    roots = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if roots:
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])


def child(name: str, captured: bool) -> None:
    """One measurement, printed as JSON."""
    import fuselab.capture

    for module in ("torch._dynamo", "torch._inductor.compile_fx"):
        importlib.import_module(module)  # imports are not what is compared
    function, args, kwargs = subject(name)
    with tempfile.TemporaryDirectory(prefix="capture-cost-") as folder:
        cpu, start = _cpu_s(), time.perf_counter()
        if captured:
            with fuselab.capture(Path(folder) / "into"):
                once(function, args, kwargs)
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
            once(function, args, kwargs)
        wall = time.perf_counter() - start
        figures: dict[str, float] = {"wall_s": wall, "cpu_s": _cpu_s() - cpu, "peak_mib": _peak_mib()}
    if not name.startswith(LARGE):
        figures["call_after_us"] = _call_us(function, args, kwargs)
    print(json.dumps(figures))


def _call_us(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    import torch

    compiled = torch.compile(function, dynamic=False)
    with torch.no_grad():
        compiled(*args, **kwargs)
        start = time.perf_counter()
        for _ in range(200):
            compiled(*args, **kwargs)
        return (time.perf_counter() - start) / 200 * 1e6


def _cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def _peak_mib() -> float:
    """Of this process alone: a compiler that it starts is born with its memory, and so counts as much at least."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measured(name: str, captured: bool, headers: bool) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHINDUCTOR_", "TRITON_", "INDUCTOR_"))}
    if not headers:
        environment["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"
    # Compiled in the process that is measured: a pool's CPU time would be missed, and its start-up is noise.
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    command = [sys.executable, __file__, "--child", name, *(["--captured"] if captured else [])]
    timeout = 3600 if name.startswith(LARGE) else 900
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compared(name: str, pairs: int, headers: bool, rng: random.Random) -> dict[str, Any]:
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _ in range(pairs):
        for captured in rng.sample([False, True], 2):
            found[captured].append(measured(name, captured, headers and not captured))
    record: dict[str, Any] = {"subject": name, "plain": found[False], "captured": found[True]}
    for figure in FIGURES:
        if figure not in found[False][0]:
            continue
        ratios = [c[figure] / p[figure] for p, c in zip(found[False], found[True], strict=True)]
        record[f"{figure}_ratio"] = statistics.median(ratios)
        record[f"{figure}_ratios"] = ratios
    return record


def names(subjects: Sequence[str], operators: int | None) -> list[str]:
    """What is measured: the named subjects and the large one; all but the large one where none is asked for."""
    if operators is None:
        return list(subjects or SUBJECTS)
    return [*subjects, f"{LARGE}:{operators}"]


HEADING = (
    f"{'subject':18} {'plain':>9} {'captured':>9} {'wall':>7} {'CPU':>7} "
    f"{'plain':>9} {'captured':>9} {'memory':>7} {'calls after':>12}"
)


def line(record: Mapping[str, Any]) -> str:
    """A row of the table: medians of both kinds, and by how much the captured one takes more."""

    def medians(figure: str) -> list[float]:
        return [statistics.median(row[figure] for row in record[kind]) for kind in ("plain", "captured")]

    def more(figure: str) -> str:
        return f"{record[f'{figure}_ratio'] - 1:+.1%}" if f"{figure}_ratio" in record else "-"

    plain_s, captured_s = medians("wall_s")
    plain_mib, captured_mib = medians("peak_mib")
    return (
        f"{record['subject']:18} {plain_s:8.2f}s {captured_s:8.2f}s {more('wall_s'):>7} {more('cpu_s'):>7} "
        f"{plain_mib:6.0f}MiB {captured_mib:6.0f}MiB {more('peak_mib'):>7} {more('call_after_us'):>12}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; all without one")
    parser.add_argument(
        "--large",
        type=int,
        nargs="?",
        const=10_000,
        metavar="OPERATORS",
        help="a function of that many operators, 10000 without a number; alone unless subjects are named",
    )
    parser.add_argument("--pairs", type=int, default=5, help="pairs of processes for each subject")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--headers", action="store_true", help="leave precompiled headers on for the plain one")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--captured", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.captured)
        return 0
    unknown = set(chosen.subjects) - set(SUBJECTS)
    if unknown:
        parser.error(f"no such subject: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    if chosen.large is not None and chosen.large < 1:
        parser.error(f"--large {chosen.large}: there is no function of fewer than one operator")
    rng = random.Random(chosen.seed)
    records = []
    print(HEADING)
    for name in names(chosen.subjects, chosen.large):
        record = compared(name, chosen.pairs, chosen.headers, rng)
        records.append(record)
        print(line(record), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps({"python": sys.version, "records": records}, indent=1))
    over = [record["subject"] for record in records if record["wall_s_ratio"] > 1 + BAR]
    print(f"over {BAR:.0%}: {', '.join(over)}" if over else f"all within {BAR:.0%}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
