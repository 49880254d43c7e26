"""Run one captured kernel alone: build its inputs, run it, check it, time it. Nothing but torch (and triton) is needed.

Usage: python repro.py [--seed N] [--repeats N] [--json]

Exit codes: 0 the check passed, 1 it failed, 2 it cannot run here (the kernel is for a GPU and there is none).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# [this kernel
KERNEL: dict[str, Any] = {}
"""Name, backend, buffers, arguments, grid and configuration; written by whoever captured the kernel."""
OPERATORS = ""
"""The ATen operators that it computes, as ``def operators(torch, inputs, drawn)``; empty where they are not known."""
# this kernel]

DEVICES = {"triton": "cuda", "cpp": "cpu"}
"""Where the kernels of a backend run."""
TOLERANCE = {"float64": 1e-9, "float32": 3e-4, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest difference, relative to the element plus the root mean square of its tensor: several roundings of a result,
and in float32 what a device's own exponentials and sums in another order make."""


class CannotRunHereError(Exception):
    """The kernel needs something that this machine does not have."""


class OperatorsFailedError(Exception):
    """The captured operators cannot be called one by one on this machine."""


def require_device() -> None:
    """Raise where this kernel cannot run."""
    try:
        import torch
    except ImportError as error:
        raise CannotRunHereError(f"torch is not installed: {error}") from error
    if KERNEL["backend"] == "triton":
        if not torch.cuda.is_available():
            raise CannotRunHereError(f"{KERNEL['name']} is a Triton kernel and needs a GPU; torch sees none here")
        if importlib.util.find_spec("triton") is None:
            raise CannotRunHereError(f"{KERNEL['name']} is a Triton kernel and triton is not installed")


def build_buffers(seed: int = 0, fill: float | None = None) -> dict[str, Any]:
    """The memory that the kernel works on: inputs random, outputs filled with ``fill`` (nothing: NaN, or zero)."""
    import torch

    device = DEVICES[KERNEL["backend"]]
    generator = torch.Generator(device=device).manual_seed(seed)
    buffers: dict[str, Any] = {}
    for name, wanted in KERNEL["buffers"].items():
        dtype = getattr(torch, wanted["dtype"])
        size = (max(1, wanted["elements"]),)
        if not wanted["read"]:
            value = (math.nan if fill is None else fill) if dtype.is_floating_point else 0
            buffers[name] = torch.full(size, value, device=device, dtype=torch.float32).to(dtype)
        elif dtype.is_floating_point or dtype.is_complex:
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            buffers[name] = torch.randn(size, generator=generator, device=device, dtype=wide).to(dtype)
        else:
            # Small enough to be an index of whatever has two elements, and a flag.
            buffers[name] = torch.randint(0, 2, size, generator=generator, device=device).to(dtype)
    return buffers


def arguments(buffers: dict[str, Any]) -> list[Any]:
    """The launch's arguments, as views of the buffers."""
    made: list[Any] = []
    for argument in KERNEL["arguments"]:
        if "buffer" in argument:
            made.append(
                buffers[argument["buffer"]].as_strided(argument["shape"], argument["stride"], argument["offset"])
            )
        else:
            made.append(argument["value"])
    return made


def load(path: Path | None = None) -> Callable[[list[Any]], Any]:
    """Compile the kernel; what is returned launches it with a list of arguments."""
    file = path or Path(__file__).resolve().parent / KERNEL["file"]
    return _load_triton(file) if KERNEL["backend"] == "triton" else _load_cpp(file)


def _load_cpp(file: Path) -> Callable[[list[Any]], Any]:
    from torch._inductor.async_compile import AsyncCompile

    compiler = AsyncCompile()
    scope: dict[str, Any] = {"kernel": compiler.cpp_pybinding(KERNEL["signature"], file.read_text(encoding="utf-8"))}
    compiler.wait(scope)
    kernel = scope["kernel"]
    return lambda given: kernel(*given)


def _load_triton(file: Path) -> Callable[[list[Any]], Any]:
    import torch
    import triton

    name = f"repro_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    kernel = getattr(module, KERNEL["function"])
    if KERNEL["grid"] is None or KERNEL["config"] is None:
        # Nothing was launched when it was captured: Inductor's launcher chooses a configuration now.
        return lambda given: kernel.run(*given, stream=torch.cuda.current_stream().cuda_stream)
    compiled = kernel if isinstance(kernel, triton.runtime.JITFunction) else kernel.fn
    grid = tuple(KERNEL["grid"])
    names, config = KERNEL["names"], {**KERNEL["config"], **KERNEL["options"]}
    return lambda given: compiled[grid](**dict(zip(names, given, strict=True)), **config)


