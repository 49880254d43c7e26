"""A module that Inductor generated for a GPU, run on the CPU: its kernels in Triton's interpreter, one after the other.

For a process of its own, started with ``TRITON_INTERPRET=1``. The module's text is executed as it is, but for what
names the device: tensors are allocated on the CPU, libraries' calls go to their CPU counterparts, and a kernel is what
its source says, without Inductor's launcher, in the heuristic's first configuration.

Every tensor lies between two strips that no kernel has any business with, filled with NaN (integers: a pattern), as is
what has not been written. A store that leaves its tensor is seen on the strips, and a load that does is seen in the
results, where it would be luck on a device.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fuselab.card.triton_source import argument_names, launch_grid, read_triton_source
from fuselab.offline.counterparts import UnsupportedError

__all__ = ["KernelRun", "Memory", "Module", "OutOfBoundsError", "without_launcher"]

MOST_PROGRAMS = 4096
"""The interpreter takes about a millisecond an operation and program."""
_STRIP = 1 << 16
"""Elements of a strip, at most; at least the tensor's own size, up to that."""
_PATTERN = -86
_CUDA = ("cuda", "cuda:0")
_REPLACED = {"empty_strided_cuda", "get_raw_stream", "AsyncCompile", "extern_kernels", "empty_strided_p2p"}


class OutOfBoundsError(Exception):
    """A kernel wrote to what is not its own; the message says which tensor's surroundings."""


@dataclass
class KernelRun:
    """What became of one kernel."""

    name: str
    launches: int = 0
    programs: int = 0
    problem: str = ""


