"""One call of an implementation under conditions that expose what it leaves undone.

Memory that it is about to be given is poisoned; its inputs arrive late on the current stream, as they do behind a
long kernel; its outputs are read on the current stream at once, their ends first; and what it must not touch is
compared with a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fuselab.experiment import Implementation, Inputs
from fuselab.measure.calls import (
    differentiable_outputs,
    forward,
    gradient_targets,
    gradients,
    named_outputs,
    random_grad_outputs,
)
from fuselab.measure.layout import writable

__all__ = ["CACHED", "Exposed", "Fault", "call_exposed", "same_bits", "stream_of_its_own"]

_POISON = 0xFF
"""All bits set is NaN in every floating-point format and -1 in every signed integer."""

_SECOND_TIME = "backward through the graph a second time"
"""What autograd says of a graph that was differentiated before."""

CACHED = "the result of an earlier call is returned: cached between calls; compute it from the inputs in every call"
CHANGES = "each timed call would start from other values; work on a copy (.clone()), or return what is changed"
ELSEWHERE = "let the current stream wait before it returns: torch.cuda.current_stream().wait_stream(the other)"

_LATE_CYCLES = 20_000_000
"""About 10 ms: longer than the launch of a whole call takes on the host."""


@dataclass(frozen=True)
class Fault:
    """Something that a call must not do."""

    text: str
    """What, in words."""
    backward: bool = False
    """Whether the backward did it."""


@dataclass
class Exposed:
    """What one call returned and what it did besides."""

    structure: Any
    """The outputs in the form that they were returned, copied."""
    outputs: list[tuple[str, Tensor]]
    """Copies of the output tensors by name."""
    gradients: list[tuple[str, Tensor | None]] = field(default_factory=list)
    """Copies of the gradients by name; empty where no backward was asked for or none is possible."""
    grad_outputs: list[Tensor] = field(default_factory=list)
    """What the backward started from, by differentiable output."""
    differentiable: list[str] = field(default_factory=list)
    """Names of the outputs that the backward started from."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Output name to the name of the input whose memory it shares."""
    faults: list[Fault] = field(default_factory=list)
    """What it did that it must not do: inputs changed, outputs written after the call."""


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bytes: NaN equals the same NaN, -0 differs from 0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(
        a.detach().contiguous().view(-1).view(torch.uint8), b.detach().contiguous().view(-1).view(torch.uint8)
    )


@contextlib.contextmanager
def stream_of_its_own(device_type: str) -> Iterator[None]:
    """On CUDA make a fresh stream current, so that work on the default stream counts as work elsewhere, too."""
    if device_type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
    torch.cuda.synchronize()


def call_exposed(
    implementation: Implementation, inputs: Inputs, *, backward: bool, seed: int, poisoned_bytes: Sequence[int] = ()
) -> Exposed:
    """Call ``implementation`` once, and differentiate it if asked, under the conditions of this module.

    Args:
        implementation: what is called.
        inputs: on what; changed meanwhile, and put back.
        backward: whether to differentiate.
        seed: of the gradients of the outputs.
        poisoned_bytes: sizes of blocks to poison beside those of the inputs: the outputs', where they are known.
    """
    on_cuda = any(t.is_cuda for _, t in inputs.tensors())
    kept = [(name, t, t.detach().clone()) for name, t in inputs.tensors()]
    weights = [(f"parameter {n}", p, p.detach().clone()) for n, p in gradient_targets(Inputs(), implementation)]
    sizes = [copy.untyped_storage().nbytes() for _, _, copy in kept]
    sizes += [p.untyped_storage().nbytes() for _, _, p in weights]
    _poison([*sizes, *poisoned_bytes], inputs)
    if on_cuda:
        _arrive_late(kept)
    raw = forward(implementation, inputs)
    outputs = named_outputs(raw)
    ends = [_end(t) for _, t in outputs]
    copies = {name: t.detach().clone() for name, t in outputs}
    exposed = Exposed(structure=_rebuild(raw, copies), outputs=list(copies.items()))
    exposed.aliases = _aliases(outputs, kept)
    faults = _late_writes(outputs, ends, exposed.outputs, on_cuda) + _changes(kept + weights)
    exposed.faults += [Fault(f"the forward {text}") for text in faults]
    if faults:
        return exposed  # autograd would refuse a changed input with an error of its own; the fault says more
    targets = gradient_targets(inputs, implementation)
    starts = differentiable_outputs(raw)
    if backward and targets and starts:
        exposed.differentiable = [name for name, _ in starts]
        exposed.grad_outputs = random_grad_outputs([t for _, t in starts], seed)
        kept_starts = [("grad_output", g, g.clone()) for g in exposed.grad_outputs]
        _poison([t.numel() * t.element_size() for _, t in targets], inputs)
        if on_cuda:
            _arrive_late(kept_starts)
        try:
            grads = gradients([t for _, t in starts], [t for _, t in targets], exposed.grad_outputs)
        except RuntimeError as error:
            if _SECOND_TIME not in str(error):
                raise
            exposed.faults.append(Fault(CACHED, backward=True))
            return exposed
        named = [(name, g) for (name, _), g in zip(targets, grads, strict=True)]
        present = [(name, g) for name, g in named if g is not None]
        ends = [_end(g) for _, g in present]
        exposed.gradients = [(name, None if g is None else g.detach().clone()) for name, g in named]
        read = [(name, g) for name, g in exposed.gradients if g is not None]
        faults = _late_writes(present, ends, read, on_cuda) + _changes(kept + weights + kept_starts)
        exposed.faults += [Fault(f"the backward {text}", backward=True) for text in faults]
    return exposed