def written(buffers: dict[str, Any], given: list[Any]) -> dict[str, Any]:
    """What the kernel stored: position of the argument to a copy."""
    return {
        str(i): given[i].detach().clone() for i, argument in enumerate(KERNEL["arguments"]) if argument.get("written")
    }


def run(launch: Callable[[list[Any]], Any], seed: int = 0, fill: float | None = None) -> tuple[dict[str, Any], Any]:
    """One launch on fresh buffers: what it stored, and its inputs as they were before it."""
    buffers = build_buffers(seed, fill)
    before = {name: value.clone() for name, value in buffers.items() if KERNEL["buffers"][name]["read"]}
    given = arguments(buffers)
    launch(given)
    return written(buffers, given), before


def check(launch: Callable[[list[Any]], Any], seed: int = 0) -> dict[str, Any]:
    """Compare with the captured ATen operators, or where there are none: two runs agree and are finite."""
    if OPERATORS:
        try:
            return _check_operators(launch, seed)
        except OperatorsFailedError as failed:
            reason = f"the captured operators do not run here: {failed}"
    else:
        reason = KERNEL["no_operators"]
    import torch

    first, _ = run(launch, seed, 0.0)
    second, _ = run(launch, seed, 0.0)
    problems = []
    for name, value in first.items():
        if not torch.isfinite(value.to(torch.float64) if not value.dtype.is_complex else value).all():
            problems.append(f"{_named(name)} is not finite")
        if not torch.allclose(value.to(torch.float64), second[name].to(torch.float64), rtol=1e-3, atol=1e-6):
            problems.append(f"{_named(name)} differs between two runs")
    how = f"two runs agree and are finite; not compared with operators: {reason}"
    return {"passed": not problems, "how": how, "problems": problems, "compared": 0, "stored": len(first)}


def _check_operators(launch: Callable[[list[Any]], Any], seed: int) -> dict[str, Any]:
    stored, before = run(launch, seed)
    inputs = {}
    for argument in KERNEL["arguments"]:
        if argument.get("read_node") and argument["buffer"] in before:
            view = before[argument["buffer"]].as_strided(argument["shape"], argument["stride"], argument["offset"])
            shape = argument["read_shape"]
            fits = shape is not None and math.prod(shape) == view.numel()
            inputs[argument["read_node"]] = view.reshape(shape) if fits else view
    places = {a["node"]: str(i) for i, a in enumerate(KERNEL["arguments"]) if a.get("node") and a.get("written")}
    drawn = {node: stored[places[node]] for node in KERNEL["drawn"]}
    # Operators called one by one round every intermediate, a kernel keeps some or all of them wide: what lies between
    # the two is right. With an exponential in it the two are far apart in bfloat16, by a multiple of what rounding the
    # result alone does.
    expected = expected_values(inputs, drawn)
    try:
        wide = expected_values(inputs, drawn, wide=True)
    except OperatorsFailedError:  # an operator that has no float64, or not the memory for it
        wide = {}
    # A float32 result of bfloat16 inputs is as exact as bfloat16.
    coarsest = max([TOLERANCE.get(_dtype(value), 0.0) for value in inputs.values()], default=0.0)
    problems = []
    worst = 0.0
    for node, value in expected.items():
        found = stored[places[node]]
        apart = _apart(found, _shaped(value, found), _shaped(wide[node], found) if node in wide else None)
        limit = max(TOLERANCE[_dtype(found)], coarsest) if _dtype(found) in TOLERANCE else 0.0
        worst = max(worst, apart)
        if not apart <= limit:
            problems.append(
                f"{_named(places[node])} ({node}) differs from its operators by {apart:.3g}, over {limit:g}"
            )
    how = f"{len(expected)} of {len(stored)} outputs compared with the captured operators"
    if drawn:
        how += f"; {', '.join(drawn)} drawn by the kernel and taken as given"
    return {
        "passed": not problems,
        "how": how,
        "problems": problems,
        "compared": len(expected),
        "stored": len(stored),
        "worst": worst,
    }


