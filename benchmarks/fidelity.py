"""Is what `fuselab inspect --target h200` shows without a GPU what torch.compile generates on one?

    python benchmarks/fidelity.py --out fidelity.json            # both halves, on the GPU's own machine
    python benchmarks/fidelity.py --cases rms_norm --target h200

First torch.compile compiles every case on the GPU, in processes of their own, its kernels captured as they come. Then
`inspect` generates the same cases for the described device, in processes that see no GPU. A Triton kernel counts as
identical when its whole source is, the device's properties included, up to paths and hashes. Per direction each source
is matched once; what is left is listed beside its counterpart with the first lines that differ.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
WIDTHS = (256, 1024, 4096, 16384)
ROWS = 2048
DEADLINE_S = 200.0


# --- the cases: functions of this file, and the examples ------------------------------------------------------------


def rms_norm(x, w):
    return F.rms_norm(x, (x.shape[-1],), w, 1e-6)


def layer_norm_gelu(x, w, b):
    return F.gelu(F.layer_norm(x, (x.shape[-1],), w, b))


def softmax_dropout(x):
    return F.dropout(torch.softmax(x, -1), 0.1, training=True)


def swiglu(a, b):
    return F.silu(a) * b


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def masked_attention(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def cross_entropy(x, w, target):
    return F.cross_entropy((x @ w.t()).float(), target)


class MLPBlock(nn.Module):
    """Pre-norm MLP with dropout and a residual, in bf16."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(1024, dtype=torch.bfloat16)
        self.up = nn.Linear(1024, 4096, dtype=torch.bfloat16)
        self.down = nn.Linear(4096, 1024, dtype=torch.bfloat16)

    def forward(self, x):
        return x + F.dropout(self.down(F.gelu(self.up(self.norm(x)))), 0.1, training=True)


class AttentionBlock(nn.Module):
    """Pre-norm causal attention with views of one projection, in bf16."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(1024, dtype=torch.bfloat16)
        self.qkv = nn.Linear(1024, 3072, dtype=torch.bfloat16)
        self.out = nn.Linear(1024, 1024, dtype=torch.bfloat16)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, tokens, 3, 16, width // 16).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class ConvBatchNorm(nn.Module):
    """Convolution, batch normalisation in training, ReLU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 128, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(128)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


@dataclass(frozen=True)
class Case:
    name: str
    target: str
    arguments: tuple[str, ...] = ()


def cases() -> list[Case]:
    own = str(Path(__file__).resolve())
    found = []
    for dtype in ("bf16", "f32"):
        for width in WIDTHS:
            x = f"{dtype}[{ROWS},{width}]:requires_grad"
            w = f"{dtype}[{width}]:requires_grad"
            for name, arguments in (
                ("rms_norm", (f"x={x}", f"w={w}")),
                ("layer_norm_gelu", (f"x={x}", f"w={w}", f"b={w}")),
                ("softmax_dropout", (f"x={x}",)),
                ("swiglu", (f"a={x}", f"b={x}")),
            ):
                found.append(Case(f"{name} {dtype} {width}", f"{own}:{name}", arguments))
        qkv = f"{dtype}[4,16,512,64]:requires_grad"
        three = (f"q={qkv}", f"k={qkv}", f"v={qkv}")
        found.append(Case(f"attention {dtype}", f"{own}:attention", three))
        found.append(Case(f"masked_attention {dtype}", f"{own}:masked_attention", (*three, "mask=bool[512,512]")))
    found.append(Case("mlp_block bf16", f"{own}:MLPBlock", ("x=bf16[8,512,1024]:requires_grad",)))
    found.append(Case("attention_block bf16", f"{own}:AttentionBlock", ("x=bf16[8,512,1024]:requires_grad",)))
    found.append(Case("conv_batch_norm f32", f"{own}:ConvBatchNorm", ("x=f32[16,64,56,56]:requires_grad",)))
    logits = ("x=bf16[2048,1024]:requires_grad", "w=bf16[32000,1024]:requires_grad", "target=i64[2048]<32000")
    found.append(Case("cross_entropy bf16", f"{own}:cross_entropy", logits))
    for file, name in (
        ("swiglu_mlp.py", "Block"),
        ("llama_mlp.py", "LlamaMLP"),
        ("vit_block.py", "ViTBlock"),
        ("conv_block.py", "ConvNeXtBlock"),
        ("gpt2_block.py", "block"),
    ):
        path = EXAMPLES / file
        if path.is_file() and _defines(path, name):
            found.append(Case(f"example {path.stem}", f"{path}:{name}"))
    return found