def _poison(sizes: Sequence[int], inputs: Inputs) -> None:
    """Fill blocks of these sizes and hand them back, so that the allocator gives them out again, full of NaN."""
    device = next((t.device for _, t in inputs.tensors()), torch.device("cpu"))
    # Twice, because the first block is often taken by an intermediate.
    blocks = [
        torch.full((max(size, 1),), _POISON, dtype=torch.uint8, device=device) for size in sizes for _ in range(2)
    ]
    del blocks


def _arrive_late(kept: Sequence[tuple[str, Tensor, Tensor]]) -> None:
    """Spoil the tensors and let a long wait and their copies follow on the current stream: others see what is
    spoilt."""
    late = [(tensor.detach(), copy) for _, tensor, copy in kept if writable(tensor)]
    for tensor, _ in late:
        # Integers become 0, not -1: they may be indices, and an illegal access would take the whole process.
        tensor.fill_(float("nan") if tensor.dtype.is_floating_point or tensor.dtype.is_complex else 0)
    torch.cuda.synchronize()
    sleep = getattr(torch.cuda, "_sleep", None)
    if sleep is not None:
        sleep(_LATE_CYCLES)
    for tensor, copy in late:
        tensor.copy_(copy)


def _end(tensor: Tensor) -> Tensor:
    """A copy of the last row, enqueued at once: the part that a kernel elsewhere writes last."""
    return tensor.detach()[(-1,) * max(tensor.dim() - 1, 0)].clone() if tensor.numel() else tensor.detach().clone()


def _late_writes(
    live: Sequence[tuple[str, Tensor]], ends: Sequence[Tensor], copies: Sequence[tuple[str, Tensor]], on_cuda: bool
) -> list[str]:
    if not on_cuda:
        return []
    torch.cuda.synchronize()
    return [
        f"works on another stream: {name} is still written after the call; {ELSEWHERE}"
        for (name, tensor), end, (_, copy) in zip(live, ends, copies, strict=True)
        if not (same_bits(_end(tensor), end) and same_bits(tensor, copy))
    ]


def _changes(kept: Sequence[tuple[str, Tensor, Tensor]]) -> list[str]:
    return [f"changes its input {name}: {CHANGES}" for name, tensor, copy in kept if not same_bits(tensor, copy)]


def _aliases(outputs: Sequence[tuple[str, Tensor]], kept: Sequence[tuple[str, Tensor, Tensor]]) -> dict[str, str]:
    homes = {t.untyped_storage().data_ptr(): name for name, t, _ in kept if t.numel()}
    return {
        name: homes[t.untyped_storage().data_ptr()]
        for name, t in outputs
        if t.numel() and t.untyped_storage().data_ptr() in homes
    }


def _rebuild(value: Any, copies: dict[str, Tensor], name: str = "output") -> Any:
    """The same containers with the copies in place of the tensors."""
    if isinstance(value, Tensor):
        return copies[name]
    if isinstance(value, dict):
        return {k: _rebuild(v, copies, f"{name}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        rebuilt = [_rebuild(v, copies, f"{name}[{i!r}]") for i, v in enumerate(value)]
        return rebuilt if isinstance(value, list) else tuple(rebuilt)
    return value
