"""The memory ceiling: plain streaming with a cell's own mix of reads and writes, at the cell's own size, in the same
rounds.

A copy is no ceiling for a kernel that reads two streams and writes one: on one H200 the mixes 1:1, 2:1 and 3:2 reach
4.15, 4.28 and 4.28 TB/s. Streams are as large as the cell's bytes over its number of streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from fuselab.experiment import Inputs
from fuselab.records import Traffic

__all__ = ["Streaming", "cpu_streaming", "cuda_streaming", "with_more"]


@dataclass(frozen=True)
class Streaming:
    """A plain streaming call and the inputs it rotates over."""

    implementation: Callable[..., Any]
    inputs_factory: Callable[[int], Inputs]
    bytes_moved: int
    """Bytes that one call reads and writes."""
    method: str
    """How, in words."""
    configuration: tuple[int, int] | None = None
    """Elements a program and warps of the kernel, on a GPU."""


def _shape_of(traffic: Traffic) -> tuple[int, int, int]:
    """Reads, writes and 4-byte elements a stream: a multiple of 16, without which accesses would not be vectorised."""
    reads, writes = max(traffic.reads, 0), max(traffic.writes, 0)
    if reads + writes == 0:
        reads = writes = 1
    return reads, writes, max(1, math.ceil(traffic.bytes_moved / (reads + writes) / 64)) * 16


def cpu_streaming(traffic: Traffic, threads: int) -> Streaming:
    """Streaming by torch's own operators, as many reads to each write as the mix has.

    A write with no read is ``fill_``, with one ``copy_``, with two ``add``, with more a sum over them; reads alone
    are a sum.

    Example:
        >>> cpu_streaming(Traffic(bytes_read=800, bytes_written=400, reads=2, writes=1), threads=2).method
        'torch.add into out, 2:1, 2 threads'
    """
    reads, writes, elements = _shape_of(traffic)
    shares = [reads // writes + (i < reads % writes) for i in range(writes)]

    def call(*streams: Tensor) -> Any:
        """Reads in the order of the writes they go to, three or more of them as one tensor; then the writes."""
        if not writes:
            return torch.sum(streams[0])
        at = 0
        for output, share in zip(streams[-writes:], shares, strict=True):
            if share == 0:
                output.fill_(1.0)
            elif share == 1:
                output.copy_(streams[at])
            elif share == 2:
                torch.add(streams[at], streams[at + 1], out=output)
            else:
                torch.sum(streams[at], 0, out=output)
            at += share if share < 3 else 1
        return streams[-writes:]

    def factory(index: int) -> Inputs:
        generator = torch.Generator().manual_seed(index)
        shapes = [s for k in shares or [reads] for s in ([(elements,)] * k if k < 3 and shares else [(k, elements)])]
        sources = [torch.rand(shape, generator=generator) for shape in shapes]
        return Inputs((*sources, *(torch.empty(elements) for _ in range(writes))))

    names = {0: "fill_", 1: "copy_", 2: "add into out"}
    used = dict.fromkeys(names.get(share, "sum into out") for share in shares) or {"sum": None}
    return Streaming(
        call,
        factory,
        bytes_moved=(reads + writes) * elements * 4,
        method=f"torch.{', torch.'.join(used)}, {reads}:{writes}, {threads} thread{'s' if threads != 1 else ''}",
    )


def cuda_streaming(traffic: Traffic, configuration: tuple[int, int] | None = None) -> Streaming:
    """Streaming by a Triton kernel, in ``configuration`` or else in the fastest of a few at this size."""
    from fuselab.measure.streaming import buffers, stream

    reads, writes, elements = _shape_of(traffic)
    block, warps = configuration or _fastest(reads, writes, elements)

    def call(*streams: Tensor) -> Any:
        sources, sinks = streams[: max(reads, 1)], streams[max(reads, 1) :]
        return stream(sources, sinks, elements, reads, writes, block, warps)

    def factory(_index: int) -> Inputs:
        sources, sinks = buffers(elements, reads, writes)
        return Inputs((*sources, *sinks))

    return Streaming(
        call,
        factory,
        bytes_moved=(reads + writes) * elements * 4,
        method=f"triton stream {reads}:{writes}, {block} elements a program",
        configuration=(block, warps),
    )


def _fastest(reads: int, writes: int, elements: int) -> tuple[int, int]:
    from fuselab.measure.events_timer import measured_by_events
    from fuselab.measure.streaming import CONFIGURATIONS, buffers, stream

    sets = [buffers(elements, reads, writes) for _ in range(2)]
    current = torch.cuda.current_stream()

    def time_of(block: int, warps: int) -> float:
        def calls() -> None:
            for i in range(8):
                stream(*sets[i % 2], elements, reads, writes, block, warps)

        calls()  # compiles
        return min(measured_by_events(current, calls, wait_us=1000) for _ in range(3))

    return min(CONFIGURATIONS, key=lambda configuration: time_of(*configuration))


def with_more(traffic: Traffic, *, percent: int, at_least: int) -> tuple[Traffic, Traffic]:
    """The mix of ``traffic`` at ``at_least`` bytes or more, and the same with ``percent`` more: a known difference.

    Example:
        >>> same, more = with_more(Traffic(bytes_read=800, bytes_written=400, reads=2), percent=2, at_least=120_000)
        >>> same.bytes_moved, more.bytes_moved
        (120000, 122400)
    """
    scale = max(1.0, at_least / max(traffic.bytes_moved, 1))
    read, written = (round(size * scale) for size in (traffic.bytes_read, traffic.bytes_written))
    same = msgspec.structs.replace(traffic, bytes_read=read, bytes_written=written)
    read, written = (size + size * percent // 100 for size in (read, written))
    return same, msgspec.structs.replace(traffic, bytes_read=read, bytes_written=written)