def _defines(path: Path, name: str) -> bool:
    from fuselab.experiments.user_source import read_source

    return name in read_source(path).definitions


# --- the real half: on the GPU, a process for some cases ------------------------------------------------------------


def compile_for_real(names: list[str], into: Path) -> None:
    """Compile cases on the GPU; one JSON file a case."""
    from fuselab.capture import capture
    from fuselab.experiments.user import experiment_from
    from fuselab.records import Direction
    from fuselab.worker.check import build, run_once

    by_name = {case.name: case for case in cases()}
    for name in names:
        case = by_name[name]
        started = time.perf_counter()
        found: dict[str, Any] = {"case": name, "kernels": [], "libraries": [], "error": ""}
        torch.compiler.reset()
        function = inputs = None
        try:
            experiment = experiment_from(case.target, case.arguments)
            (workload,) = experiment.workloads("quick", "cuda")
            with tempfile.TemporaryDirectory() as folder:
                inputs = experiment.make_inputs(workload, "cuda")
                function = build(experiment, "compile", workload)
                with capture(Path(folder), variant="compile", workload=workload.key) as captured:
                    run_once(function, inputs, [Direction.FORWARD, Direction.BACKWARD])
                found |= _described([(k, Path(folder) / k.file_path) for k in captured.kernels])
        except Exception as error:  # noqa: BLE001 - one case must not end the others
            found["error"] = f"{type(error).__name__}: {str(error)[:500]}"
        found["seconds"] = round(time.perf_counter() - started, 2)
        (into / f"{_safe(name)}.json").write_text(json.dumps(found))
        function = inputs = None  # the next case may need the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _described(kernels: list[tuple[Any, Path]]) -> dict[str, Any]:
    from fuselab.offline.differences import comparable_source

    triton = [(k, path) for k, path in kernels if k.backend == "triton"]
    return {
        "kernels": [
            {
                "name": k.name,
                "direction": k.direction.value,
                "source": comparable_source(path.read_text(encoding="utf-8"), device=True),
                "registers": k.registers,
                "config": k.num_warps,
            }
            for k, path in triton
        ],
        "libraries": [f"{k.direction.value} {k.name} x{k.launches}" for k, _ in kernels if k.backend == "extern"],
    }


# --- the described half: processes without a GPU --------------------------------------------------------------------


def inspect_case(case: Case, target: str, out: Path, way: str | None) -> dict[str, Any]:
    from fuselab.offline import inspect

    started = time.perf_counter()
    found: dict[str, Any] = {"case": case.name, "kernels": [], "libraries": [], "error": ""}
    try:
        result = inspect(case.target, case.arguments, targets=[target], out=out, way=way, deadline_s=DEADLINE_S)
        (shown,) = result.targets[0].workloads
        run = Path(result.targets[0].run)
        found |= _described([(k, run / k.source) for k in shown.kernels])
        found |= {"error": shown.reason, "way": shown.way, "warnings": shown.warnings}
        found["failures"] = [f"{f.kernel}: {f.error}" for f in shown.failures]
    except Exception as error:  # noqa: BLE001 - one case must not end the others
        found["error"] = f"{type(error).__name__}: {str(error)[:500]}"
    found["seconds"] = round(time.perf_counter() - started, 2)
    return found


