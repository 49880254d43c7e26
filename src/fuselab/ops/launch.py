"""How the kernels are launched: tile sizes, persistent grids, the device, and registration as operators of torch.

Eager calls launch the kernels directly. Under ``torch.compile`` each forward and each backward is one operator of
torch (``torch.ops.fuselab.*``), made with ``torch.library.triton_op``, which shows Inductor the kernels inside.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from fuselab.ops.bound import start_again

__all__ = [
    "ELEMENTS",
    "INTERPRETED",
    "Made",
    "Recording",
    "Tile",
    "empty",
    "fewer",
    "launch",
    "launch_ordinarily",
    "most_programs",
    "operator",
    "persistent_programs",
    "recorded",
    "register_limit",
    "row_tile",
    "scratch",
    "shared_memory",
    "takes_assembly",
    "takes_registers",
    "wrap_triton",
]


@triton.jit
def _probe(pointer):  # type: ignore[no-untyped-def]
    tl.store(pointer, 0)


INTERPRETED: bool = not isinstance(_probe, JITFunction)
"""Whether ``triton.jit`` made kernels for Triton's interpreter (TRITON_INTERPRET=1 when they were defined): these run
on CPU tensors, slowly."""

_INTERPRETED_PROGRAMS = 3
"""Programs of a persistent kernel in the interpreter: it runs them one after the other."""

_PROGRAMS_PER_MULTIPROCESSOR = 2

_SHARED = 200 * 1024

ELEMENTS = 2048
"""Elements of an operation without sums that a program of four warps has: two 16-byte accesses a thread and stream in
half precision."""


class Tile(NamedTuple):
    """Rows and columns that a program holds at once, and its warps."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int


