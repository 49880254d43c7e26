"""The fewest bytes that a user's code has to move, from one run on tensors without storage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fuselab.experiment import Inputs
from fuselab.records import Direction, Traffic

if TYPE_CHECKING:
    import torch

__all__ = ["traffic_of"]

PARTIAL_READS = frozenset(
    (
        "__getitem__",
        "embedding",
        "embedding_bag",
        "gather",
        "index_select",
        "masked_select",
        "narrow",
        "select",
        "take",
        "take_along_dim",
    )
)
"""Functions that need not read all of their input: with one of them in the code, nobody can say what is the fewest."""

LARGE_STREAM = 0.25
"""A tensor counts as a large stream from this share of the largest one on."""


def traffic_of(make: Callable[[], tuple[Callable[..., Any], Inputs]], direction: Direction) -> Traffic | None:
    """Bytes that have to be moved at the least; None when the run without storage fails or cannot say.

    Forward: every input tensor and parameter once, every output once. Backward: the outputs' gradients in, the
    gradients out; whether the inputs are needed again depends on the code, and the fewest counts without.

    Args:
        make: builds the code and its inputs; called with ``meta`` as torch's default device.
        direction: forward or backward.
    """
    import torch

    try:
        with torch.device("meta"), _partial_reads() as partial:
            function, inputs = make()
            outputs = function(*inputs.args, **inputs.kwargs)
    except Exception:  # noqa: BLE001 - whatever the user's code raises without storage, it may well run with it
        return None
    if partial:
        return None
    parameters = list(function.parameters()) if isinstance(function, torch.nn.Module) else []
    read = [*(tensor for _, tensor in inputs.tensors()), *parameters]
    written = list(_tensors(outputs))
    if direction is Direction.BACKWARD:
        read, written = [t for t in written if t.requires_grad], [t for t in read if t.requires_grad]
    reads, writes = _bytes(read), _bytes(written)
    if not any(reads) or not any(writes):
        return None
    large = LARGE_STREAM * max(reads + writes)
    return Traffic(
        bytes_read=sum(reads),
        bytes_written=sum(writes),
        reads=sum(size >= large for size in reads),
        writes=sum(size >= large for size in writes),
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if hasattr(value, "requires_grad"):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _bytes(tensors: Iterable[torch.Tensor]) -> list[int]:
    """Sizes of distinct tensors in bytes."""
    distinct = {id(tensor): tensor for tensor in tensors}
    return [tensor.numel() * tensor.element_size() for tensor in distinct.values()]


@contextlib.contextmanager
def _partial_reads() -> Iterator[list[str]]:
    """Names of the functions called that may read only a part of their input."""
    from torch.overrides import TorchFunctionMode, resolve_name

    seen: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2]
            if name in PARTIAL_READS:
                seen.append(name)
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen
