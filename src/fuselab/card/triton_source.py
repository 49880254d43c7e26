"""What the source of a Triton kernel says about its launch: parameters, grid, the device that it was written for.

Pure. The source is read as Python (``ast``); the grid is worked out as Inductor's launcher does, from ``grid_type``.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuselab.ir.syntax import dotted

__all__ = ["TritonSource", "argument_names", "launch_grid", "read_triton_source"]

_MOST_PROGRAMS_Y = 65535


@dataclass(frozen=True)
class TritonSource:
    """The kernel function of a module that Inductor wrote for one Triton kernel."""

    function: str
    """Name of the kernel's function."""
    parameters: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()
    """Parameters declared ``tl.constexpr``."""
    inductor_meta: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    """``DeviceProperties`` as written: ``cc``, ``multi_processor_count``, ..."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Parameters that the function sets to a number itself: ``xnumel = 512``."""


def read_triton_source(text: str) -> TritonSource:
    """Read a kernel's module.

    Raises:
        ValueError: it defines no function under ``triton.jit``.
        SyntaxError: the text is not Python.
    """
    functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
    jitted = [f for f in functions if any(_decorator(d) in ("triton.jit", "jit") for d in f.decorator_list)]
    # A user's kernel brings its helpers along, which are jitted as well: the kernel is what has a launcher around it.
    launched = [f for f in jitted if len(f.decorator_list) > 1] or jitted
    if not launched:
        raise ValueError("no function under triton.jit in this source")
    kernel = launched[-1]
    arguments = [*kernel.args.posonlyargs, *kernel.args.args, *kernel.args.kwonlyargs]
    constants = {a.arg for a in arguments if a.annotation is not None and "constexpr" in ast.unparse(a.annotation)}
    sizes = {}
    for statement in kernel.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            value = _literal(statement.value)
            if isinstance(value, int) and statement.targets[0].id in {a.arg for a in arguments}:
                sizes[statement.targets[0].id] = value
    meta: dict[str, Any] = {}
    device: dict[str, Any] = {}
    for decorator in kernel.decorator_list:
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if keyword.arg == "inductor_meta":
                meta = _dictionary(keyword.value)
            elif keyword.arg == "triton_meta":
                device = _device(keyword.value)
    return TritonSource(kernel.name, tuple(a.arg for a in arguments), frozenset(constants), meta, device, sizes)


def argument_names(source: TritonSource, count: int) -> tuple[str, ...]:
    """Names of the ``count`` positional arguments that the output module launches the kernel with.

    Block sizes are the launcher's to fill in; a constant that Inductor passes itself is among the arguments.
    """
    without = tuple(p for p in source.parameters if p not in source.constants)
    if count == len(without):
        return without
    names = source.parameters if count <= len(source.parameters) else without
    return (*names[:count], *(f"argument {i}" for i in range(len(names), count)))


def launch_grid(
    meta: Mapping[str, Any], config: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[int, int, int] | str:
    """Programs along x, y and z, or the reason for which they are not known.

    Args:
        meta: the kernel's ``inductor_meta``.
        config: block sizes of the configuration in use.
        sizes: ``xnumel``, ``ynumel``, ... and other integer arguments.

    Example:
        >>> launch_grid({"grid_type": "Grid1D"}, {"XBLOCK": 128}, {"xnumel": 1000})
        (8, 1, 1)
    """
    kind = meta.get("grid_type")
    if not config:
        return "the block sizes are not known: nothing was launched while it was captured"
    try:
        return _grid(str(kind), meta, config, sizes)
    except KeyError as error:
        return f"the grid ({kind}) needs {error}, which is not known"


def _grid(  # noqa: PLR0911 - a table of Inductor's grids
    kind: str, meta: Mapping[str, Any], config: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[int, int, int] | str:
    def along(axis: str) -> int:
        block: int = config.get(f"{axis.upper()}BLOCK", 1)
        return -(-sizes[f"{axis}numel"] // block)

    if kind in ("Grid1D", "Grid2D", "Grid3D"):
        x, y, z = (along(axis) if i < int(kind[4]) else 1 for i, axis in enumerate("xyz"))
        return (x, y, z)
    if kind == "BatchMatmulGrid3D":
        return (along("z"), along("y"), along("x"))
    if kind == "Grid2DWithYZOverflow":
        rows = along("y")
        parts = -(-rows // _MOST_PROGRAMS_Y)
        return (along("x"), 0 if parts == 0 else -(-rows // parts), parts)
    if kind == "MixOrderReductionGrid":
        return (-(-sizes["xnumel"] // config["RSPLIT_SIZE"]), 1, 1)
    if kind == "CooperativeReductionGrid":
        return (config["RSPLIT"], along("x"), 1)
    if kind == "SplitScanGrid":
        return (-(-sizes["r0_numel"] // config["R0_BLOCK"]), sizes["xnumel"], 1)
    if kind == "PrecomputedGrid":
        return _precomputed(meta, config, sizes)
    if kind == "FixedGrid":
        x, y, z = (_evaluated(text, sizes) for text in meta["fixed_grid"])
        return (x, y, z)
    return f"this kind of grid is not known here: {kind}"


def _precomputed(
    meta: Mapping[str, Any], config: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[int, int, int] | str:
    for candidate in meta["precomputed_grids"]:
        if all(config.get(name) == value for name, value in candidate["config"].items()):
            x, y, z = (_evaluated(text, sizes) for text in candidate["python"])
            return (x, y, z)
    return "no precomputed grid belongs to the configuration in use"


def _evaluated(text: Any, sizes: Mapping[str, int]) -> int:
    """A grid's size as Inductor writes it: numbers and sizes with ``+ - * // %``, max and min; KeyError if not."""
    if isinstance(text, int):
        return text
    return _integer(ast.parse(str(text), mode="eval").body, sizes)


def _integer(node: ast.expr, sizes: Mapping[str, int]) -> int:  # noqa: PLR0911 - one form of expression each
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_integer(node.operand, sizes)
    if isinstance(node, ast.Call) and dotted(node.func) in ("max", "min"):
        values = [_integer(argument, sizes) for argument in node.args]
        return max(values) if dotted(node.func) == "max" else min(values)
    if isinstance(node, ast.BinOp):
        a, b = _integer(node.left, sizes), _integer(node.right, sizes)
        if isinstance(node.op, ast.Add | ast.Sub):
            return a + b if isinstance(node.op, ast.Add) else a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.FloorDiv | ast.Mod) and b:
            return a // b if isinstance(node.op, ast.FloorDiv) else a % b
    raise KeyError(ast.unparse(node))


def _decorator(node: ast.expr) -> str:
    return dotted(node.func if isinstance(node, ast.Call) else node)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _dictionary(node: ast.expr) -> dict[str, Any]:
    """The entries of a dictionary display that are plain literals."""
    if not isinstance(node, ast.Dict):
        return {}
    pairs: Sequence[tuple[ast.expr | None, ast.expr]] = list(zip(node.keys, node.values, strict=True))
    return {str(_literal(key)): _literal(value) for key, value in pairs if key is not None}


def _device(node: ast.expr) -> dict[str, Any]:
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and dotted(call.func).endswith("DeviceProperties"):
            return {str(k.arg): _literal(k.value) for k in call.keywords}
    return {}
