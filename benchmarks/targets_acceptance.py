"""Has every kernel of the examples and experiments every stage for every target, without a GPU?

    python benchmarks/targets_acceptance.py --out targets.json                  # everything: an hour on two cores
    python benchmarks/targets_acceptance.py --widths 256,131072 --seconds 600   # what ten minutes allow

Examples (a GPT-2 block with attention, a Llama MLP, a ViT block, a convolution block) and the four experiments, in
float32 and bfloat16, the experiments at widths from 256 to 131072, are inspected for an NVIDIA device of two
generations and one of AMD's. A kernel that lacks a stage of its vendor, a configuration that did not compile, and a
program that was not traced to its end each have to name a reason: what has none is listed as a fault, and the exit
code is 1. The file is written after each case, so what was done stands when it is interrupted, and `--resume` goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
WIDTHS = (256, 131072, 4096, 1024, 16384, 65536)
"""The ends first: where time runs out they have been seen."""
ELEMENTS = 1 << 24
"""Of an input: rows are as many as make it that large, 64 at least."""
STAGES = {
    "sm": ("triton", "ttir", "ttgir", "llir", "ptx", "cubin", "sass"),
    "gfx": ("triton", "ttir", "ttgir", "llir", "amdgcn"),
}


def _example(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{file}", EXAMPLES / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Dynamo imports what a traced method's globals belong to
    spec.loader.exec_module(module)
    return module


# --- the examples in bfloat16: functions of this file, as `inspect` takes them --------------------------------------


class GPT2BlockBf16(nn.Module):
    """The block of examples/gpt2_block.py, parameters and all in bfloat16."""

    def __init__(self):
        super().__init__()
        self.block = _example("gpt2_block").block.to(torch.bfloat16)

    def forward(self, x):
        return self.block(x)


class LlamaMLPBf16(nn.Module):
    """Of examples/llama_mlp.py."""

    def __init__(self):
        super().__init__()
        self.block = _example("llama_mlp").LlamaMLP(4096, 14336).to(torch.bfloat16)

    def forward(self, x):
        return self.block(x)


class ViTBlockBf16(nn.Module):
    """Of examples/vit_block.py."""

    def __init__(self):
        super().__init__()
        self.block = _example("vit_block").ViTBlock(192, 3).to(torch.bfloat16)

    def forward(self, x):
        return self.block(x)


class ConvBlockBf16(nn.Module):
    """Of examples/conv_block.py."""

    def __init__(self):
        super().__init__()
        self.block = _example("conv_block").ConvNeXtBlock(64).to(torch.bfloat16)

    def forward(self, x):
        return self.block(x)


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    arguments: tuple[str, ...] = ()
    shape: str = ""
    dtype: str = ""


def cases(widths: tuple[int, ...]) -> list[Case]:
    """The examples, then the experiments by width."""
    own = str(Path(__file__).resolve())
    found = [
        Case(f"example {file} f32", f"{EXAMPLES / file}.py:{name}")
        for file, name in (
            ("gpt2_block", "block"),
            ("llama_mlp", "LlamaMLP"),
            ("vit_block", "ViTBlock"),
            ("conv_block", "ConvNeXtBlock"),
        )
    ]
    for name, shape in (
        ("GPT2BlockBf16", "1,64,256"),
        ("LlamaMLPBf16", "1,2048,4096"),
        ("ViTBlockBf16", "2,197,192"),
        ("ConvBlockBf16", "2,64,28,28"),
    ):
        found.append(Case(f"example {name}", f"{own}:{name}", (f"x=bf16[{shape}]:requires_grad",)))
    for width in widths:
        shape = f"{max(64, ELEMENTS // width)}x{width}"
        for dtype in ("bf16", "f32"):
            found += [
                Case(f"{experiment} {dtype} {width}", experiment, shape=shape, dtype=dtype)
                for experiment in ("rms_norm", "layer_norm_gelu", "softmax_dropout", "silu")
            ]
    return found


def faults(kernel: Any, arch: str, failed: set[str]) -> list[str]:
    """What a kernel lacks without a reason; a kernel of a library has no stages to lack."""
    if kernel.backend != "triton" or kernel.name in failed:
        return []
    expected = STAGES["gfx" if arch.startswith("gfx") else "sm"]
    said = [f"no {s} and no reason" for s in expected if s not in kernel.stages and not kernel.absent.get(s)]
    if kernel.registers is None:
        said.append("not compiled")
    if [c.first for c in kernel.candidates].count(True) != 1:
        said.append("no first choice among its configurations")
    said += [
        f"configuration {c.config} has no registers and no reason"
        for c in kernel.candidates
        if c.registers is None and not c.problem
    ]
    return said


def summary(case: Case, found: Any, seconds: float) -> dict[str, Any]:
    """One case: by target its kernels, what they lack, and the reasons that were given."""
    targets = {}
    for result in found.targets:
        (workload,) = result.workloads
        failed = {failure.kernel for failure in workload.failures}
        triton = [k for k in workload.kernels if k.backend == "triton"]
        lacking = {k.name: said for k in triton if (said := faults(k, result.arch, failed))}
        if workload.ok and not triton and not workload.calls:
            lacking["(program)"] = ["no kernel and no library call"]
        targets[result.target] = {
            "ok": workload.ok,
            "reason": workload.reason,
            "way": workload.way,
            "kernels": len(triton),
            "library_calls": len(workload.calls),
            "configurations": sum(len(k.candidates) for k in triton),
            "configurations_that_do_not_fit": sum(bool(c.problem) for k in triton for c in k.candidates),
            "reasons": dict(Counter(f"{s}: {why}" for k in triton for s, why in k.absent.items())),
            "not_compiled": {failure.kernel: failure.error for failure in workload.failures},
            "faults": lacking,
            "seconds": {name: round(value, 1) for name, value in workload.seconds.items()},
        }
    return {"case": case.name, "seconds": round(seconds, 1), "targets": targets}


def document(results: list[dict[str, Any]], names: list[str], left: int) -> dict[str, Any]:
    """The figures over all cases, and every case."""
    every = [target for result in results for target in result["targets"].values()]
    triton = importlib.util.find_spec("triton")
    return {
        "versions": {"torch": torch.__version__, "triton": _version("triton") if triton else "none"},
        "targets": names,
        "cases": len(results),
        "cases_not_run": left,
        "programs": len(every),
        "programs_traced": sum(t["ok"] for t in every),
        "kernels": sum(t["kernels"] for t in every),
        "kernels_with_faults": sum(len(t["faults"]) for t in every),
        "kernels_not_compiled": sum(len(t["not_compiled"]) for t in every),
        "configurations": sum(t["configurations"] for t in every),
        "configurations_that_do_not_fit": sum(t["configurations_that_do_not_fit"] for t in every),
        "results": results,
    }


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="h100,b200,mi300x")
    parser.add_argument("--widths", default=",".join(str(w) for w in WIDTHS))
    parser.add_argument("--case", action="append", help="only cases with this in their name")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after as many")
    parser.add_argument("--jobs", type=int, help="processes beside each other: as many as cores")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true", help="keep the cases of --out that have no fault")
    options = parser.parse_args()
    from fuselab.offline import inspect

    names = options.target.split(",")
    asked = cases(tuple(int(w) for w in options.widths.split(",")))
    if options.case:
        asked = [case for case in asked if any(part in case.name for part in options.case)]
    results: list[dict[str, Any]] = []
    if options.resume and options.out and options.out.is_file():
        before = json.loads(options.out.read_text())["results"]
        results = [
            r for r in before if set(r["targets"]) == set(names) and not any(_bad(t) for t in r["targets"].values())
        ]
        asked = [case for case in asked if case.name not in {r["case"] for r in results}]
    done = len(results)
    began = time.monotonic()
    for case in asked:
        if time.monotonic() - began > options.seconds:
            break
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            found = inspect(
                case.what,
                case.arguments,
                targets=names,
                shapes=[case.shape] if case.shape else [],
                dtypes=[case.dtype] if case.dtype else [],
                out=directory,
                jobs=options.jobs,
            )
            results.append(summary(case, found, time.monotonic() - started))
        _print(results[-1])
        if options.out:
            text = json.dumps(document(results, names, len(asked) + done - len(results)), indent=1)
            options.out.write_text(text + "\n")
    whole = document(results, names, len(asked) + done - len(results))
    print({name: value for name, value in whole.items() if name != "results"})
    return 1 if whole["kernels_with_faults"] or whole["programs_traced"] < whole["programs"] else 0


def _bad(target: dict[str, Any]) -> bool:
    return not target["ok"] or bool(target["faults"]) or bool(target["not_compiled"])


def _print(result: dict[str, Any]) -> None:
    for name, target in result["targets"].items():
        mark = "FAULT" if _bad(target) else "ok"
        print(f"{mark:6}{result['case']:36}{name:10}{target['kernels']:3} kernels  {result['seconds']:.0f} s")
        for kernel, said in {**target["faults"], **target["not_compiled"]}.items():
            print(f"      {kernel}: {said}")
        if target["reason"]:
            print(f"      {target['reason']}")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
