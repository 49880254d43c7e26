"""Tensors and arguments as raw files and JSON: nothing is pickled, on the way out or in.

A tensor's file holds its elements from the first to the last that shape and strides reach, little-endian as in memory,
so that a view comes back with the layout it had.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuselab.deploy.manifest import TensorFile, Value, span
from fuselab.errors import UsageError
from fuselab.store.files import naming

__all__ = ["TensorWriter", "read_tensor", "read_value", "tensor_sha256"]


class TensorWriter:
    """Writes tensors below a directory and remembers the files, by the name that the package gives them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.files: dict[str, Path] = {}

    def tensor(self, tensor: Tensor, prefix: str) -> TensorFile:
        """Write one tensor; ``prefix`` is a folder of the package."""
        name = f"{prefix}/{len(self.files)}.bin"
        path = self._directory / name
        spec = TensorFile(
            file=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=list(tensor.shape),
            stride=list(tensor.stride()),
            requires_grad=tensor.requires_grad,
        )
        with naming("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_elements(tensor, span(spec)))
        self.files[name] = path
        return spec

    def value(self, value: Any, prefix: str, where: str) -> Value:
        """Write one argument.

        Raises:
            UsageError: it is nothing that a package can hold.
        """
        if isinstance(value, Tensor):
            return Value(tensor=self.tensor(value, prefix))
        if isinstance(value, float) and not math.isfinite(value):
            return Value(number=repr(value))
        if value is None or isinstance(value, bool | int | float | str):
            return Value(plain=value)
        if type(value) in (list, tuple):
            return Value(sequence=[self.value(v, prefix, where) for v in value], is_tuple=type(value) is tuple)
        if type(value) is dict and all(isinstance(k, str) for k in value):
            return Value(mapping={k: self.value(v, prefix, where) for k, v in value.items()})
        raise UsageError(
            f"the argument {where} is a {type(value).__name__}, which a package cannot hold",
            hint="tensors, numbers, strings, None, and lists, tuples or dicts of them",
        )


def read_tensor(spec: TensorFile, read: Callable[[str], bytes], device: str) -> Tensor:
    """The tensor of a file, with its layout, on a device; a leaf that requires grad if it did."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    data = bytearray(read(spec.file))
    if not data:
        return torch.empty_strided(spec.shape, spec.stride, dtype=dtype, device=device).requires_grad_(
            spec.requires_grad
        )
    flat = torch.frombuffer(data, dtype=torch.uint8).view(dtype).to(device)
    return flat.as_strided(spec.shape, spec.stride).detach().requires_grad_(spec.requires_grad)


def read_value(value: Value, read: Callable[[str], bytes], device: str) -> Any:
    """The argument that ``TensorWriter.value`` wrote."""
    if value.tensor is not None:
        return read_tensor(value.tensor, read, device)
    if value.number is not None:
        return float(value.number) if value.number in ("nan", "inf", "-inf") else math.nan
    if value.sequence is not None:
        items = [read_value(v, read, device) for v in value.sequence]
        return tuple(items) if value.is_tuple else items
    if value.mapping is not None:
        return {k: read_value(v, read, device) for k, v in value.mapping.items()}
    return value.plain


def tensor_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, dtypes, shapes and elements of a model's parameters and buffers; empty without any."""
    import hashlib

    if not tensors:
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        dense = tensor.detach().contiguous()
        digest.update(f"{name} {dense.dtype} {tuple(dense.shape)}\n".encode())
        digest.update(_elements(dense, dense.numel()))
    return digest.hexdigest()


def _elements(tensor: Tensor, count: int) -> bytes:
    if not count:
        return b""
    flat = tensor.detach().as_strided((count,), (1,)).cpu().contiguous()
    return ctypes.string_at(flat.data_ptr(), count * flat.element_size())