def expected_values(inputs: dict[str, Any], drawn: dict[str, Any], wide: bool = False) -> dict[str, Any]:
    """What the captured operators make of the inputs, by graph node.

    Args:
        inputs: the values that the kernel read, by graph node.
        drawn: the random ones that it made itself.
        wide: every floating-point value in float64, conversions to narrower types left out.

    Raises:
        OperatorsFailedError: an operator cannot be called here, or not in float64.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
            return value.to(torch.float64)
        return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value

    class Wide(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(func) == "aten.view.dtype":
                raise OperatorsFailedError("bits are looked at as another type")
            return func(*tree_map(widened, args), **tree_map(widened, kwargs or {}))

    scope: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
    exec(compile(OPERATORS, "operators", "exec"), scope)  # noqa: S102 - the graph that was captured with the kernel
    with contextlib.suppress(ImportError):
        importlib.import_module("torch._inductor.inductor_prims")  # registers the operators that only Inductor uses
    mode: Any = Wide if wide else contextlib.nullcontext
    try:
        with mode():
            found: dict[str, Any] = scope["operators"](torch, inputs, drawn)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        raise OperatorsFailedError(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
    return found


def _shaped(value: Any, like: Any) -> Any:
    return value.reshape(like.shape) if value.numel() == like.numel() else value


def _apart(found: Any, rounded: Any, wide: Any | None) -> float:
    """How far what was stored is from what lies between the two references; see ``_error`` for the measure."""
    import torch

    errors = [_error(found, rounded)]
    if wide is not None and found.dtype.is_floating_point:
        errors.append(_error(found, wide))
        if all(math.isfinite(error) for error in errors):
            a, b = rounded.to(torch.float64), wide.to(torch.float64)
            nearest = found.to(torch.float64).clamp(torch.minimum(a, b), torch.maximum(a, b))
            errors.append(_error(found, nearest))
    return min(errors)


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _error(found: Any, expected: Any) -> float:
    """Largest difference relative to the element plus its tensor's root mean square; infinite where NaNs differ."""
    import torch

    if found.shape != expected.shape:
        return math.inf
    a, b = found.to(torch.float64), expected.to(torch.float64)
    if not torch.equal(torch.isnan(a), torch.isnan(b)) or not torch.equal(torch.isinf(a), torch.isinf(b)):
        return math.inf
    fine = torch.isfinite(b)
    a, b = a[fine], b[fine]
    if not b.numel():  # nothing that is a number: NaN everywhere shows nothing
        return 0.0 if not expected.numel() else math.inf
    scale = b.abs() + b.square().mean().sqrt()
    difference = (a - b).abs()
    if not bool(scale.max() > 0):
        return 0.0 if not bool(difference.max() > 0) else math.inf
    return float((difference / scale.clamp_min(torch.finfo(torch.float64).tiny)).max())


def _named(position: str) -> str:
    return str(KERNEL["names"][int(position)])


def time_kernel(launch: Callable[[list[Any]], Any], repeats: int = 30, cold: bool = True) -> dict[str, Any]:
    """Median time of one launch in microseconds; on a GPU in a CUDA graph, over inputs that rotate past the cache."""
    if KERNEL["backend"] == "triton":
        return _time_gpu(launch, repeats, cold)
    given = arguments(build_buffers(0, 0.0))
    launch(given)
    times: list[float] = []
    deadline = time.perf_counter() + 2.0
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() < deadline):
        start = time.perf_counter()
        launch(given)
        times.append((time.perf_counter() - start) * 1e6)
    return {"median_us": statistics.median(times), "least_us": min(times), "samples": len(times), "device": "cpu"}


def _time_gpu(launch: Callable[[list[Any]], Any], repeats: int, cold: bool) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    footprint = max(1, sum(b.numel() * b.element_size() for b in build_buffers(0, 0.0).values()))
    free, _ = torch.cuda.mem_get_info()
    cache = getattr(properties, "L2_cache_size", 64 << 20)
    copies = max(1, min(256, -(-3 * cache // footprint) + 1, int(free * 0.3) // footprint)) if cold else 1
    sets = [arguments(build_buffers(seed, 0.0)) for seed in range(copies)]
    for given in sets[:3]:
        launch(given)
    torch.cuda.synchronize()
    launches = copies * max(1, -(-20 // copies))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            launch(sets[i % copies])
    times: list[float] = []
    for i in range(repeats + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(end) * 1e3 / launches)
    return {
        "median_us": statistics.median(times),
        "least_us": min(times),
        "samples": len(times),
        "launches_a_sample": launches,
        "input_sets": copies,
        "device": properties.name,
    }


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=f"Run {KERNEL['name']} alone: check it and time it.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs")
    parser.add_argument("--repeats", type=int, default=30, help="samples of the time; 0: none")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        require_device()
    except CannotRunHereError as error:
        sys.stderr.write(f"cannot run here: {error}\n")
        return 2
    launch = load()
    checked = check(launch, options.seed)
    timed = time_kernel(launch, options.repeats) if options.repeats else None
    if options.json:
        sys.stdout.write(json.dumps({"kernel": KERNEL["name"], "check": checked, "time": timed}) + "\n")
    else:
        sys.stdout.write(f"{KERNEL['name']}\n")
        sys.stdout.write(f"  check  {'passed' if checked['passed'] else 'FAILED'}: {checked['how']}\n")
        for problem in checked["problems"]:
            sys.stdout.write(f"         {problem}\n")
        if timed is not None:
            said = f"{timed['median_us']:.2f} us, median of {timed['samples']} on {timed['device']}"
            sys.stdout.write(f"  time   {said}\n")
    return 0 if checked["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
