"""When compiling pays: eager against compiled over sizes, starts and precision, measured here in a moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fuselab.course.display import Rows, Shown, quietly
from fuselab.course.pictures import Picture, line

__all__ = ["calls", "errors", "over_sizes"]


def over_sizes(function: Callable[..., Any], make: Callable[[int], Sequence[Any]], sizes: Sequence[int]) -> Picture:
    """Times of a call, eager and compiled once for all sizes, over sizes.

    Args:
        function: of tensors.
        make: arguments of a size.
        sizes: elements, ascending.
    """
    import torch

    torch.compiler.reset()
    with quietly():
        compiled = torch.compile(function, dynamic=True)
        rows = [
            {"elements": size, "us a call": _time_us(call, make(size)), "variant": name}
            for size in sizes
            for name, call in (("eager", function), ("compile", compiled))
        ]
    return line("eager and compiled over sizes", rows, "elements", "us a call", "variant", log=True)


def _time_us(call: Callable[..., Any], args: Sequence[Any]) -> float:
    from torch.utils.benchmark import Timer

    call(*args)
    timer = Timer("call(*args)", globals={"call": call, "args": args}, num_threads=_threads())
    found = timer.blocked_autorange(min_run_time=0.1)
    return float(min(found.times)) * 1e6  # the fastest block: a busy neighbour makes a median of few blocks jump


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def calls(function: Callable[..., Any], *args: Any, count: int = 4) -> Shown:
    """The first calls of a compiled function one by one: the first compiles."""
    import time

    import torch

    torch.compiler.reset()
    rows = []
    with quietly():
        compiled = torch.compile(function)
        for number in range(1, count + 1):
            start = time.perf_counter()
            compiled(*args)
            if any(isinstance(a, torch.Tensor) and a.is_cuda for a in args):
                torch.cuda.synchronize()
            rows.append((f"call {number}", f"{(time.perf_counter() - start) * 1e3:,.2f} ms"))
    return Rows(("compiled", "took"), rows, note="measured here, once each, with the caches as they were")


def errors(function: Callable[..., Any], *args: Any) -> Shown:
    """How far eager and compiled results lie from the same in float64."""
    import torch

    torch.compiler.reset()
    exact = function(*[a.double() if isinstance(a, torch.Tensor) else a for a in args])
    with quietly():
        found = {"eager": function(*args), "compiled": torch.compile(function)(*args)}
    rows = [
        (
            name,
            f"{(y.double() - exact).abs().max().item():.2e}",
            f"{(y.double() - exact).square().mean().sqrt().item():.2e}",
        )
        for name, y in found.items()
    ]
    return Rows(("variant", "largest error", "root-mean-square error"), rows, note="against float64")
