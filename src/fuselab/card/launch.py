"""What a kernel is launched with: the arguments of each launch, read from the output module without running it.

Pure. The module's ``call`` is followed statement by statement: allocations, views, renamings and releases are
understood, sizes that are only known when it runs are taken from the module's own example inputs (``get_args``),
everything else is unknown and says so. Launch arguments are what a kernel's bytes, its grid and its stand-alone script
are made from.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fuselab.ir.syntax import dotted

__all__ = ["ELEMENT_BYTES", "LaunchArguments", "ScalarArgument", "TensorArgument", "Unknown", "read_launches"]

ELEMENT_BYTES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
"""Bytes of torch's element types, by name."""


@dataclass(frozen=True)
class TensorArgument:
    """A tensor that a kernel is launched with."""

    buffer: str
    """The name that the module first gave this memory; a view has its base's."""
    name: str
    """The name at the launch."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    """``float32``; torch's name without ``torch.``."""
    offset: int = 0
    """Elements from the beginning of the buffer."""
    device: str = ""
    was: str = ""
    """The name before it was reused for another value; the same as ``name`` where it was not."""

    @property
    def elements(self) -> int:
        """Elements that it covers in memory, gaps included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, each once."""
        return math.prod(self.shape) * ELEMENT_BYTES.get(self.dtype, 0)


@dataclass(frozen=True)
class ScalarArgument:
    """A number, a flag or None."""

    value: int | float | bool | None


@dataclass(frozen=True)
class Unknown:
    """An argument that cannot be read."""

    reason: str


@dataclass(frozen=True)
class LaunchArguments:
    """One launch."""

    kernel: str
    line: int
    arguments: tuple[TensorArgument | ScalarArgument | Unknown, ...]
    buffers: dict[str, TensorArgument] = field(default_factory=dict)
    """Each memory that the arguments lie in, as it was allocated or passed in."""

    @property
    def known(self) -> bool:
        """Whether every argument was read."""
        return not any(isinstance(argument, Unknown) for argument in self.arguments)


@dataclass(frozen=True)
class _Dtype:
    name: str


class _Module:
    """Marks a value that is a callable or a module of torch's, which nothing is done with."""


_UNKNOWN = object()
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Div: operator.truediv,
    ast.Pow: lambda a, b: a**b if abs(b) < 64 else _UNKNOWN,
}


def read_launches(text: str) -> list[LaunchArguments]:
    """Every launch of a generated kernel in an output module, in order.

    Raises:
        SyntaxError: the text is not Python.

    Example:
        >>> launches = read_launches('''
        ... k = async_compile.cpp_pybinding([], "")
        ... def call(args):
        ...     arg0_1, = args
        ...     assert_size_stride(arg0_1, (4, 8), (8, 1))
        ...     buf0 = empty_strided_cpu((4, ), (1, ), torch.float32)
        ...     k(arg0_1, buf0)
        ... def get_args():
        ...     arg0_1 = rand_strided((4, 8), (8, 1), device="cpu", dtype=torch.float32)
        ...     return [arg0_1]
        ... ''')
        >>> launches[0].arguments[1].shape, launches[0].arguments[1].dtype
        ((4,), 'float32')
    """
    tree = ast.parse(text)
    kernels = {
        statement.targets[0].id
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.targets[0], ast.Name)
        and dotted(statement.value.func).startswith("async_compile.")
    }
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    reader = _Reader(kernels, functions)
    reader.constants(tree)
    reader.examples()
    if "call" in functions:
        reader.run(functions["call"].body)
    return reader.launches