def row_tile(width: int, *, widest: int, looped: int) -> Tile:
    """The tile for rows of ``width`` columns: the whole row up to ``widest``, and ``looped`` columns at a time above.

    Narrow rows share a program, so that it has about ``ELEMENTS`` to do. Warps follow the number of elements, 16 a
    thread: two to four 16-byte accesses a thread and stream, and few enough to stay in registers.

    Example:
        >>> row_tile(300, widest=16384, looped=4096)
        Tile(BLOCK_M=4, BLOCK_N=512, num_warps=4)
        >>> row_tile(100_000, widest=16384, looped=4096)
        Tile(BLOCK_M=1, BLOCK_N=4096, num_warps=8)
    """
    # int(): a symbolic width becomes a constant of the compiled graph, because the tile is a constant of the kernel.
    width = int(width)
    block_n = max(1 << (width - 1).bit_length(), 16) if width <= widest else looped
    block_m = max(ELEMENTS // block_n, 1)
    num_warps = min(max(block_m * block_n // 512, 4), 32)
    return Tile(block_m, block_n, num_warps)


@functools.lru_cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def takes_registers(kernel: Any, device: torch.device) -> bool:
    """Whether the compiler can be told how many registers a thread may have (``maxnreg``).

    Only where the launch is a direct one: a traced kernel takes no such option, nor does an AMD GPU.
    """
    return isinstance(kernel, JITFunction) and device.type == "cuda" and torch.version.hip is None


def register_limit(kernel: Any, registers: int, device: torch.device) -> dict[str, int]:
    """The option that keeps a kernel to so many registers a thread; none for 0, nor where it cannot be told."""
    return {"maxnreg": registers} if registers and takes_registers(kernel, device) else {}


def takes_assembly(device: torch.device) -> bool:
    """Whether kernels may have instructions of NVIDIA's own in them."""
    return not INTERPRETED and device.type == "cuda" and torch.version.hip is None


@functools.lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that the programs of a multiprocessor may have together; a Hopper's where there is no GPU.

    None on an AMD GPU, where what is copied there goes through registers.
    """
    if torch.version.hip is not None:
        return 0
    if device.type != "cuda":
        return _SHARED
    properties: Any = torch.cuda.get_device_properties(device)
    return min(_SHARED, int(properties.shared_memory_per_block_optin) - 8 * 1024)


def fewer(a: int, b: int) -> int:
    """The smaller number; of a symbolic one too, without asking which it is.

    ``min`` would ask, and a compiled graph would hold on that side of the comparison only: it would be compiled again
    when a batch grows beyond what fills the device.
    """
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    smaller: int = torch.sym_min(a, b)
    return smaller


def most_programs(device: torch.device, per_multiprocessor: int = _PROGRAMS_PER_MULTIPROCESSOR) -> int:
    """Programs that the device runs at once, so many a multiprocessor; a few in the interpreter."""
    return per_multiprocessor * _multiprocessors(device) if device.type == "cuda" else _INTERPRETED_PROGRAMS


def persistent_programs(
    tiles: int, device: torch.device, per_multiprocessor: int = _PROGRAMS_PER_MULTIPROCESSOR
) -> int:
    """Programs that share ``tiles`` (one or more), each with partial sums of its own: at most ``most_programs``."""
    return fewer(tiles, most_programs(device, per_multiprocessor))


class Made(NamedTuple):
    """A launch that was made: the arguments of ``launch``, and what Triton compiled."""

    kernel: Any
    compiled: Any
    grid: tuple[int, ...]
    device: torch.device
    args: tuple[Any, ...]
    meta: dict[str, Any]


class Recording(NamedTuple):
    """What a thread launched while ``recorded`` was open."""

    launches: list[Made]
    scratch: list[Tensor]
    """Tensors made by ``scratch``: one launch writes them, a later one of the same recording reads them."""


_recording = threading.local()


@contextlib.contextmanager
def recorded() -> Iterator[Recording]:
    """The launches of this thread while the context is open, and the scratch memory between them."""
    before = getattr(_recording, "now", None)
    _recording.now = Recording([], [])
    try:
        yield _recording.now
    finally:
        _recording.now = before


def scratch(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uninitialised float32 memory between two launches of one operator, which ``fuselab.ops.replay`` can make again.

    Whatever a launch reads of it, an earlier launch of the same call has to have written.
    """
    tensor = torch.empty(shape, dtype=torch.float32, device=device)
    recording = getattr(_recording, "now", None)
    if recording is not None:
        recording.scratch.append(tensor)
    return tensor


def launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **meta: Any) -> None:
    """Launch ``kernel`` on ``device``, which need not be the current one (Triton itself launches on the current one).

    ``kernel`` is a jitted function, or what ``wrap_triton`` made of it: then Inductor takes care of the device. In
    eager mode the launch is bound (``fuselab.ops.bound``), and the next one of its kind is less work for the host.
    Tensors come first among the arguments, as they do in every kernel, and constants are given by name.
    """
    recording = getattr(_recording, "now", None)
    if recording is not None:
        compiled = launch_ordinarily(kernel, grid, device, *args, **meta)
        recording.launches.append(Made(kernel, compiled, grid, device, args, meta))
    elif isinstance(kernel, JITFunction) and device.type == "cuda":
        started = start_again(kernel, grid, device, args, meta)
        if started is not True:
            compiled = launch_ordinarily(kernel, grid, device, *args, **meta)
            if started:
                started(compiled)
    else:
        launch_ordinarily(kernel, grid, device, *args, **meta)


def launch_ordinarily(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **meta: Any) -> Any:
    """Launch as ``launch`` does, through Triton's own front.

    Returns:
        What Triton compiled, which ``fuselab.ops.bound`` can start again; None for a kernel that is traced or
        interpreted.
    """
    if isinstance(kernel, JITFunction) and device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return kernel[grid](*args, **meta)
    return kernel[grid](*args, **meta)


def wrap_triton(kernel: Any) -> Any:
    """``torch.library.wrap_triton``, the form of a kernel that a compiler can see; interpreted kernels as they are.

    Under its own name, because torch finds the kernels of an operator by this name in the operator's source.
    """
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)


def operator(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Register a function that allocates its outputs and launches kernels as ``torch.ops.fuselab.<name>``.

    ``fake`` allocates the same outputs and launches nothing. It is needed in Triton's interpreter only: a ``triton_op``
    is traced through its own body, and an interpreted kernel cannot be traced, so that there the operator is opaque.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        qualified = f"fuselab::{name}"
        if not INTERPRETED:
            return torch.library.triton_op(qualified, function, mutates_args=())
        opaque = torch.library.custom_op(qualified, function, mutates_args=())
        opaque.register_fake(fake)
        return opaque

    return decorate


def empty(x: Tensor) -> Tensor:
    """A tensor without elements, for an output of an operator that this call does not have."""
    return x.new_empty(0)
