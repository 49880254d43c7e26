"""What capturing costs: a cold ``torch.compile`` with and without ``fuselab.capture`` around it, side by side.

    python benchmarks/capture_cost.py                   # the four experiments and a transformer block, 5 pairs each
    python benchmarks/capture_cost.py --pairs 9 --json out.json silu transformer

Each measurement is a process of its own with empty caches: forward and backward of the function are compiled and run
once, and for the captured one everything until the context has closed is in it. Plain and captured take turns, the
order within a pair is drawn. Both have the same settings of the compiler: precompiled headers, which only pay off
from the fifth kernel on and which a capture switches off, are off for both (``--headers`` leaves them on for the
plain one, as a user has it). CPU time is that of the process and of its compilers; it says the same with less noise
on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXPERIMENTS = ("layer_norm_gelu", "rms_norm", "silu", "softmax_dropout")
SUBJECTS = (*EXPERIMENTS, "transformer")
BAR = 0.15


def subject(name: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A function or module to compile, and what to call it with."""
    import torch

    torch.manual_seed(0)
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
    import torch._dynamo
    import torch._inductor.compile_fx  # imports are not what is compared

    import fuselab.capture

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
        figures: dict[str, float] = {"wall_s": wall, "cpu_s": _cpu_s() - cpu}
    compiled = torch.compile(function, dynamic=False)
    with torch.no_grad():
        compiled(*args, **kwargs)
        start = time.perf_counter()
        for _ in range(200):
            compiled(*args, **kwargs)
        figures["call_after_us"] = (time.perf_counter() - start) / 200 * 1e6
    print(json.dumps(figures))


def _cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def measured(name: str, captured: bool, headers: bool) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHINDUCTOR_", "TRITON_", "INDUCTOR_"))}
    if not headers:
        environment["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"
    # Compiled in the process that is measured: a pool's CPU time would be missed, and its start-up is noise.
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    command = [sys.executable, __file__, "--child", name, *(["--captured"] if captured else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
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
    for figure in ("wall_s", "cpu_s", "call_after_us"):
        ratios = [c[figure] / p[figure] for p, c in zip(found[False], found[True], strict=True)]
        record[f"{figure}_ratio"] = statistics.median(ratios)
        record[f"{figure}_ratios"] = ratios
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; all without one")
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
    rng = random.Random(chosen.seed)
    records = []
    print(f"{'subject':18} {'plain':>9} {'captured':>9} {'wall':>7} {'CPU':>7} {'calls after':>12}")
    for name in chosen.subjects or SUBJECTS:
        record = compared(name, chosen.pairs, chosen.headers, rng)
        records.append(record)
        plain, captured = (statistics.median(r["wall_s"] for r in record[kind]) for kind in ("plain", "captured"))
        print(
            f"{name:18} {plain:8.2f}s {captured:8.2f}s {record['wall_s_ratio'] - 1:+7.1%} "
            f"{record['cpu_s_ratio'] - 1:+7.1%} {record['call_after_us_ratio'] - 1:+12.1%}",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps({"python": sys.version, "records": records}, indent=1))
    over = [record["subject"] for record in records if record["wall_s_ratio"] > 1 + BAR]
    print(f"over {BAR:.0%}: {', '.join(over)}" if over else f"all within {BAR:.0%}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