@dataclass
class Memory:
    """Allocates tensors between strips, and looks after the strips."""

    _strips: list[tuple[torch.Tensor, int, int]] = field(default_factory=list)

    def empty(self, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor whose elements and surroundings are NaN, or a pattern where there is no NaN."""
        extent = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else 0
        strip = min(_STRIP, max(1024, extent))
        whole = torch.empty(extent + 2 * strip, dtype=dtype)
        _poison(whole)
        self._strips.append((whole, strip, extent))
        return whole.as_strided(tuple(size), tuple(stride), strip)

    def copied(self, tensor: torch.Tensor, stride: Sequence[int] | None = None) -> torch.Tensor:
        """The same values, between strips; strides are kept, or as given."""
        made = self.empty(tensor.shape, tensor.stride() if stride is None else stride, tensor.dtype)
        return made.copy_(tensor.detach())

    def check(self) -> None:
        """Raises OutOfBoundsError where a strip was written to."""
        for whole, strip, extent in self._strips:
            for part in (whole[:strip], whole[strip + extent :]):
                if not _poisoned(part):
                    raise OutOfBoundsError(f"it wrote outside of a tensor of {extent} {whole.dtype} elements")


def _poison(whole: torch.Tensor) -> None:
    if whole.dtype.is_floating_point or whole.dtype.is_complex:
        whole.fill_(float("nan"))
    elif whole.dtype is torch.bool:
        whole.fill_(False)
    else:
        whole.fill_(_PATTERN % 128 if not whole.dtype.is_signed else _PATTERN)


def _poisoned(part: torch.Tensor) -> bool:
    if part.dtype.is_floating_point or part.dtype.is_complex:
        return bool(part.isnan().all())
    if part.dtype is torch.bool:
        return not bool(part.any())
    return bool((part == (_PATTERN % 128 if not part.dtype.is_signed else _PATTERN)).all())


def without_launcher(source: str) -> str:
    """A kernel's source without what stands above ``@triton.jit``: Inductor's launcher wants a device.

    Example:
        >>> print(without_launcher("@heuristics.pointwise(\\n    size=1,\\n)\\n@triton.jit\\ndef k(x):\\n    pass"))
        @triton.jit
        def k(x):
            pass
    """
    lines = source.splitlines()
    dropped: set[int] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if not ast.unparse(decorator).endswith("jit"):
                    dropped.update(range(decorator.lineno - 1, (decorator.end_lineno or decorator.lineno)))
    return "\n".join(line for number, line in enumerate(lines) if number not in dropped)


class _Kernel:
    """One generated kernel, callable as the generated module calls it."""

    def __init__(self, owner: Module, name: str, source: str) -> None:
        self._owner, self._name, self._text = owner, name, source
        self._read = read_triton_source(source)
        self._function: Any = None

    def run(self, *arguments: Any, stream: Any = None, **named: Any) -> None:
        """Interpret one launch, all programs in order."""
        owner = self._owner
        done = owner.runs.setdefault(self._name, KernelRun(self._name))
        owner.now(self._name)
        names = argument_names(self._read, len(arguments))
        values = {**dict(zip(names, arguments, strict=True)), **named}
        config = owner.configs.get(self._name, {})
        sizes = {**self._read.sizes, **{n: v for n, v in values.items() if isinstance(v, int)}}
        grid = launch_grid(self._read.inductor_meta, {k: v for k, v in config.items() if isinstance(v, int)}, sizes)
        try:
            if isinstance(grid, str):
                raise UnsupportedError(f"its grid is not known: {grid}")
            if self._read.inductor_meta.get("grid_type") == "CooperativeReductionGrid":
                raise UnsupportedError("its programs wait for each other, and the interpreter runs one after the other")
            programs = grid[0] * grid[1] * grid[2]
            if programs > MOST_PROGRAMS:
                raise UnsupportedError(f"{programs} programs are too many to interpret (at most {MOST_PROGRAMS})")
            constants = {n: v for n, v in config.items() if n in self._read.parameters and n not in values}
            if self._function is None:
                self._function = owner.function(self._name, self._text, self._read.function)
            self._function[grid](**values, **constants)
            owner.memory.check()
        except OutOfBoundsError as error:
            done.problem = str(error)
            raise
        except Exception as error:
            text = str(error) or str(error.__cause__ or "")
            done.problem = text if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {text[:300]}"
            raise
        done.launches += 1
        done.programs += programs


class _Kernels:
    """Stands for ``AsyncCompile``: what is compiled becomes what is interpreted."""

    def __init__(self, owner: Module) -> None:
        self._owner = owner

    def triton(self, name: str, source: str, *_args: Any, **_settings: Any) -> _Kernel:
        """A kernel from its source."""
        return _Kernel(self._owner, name, self._owner.edit(name, source))

    def wait(self, _scope: dict[str, Any]) -> None:
        """Nothing is compiled in the background."""

    def __getattr__(self, name: str) -> Any:
        raise UnsupportedError(f"kernels made by {name} are not interpreted")


class _Libraries:
    """Stands for ``extern_kernels``: the operators of the same names, on the CPU."""

    def __init__(self, owner: Module) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        plain = name.removeprefix("bias_")  # an addmm by another library call
        function = getattr(torch, plain, None)
        if function is None:
            raise UnsupportedError(f"extern_kernels.{name} has no CPU counterpart")
        self._owner.libraries[name] = self._owner.libraries.get(name, 0) + 1
        return function


class _OnTheCpu(ast.NodeTransformer):
    """The device's name in a generated module, and what only a CUDA build of torch has."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("cpu") if isinstance(node.value, str) and node.value in _CUDA else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) in ("device", "torch.device"):
            node.keywords = [k for k in node.keywords if k.arg != "index"]
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        node.names = [n for n in node.names if (n.asname or n.name) not in _REPLACED]
        return node if node.names else None

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in _REPLACED:
            return None
        return self.generic_visit(node)


class Module:
    """A generated module on the CPU."""

    def __init__(
        self,
        text: str,
        folder: Path,
        configs: Mapping[str, Mapping[str, Any]],
        *,
        memory: Memory,
        now: Callable[[str], None] = lambda _name: None,
        edit: Callable[[str, str], str] = lambda _name, source: source,
    ) -> None:
        """Execute a module's text.

        Args:
            text: the module, as Inductor wrote it.
            folder: kernels are written there, since Triton reads their sources.
            configs: block sizes by kernel.
            memory: where its tensors are allocated.
            now: is told of each kernel before it runs.
            edit: may change a kernel's source, given its name.

        Raises:
            UnsupportedError: it needs something that cannot be had on a CPU.
        """
        self.configs, self.memory, self.now, self.edit = configs, memory, now, edit
        self.runs: dict[str, KernelRun] = {}
        self.libraries: dict[str, int] = {}
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        tree = ast.fix_missing_locations(_OnTheCpu().visit(ast.parse(text)))
        path = folder / "module.py"
        path.write_text(ast.unparse(tree), encoding="utf-8")
        scope: dict[str, Any] = {
            "__name__": "generated",
            "__file__": str(path),
            "AsyncCompile": lambda: _Kernels(self),
            "extern_kernels": _Libraries(self),
            "get_raw_stream": lambda _device: 0,
            "empty_strided_cuda": memory.empty,
            "empty_strided_p2p": None,
        }
        exec(compile(tree, str(path), "exec"), scope)  # noqa: S102 - the module that was generated a moment ago
        self._call: Callable[[list[Any]], Any] = scope["call"]

    def __call__(self, arguments: list[Any]) -> list[Any]:
        """Run it; the list is emptied."""
        with torch.no_grad():
            return list(self._call(arguments))

    def function(self, name: str, source: str, function: str) -> Any:
        """A kernel's function, for the interpreter."""
        path = self._folder / f"{name}.py"
        path.write_text(without_launcher(source), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"interpreted_{self._folder.name}_{name}", path)
        if spec is None or spec.loader is None:
            raise UnsupportedError(f"{path} cannot be imported")
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, function)