# --- the comparison -------------------------------------------------------------------------------------------------


def compare(case: str, real: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """How many sources are identical, and each other one beside what it should have been."""
    identical, rest = 0, []
    for direction in ("forward", "backward"):
        theirs = [k for k in real["kernels"] if k["direction"] == direction]
        ours = [k for k in described["kernels"] if k["direction"] == direction]
        left = Counter(k["source"] for k in theirs)
        missed = []
        for kernel in ours:
            if left[kernel["source"]] > 0:
                left[kernel["source"]] -= 1
                identical += 1
            else:
                missed.append(kernel)
        wanted = []
        for kernel in theirs:
            if left[kernel["source"]] > 0:
                left[kernel["source"]] -= 1
                wanted.append(kernel)
        for kernel in missed:
            counterpart = _nearest(kernel, wanted)
            if counterpart is not None:
                wanted.remove(counterpart)
            rest.append({"direction": direction, "described": kernel["name"], **_difference(kernel, counterpart)})
        rest += [
            {"direction": direction, "described": None, "real": k["name"], "cause": "not generated by inspect"}
            for k in wanted
        ]
    total = max(len(real["kernels"]), len(described["kernels"]))
    return {
        "case": case,
        "real": len(real["kernels"]),
        "described": len(described["kernels"]),
        "identical": identical,
        "total": total,
        "rest": rest,
        "libraries_same": sorted(real["libraries"]) == sorted(described["libraries"]),
        "libraries": {"real": real["libraries"], "described": described["libraries"]},
        "errors": {k: v["error"] for k, v in (("real", real), ("described", described)) if v["error"]},
        "way": described.get("way", ""),
        "seconds": {"real": real.get("seconds"), "described": described.get("seconds")},
    }


def _nearest(kernel: dict[str, Any], among: list[dict[str, Any]]) -> dict[str, Any] | None:
    same_name = [k for k in among if k["name"] == kernel["name"]]
    if same_name or not among:
        return same_name[0] if same_name else None
    return max(among, key=lambda k: difflib.SequenceMatcher(None, k["source"], kernel["source"]).quick_ratio())


def _difference(ours: dict[str, Any], theirs: dict[str, Any] | None) -> dict[str, Any]:
    if theirs is None:
        return {"real": None, "cause": "not generated on the device"}
    lines = [
        line
        for line in difflib.unified_diff(theirs["source"].splitlines(), ours["source"].splitlines(), n=0, lineterm="")
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    return {"real": theirs["name"], "cause": _cause(ours, theirs, lines), "lines": _shown(lines)}


def _cause(ours: dict[str, Any], theirs: dict[str, Any], lines: list[str]) -> str:
    """What sort of difference it is, from the lines that differ."""
    stripped = [line[1:].strip() for line in lines]
    if all(line.startswith(("triton_meta=", "inductor_meta=")) for line in stripped):
        keys = _keys(lines)
        return f"the same body; settings differ: {', '.join(keys) or 'order'}"
    if ours["name"] != theirs["name"]:
        return "other operators are fused, or they were decomposed differently"
    return "the same operators, another body"


def _keys(lines: list[str]) -> list[str]:
    """Keys of the metadata dictionaries whose values differ."""
    sides: dict[str, set[str]] = {"+": set(), "-": set()}
    for line in lines:
        sides[line[0]] |= set(line[1:].replace("DeviceProperties(", "").split(", "))
    return sorted(sides["+"] ^ sides["-"])[:12]


def _shown(lines: list[str]) -> list[str]:
    return [line[:400] for line in lines[:12]]


# --- the command ----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("fidelity.json"))
    parser.add_argument("--target", default="h200")
    parser.add_argument("--cases", default="", help="only cases whose name contains one of these, with commas between")
    parser.add_argument("--way", choices=("described", "rewritten"), default=None)
    parser.add_argument("--jobs", type=int, default=0, help="described processes beside each other")
    parser.add_argument("--real-jobs", type=int, default=6, help="processes on the GPU beside each other")
    parser.add_argument("--real", nargs="*", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.real is not None:
        compile_for_real(options.real, options.into)
        return 0
    wanted = [case for case in cases() if _matches(case.name, options.cases)]
    cores = len(os.sched_getaffinity(0))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fidelity-") as folder:
        real = _real_half([case.name for case in wanted], Path(folder), options.real_jobs)
        halfway = time.perf_counter()
        with ThreadPoolExecutor(options.jobs or max(1, cores - 1)) as pool:
            runs = Path(folder) / "runs"
            shown = list(pool.map(lambda case: inspect_case(case, options.target, runs, options.way), wanted))
    compared = [compare(case.name, real[case.name], described) for case, described in zip(wanted, shown, strict=True)]
    document = _document(compared, options.target, halfway - started, time.perf_counter() - halfway)
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    _print(document)
    return 0


def _matches(name: str, parts: str) -> bool:
    return not parts or any(part and part in name for part in parts.split(","))


def _real_half(names: list[str], into: Path, jobs: int) -> dict[str, dict[str, Any]]:
    """Start some processes on the GPU and read what they leave; a case without an answer says why."""
    processes = []
    for index in range(min(jobs, len(names))):
        log = (into / f"log{index}").open("wb")
        command = [sys.executable, str(Path(__file__).resolve()), "--into", str(into), "--real", *names[index::jobs]]
        processes.append(
            (
                subprocess.Popen(
                    command, stdout=log, stderr=log, env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
                ),
                log,
            )
        )
    said = []
    for process, log in processes:
        try:
            code = process.wait(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        log.close()
        said.append((code, Path(log.name).read_text(errors="replace")[-400:]))
    found = {}
    for number, name in enumerate(names):
        path = into / f"{_safe(name)}.json"
        code, words = said[number % len(said)]
        missing = {"kernels": [], "libraries": [], "error": f"the process ended with {code}: {words}"}
        found[name] = json.loads(path.read_text()) if path.is_file() else missing
    return found


def _document(compared: list[dict[str, Any]], target: str, real_s: float, described_s: float) -> dict[str, Any]:
    total, identical = sum(c["total"] for c in compared), sum(c["identical"] for c in compared)
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU: both halves were described"
    return {
        "target": target,
        "device": device,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0], **_triton()},
        "seconds": {"real": round(real_s, 1), "described": round(described_s, 1)},
        "cases": len(compared),
        "cases_identical": sum(c["identical"] == c["total"] and not c["errors"] for c in compared),
        "kernels": total,
        "identical": identical,
        "share": identical / total if total else None,
        "causes": dict(Counter(r["cause"] for c in compared for r in c["rest"]).most_common()),
        "results": compared,
    }


def _triton() -> dict[str, str]:
    try:
        import triton
    except ImportError:
        return {}
    return {"triton": triton.__version__}


def _safe(name: str) -> str:
    return name.replace(" ", "_")


def _print(document: dict[str, Any]) -> None:
    for result in document["results"]:
        mark = "same" if result["identical"] == result["total"] and not result["errors"] else "DIFFERS"
        libraries = "" if result["libraries_same"] else "  library calls differ"
        print(f"{mark:8}{result['case']:28} {result['identical']}/{result['total']}{libraries}  {result['seconds']}")
        for where, error in result["errors"].items():
            print(f"          {where}: {error[:300]}")
        for rest in result["rest"]:
            print(f"          {rest['direction']} {rest['described']} / {rest.get('real')}: {rest['cause'][:300]}")
    share = document["share"]
    print(
        f"{document['identical']} of {document['kernels']} kernels identical ({share:.1%})"
        if share is not None
        else "no kernels"
    )
    print(f"{document['cases_identical']} of {document['cases']} cases; {document['seconds']} s; {document['device']}")


if __name__ == "__main__":
    raise SystemExit(main())