class _Reader:
    def __init__(self, kernels: set[str], functions: Mapping[str, ast.FunctionDef]) -> None:
        self.launches: list[LaunchArguments] = []
        self._kernels = kernels
        self._functions = functions
        self._values: dict[str, Any] = {}
        self._buffers: dict[str, TensorArgument] = {}
        self._examples: list[Any] = []
        self._depth = 0

    def constants(self, tree: ast.Module) -> None:
        """Numbers and constant tensors that the module itself holds."""
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                value = self._value(statement.value, statement.targets[0].id)
                if isinstance(value, int | float | TensorArgument):
                    self._bind(statement.targets[0].id, value)

    def examples(self) -> None:
        """What the module's own benchmark would call it with: shapes, types and, for sizes, numbers."""
        function = self._functions.get("get_args") or self._functions.get("benchmark_compiled_module")
        for statement in function.body if function else ():
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                name = statement.targets[0].id
                value = self._value(statement.value, name)
                if value is not _UNKNOWN and not isinstance(value, _Module):
                    self._bind(name, value)
                    self._examples.append(value)

    def run(self, body: list[ast.stmt]) -> None:
        """Follow statements in order."""
        for statement in body:
            if isinstance(statement, ast.Assign):
                self._assign(statement)
            elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                self._call(statement.value)
            elif isinstance(statement, ast.With | ast.For | ast.While):
                self.run(statement.body)
            elif isinstance(statement, ast.If):
                self.run(statement.body)
                self.run(statement.orelse)

    def _bind(self, name: str, value: Any) -> None:
        if isinstance(value, TensorArgument) and value.buffer == name:
            self._buffers[name] = value
        self._values[name] = value

    def _assign(self, statement: ast.Assign) -> None:
        target = statement.targets[0]
        if isinstance(target, ast.Tuple | ast.List):
            for element in target.elts:
                # Inputs: known from the example call, or from the assertions on their sizes that follow.
                if isinstance(element, ast.Name) and not (
                    dotted(statement.value) == "args" and element.id in self._values
                ):
                    self._values[element.id] = _UNKNOWN
            if isinstance(statement.value, ast.Call):
                self._call(statement.value)
            return
        if not isinstance(target, ast.Name):
            return
        if isinstance(statement.value, ast.Subscript) and dotted(statement.value.value) == "args":
            return
        value = self._value(statement.value, target.id)
        if isinstance(statement.value, ast.Call) and value is _UNKNOWN:
            self._call(statement.value)
        if isinstance(value, TensorArgument) and isinstance(statement.value, ast.Name):
            value = replace(value, was=value.name, name=target.id)
        self._bind(target.id, value)

    def _call(self, call: ast.Call) -> None:
        name = dotted(call.func)
        if name.startswith("assert_size_stride") and len(call.args) >= 3:
            self._asserted(call)
        kernel = name.removesuffix(".run")
        if kernel in self._kernels:
            arguments = tuple(self._argument(argument) for argument in call.args)
            tensors = [a for a in arguments if isinstance(a, TensorArgument)]
            buffers = {a.buffer: self._buffers[a.buffer] for a in tensors if a.buffer in self._buffers}
            self.launches.append(LaunchArguments(kernel, call.lineno, arguments, buffers))
            return
        called = self._functions.get(name)
        if called is not None and self._depth < 4:  # a partition or a subgraph
            self._depth += 1
            self.run(called.body)
            self._depth -= 1

    def _asserted(self, call: ast.Call) -> None:
        """An input's sizes, where no example told them; its type stays unknown then."""
        if not isinstance(call.args[0], ast.Name):
            return
        name = call.args[0].id
        shape, stride = self._value(call.args[1], ""), self._value(call.args[2], "")
        known = self._values.get(name)
        if isinstance(known, TensorArgument) or not _plain(shape) or not _plain(stride):
            return
        self._bind(name, TensorArgument(name, name, tuple(shape), tuple(stride), "", 0, ""))

    def _argument(self, node: ast.expr) -> TensorArgument | ScalarArgument | Unknown:
        value = self._value(node, "")
        if isinstance(value, TensorArgument):
            if not value.dtype:
                return Unknown(f"the type of {value.name} is not written in the output code")
            return replace(value, name=node.id) if isinstance(node, ast.Name) else value
        if value is None or isinstance(value, bool | int | float):
            return ScalarArgument(value)
        return Unknown(f"{ast.unparse(node)[:80]} is not known before it runs")

    def _value(self, node: ast.expr, name: str) -> Any:  # noqa: PLR0911 - one form of expression each
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._values.get(node.id, _UNKNOWN)
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(self._value(element, "") for element in node.elts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand, "")
            return -value if isinstance(value, int | float) else _UNKNOWN
        if isinstance(node, ast.BinOp):
            return self._calculated(node)
        if isinstance(node, ast.Attribute):
            text = dotted(node)
            return _Dtype(text.removeprefix("torch.")) if text.startswith("torch.") else _UNKNOWN
        if isinstance(node, ast.Call):
            return self._made(node, name)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            return self._sliced(node.value, node.slice)
        return _UNKNOWN

    def _sliced(self, value: ast.expr, bounds: ast.Slice) -> Any:
        """A stretch of a one-dimensional tensor: Inductor's workspaces are cut so."""
        tensor = self._value(value, "")
        ends = [0 if end is None else self._value(end, "") for end in (bounds.lower, bounds.upper)]
        if not isinstance(tensor, TensorArgument) or len(tensor.shape) != 1 or not _plain(tuple(ends)):
            return _UNKNOWN
        first = min(max(0, ends[0]), tensor.shape[0])
        last = tensor.shape[0] if bounds.upper is None else min(max(first, ends[1]), tensor.shape[0])
        offset = tensor.offset + first * tensor.stride[0]
        return replace(tensor, shape=(last - first,), offset=offset)

    def _calculated(self, node: ast.BinOp) -> Any:
        left, right = self._value(node.left, ""), self._value(node.right, "")
        known = isinstance(left, int | float) and isinstance(right, int | float)
        function = _OPERATORS.get(type(node.op))
        try:
            return function(left, right) if known and function else _UNKNOWN
        except ZeroDivisionError:
            return _UNKNOWN

    def _method(self, function: ast.Attribute, call: ast.Call, name: str) -> Any:
        """``workspace[a:b].view(...).sum(dim=0)``: how a reduction over partial sums is written."""
        tensor = self._value(function.value, name)
        values = [self._value(argument, "") for argument in call.args]
        named = {k.arg: self._value(k.value, "") for k in call.keywords if k.arg}
        if not isinstance(tensor, TensorArgument):
            return _UNKNOWN
        if function.attr == "view" and _plain(tuple(values)) and tensor.stride == _contiguous(tensor.shape):
            return replace(tensor, shape=tuple(values), stride=_contiguous(tuple(values)))
        if function.attr == "sum" and isinstance(dim := named.get("dim", values[0] if values else None), int):
            shape = tuple(n for i, n in enumerate(tensor.shape) if i != dim % max(1, len(tensor.shape)))
            return TensorArgument(name, name, shape, _contiguous(shape), tensor.dtype, 0, tensor.device)
        return _UNKNOWN

    def _made(self, call: ast.Call, name: str) -> Any:  # noqa: PLR0911 - one call each
        """A tensor that a call makes: an allocation, an example input or a view."""
        if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Subscript | ast.Call):
            return self._method(call.func, call, name)
        function = dotted(call.func).rpartition(".")[2]
        values = [self._value(argument, "") for argument in call.args]
        named = {k.arg: self._value(k.value, "") for k in call.keywords if k.arg}
        if function in ("max", "min") and values and all(isinstance(v, int) for v in values):
            return max(values) if function == "max" else min(values)
        if function.startswith(("empty_strided", "_empty_strided", "rand_strided")) and len(values) >= 2:
            dtype = values[2] if len(values) > 2 else named.get("dtype")
            if not (_plain(values[0]) and _plain(values[1]) and isinstance(dtype, _Dtype)):
                return _UNKNOWN
            device = named.get("device") or function.rpartition("_")[2]
            device = device if isinstance(device, str) else ""
            return TensorArgument(
                name, name, tuple(values[0]), tuple(values[1]), dtype.name, 0, device.partition(":")[0]
            )
        if function in ("reinterpret_tensor", "_reinterpret_tensor") and len(values) >= 3:
            return _view(values, named)
        if function == "copy_if_misaligned" and values:
            return values[0]
        return _UNKNOWN


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _view(values: list[Any], named: Mapping[str, Any]) -> Any:
    base, shape, stride = values[:3]
    offset = values[3] if len(values) > 3 else named.get("offset_increment", 0)
    if not (isinstance(base, TensorArgument) and _plain(shape) and _plain(stride) and isinstance(offset, int)):
        return _UNKNOWN
    return replace(base, shape=tuple(shape), stride=tuple(stride), offset=base.offset + offset)


def _plain(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
