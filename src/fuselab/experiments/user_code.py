"""A user's own code, loaded and called: for workers only, since this executes the user's file.

Modules are constructed from the run's seed, each variant its own, so that all start from identical parameters. What the
user's code raises passes through as it is; it is recorded in its cell.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib.util
import inspect
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fuselab.errors import ArgumentSpecError, UsageError
from fuselab.experiment import Implementation, Inputs
from fuselab.experiments.arguments import ArgumentSpec, TensorSpec
from fuselab.records import DTYPES, Direction, Traffic

if TYPE_CHECKING:
    import torch

__all__ = ["UserCode"]

PARTIAL_READS = frozenset(
    {"__getitem__", "embedding", "embedding_bag", "gather", "index_select", "masked_select", "narrow", "select", "take"}
    | {"take_along_dim"}
)
"""Functions that need not read all of their input: with one of them in the code, nobody can say what is the fewest."""

LARGE_STREAM = 0.25
"""A tensor counts as a large stream from this share of the largest one on."""


class UserCode:
    """The function, module class or module instance that ``FILE.py:NAME`` names, loaded once when first needed."""

    def __init__(self, path: Path, name: str, arguments: Sequence[ArgumentSpec], seed: int) -> None:
        self._path = path
        self._name = name
        self._arguments = tuple(arguments)
        self._seed = seed
        self._file: ModuleType | None = None
        self._device_type: str | None = None
        self._unplaced: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()

    def implementation(self) -> Implementation:
        """The function itself, or a new module in train mode on the device of the inputs.

        A variant is built without being told the device, which is that of the inputs: a module built before them
        follows when they are made.
        """
        import torch

        target = self._target()
        if not self._is_module(target):
            function: Implementation = target
            return function
        module = self._new_module(target)
        if self._device_type is None:
            self._unplaced.add(module)
        else:
            module.to(torch.device(self._device_type))
        return module

    def reference(self) -> Implementation:
        """The same code, to be called on float64 inputs: a module has its parameters in float64 too.

        Code that refuses float64 raises ``UsageError`` when called; its own error is the cause.
        """
        import torch

        implementation = self.implementation()
        if not isinstance(implementation, torch.nn.Module):
            return self._explained(implementation)
        module = implementation.double()
        # On the instance, so that the parameters keep their names.
        module.forward = self._explained(module.forward)
        return module

    def make_inputs(self, device_type: str) -> Inputs:
        """What the file's ``get_inputs()`` returns, or what the arguments describe, drawn from the seed."""
        import torch

        self._device_type = device_type
        for module in list(self._unplaced):
            module.to(torch.device(device_type))
        self._unplaced.clear()
        if not self._arguments and hasattr(self._load(), "get_inputs"):
            with _seeded(self._seed):
                inputs = _inputs_from(self._load().get_inputs(), "get_inputs()")
            return inputs.map(lambda tensor: _moved(tensor, device_type))
        generator = torch.Generator(device=device_type).manual_seed(self._seed)
        return self._bound(lambda spec: _drawn(spec, device_type, generator))

    def traffic(self, direction: Direction) -> Traffic | None:
        """Bytes that have to be moved at the least, from one run on tensors without storage; None when that fails.

        Forward: every input tensor and parameter once, every output once. Backward: the outputs' gradients in, the
        gradients out; whether the inputs are needed again depends on the code, and the fewest counts without. None too
        where the code indexes, since it may not read all of a tensor then.
        """
        import torch

        try:
            target = self._target()  # outside of what follows: a tensor that the file makes for itself has its storage
            with torch.device("meta"), _watch_partial_reads() as partial, _seeded(self._seed):
                module = self._new_module(target).to("meta") if self._is_module(target) else None
                inputs = self._meta_inputs()
                outputs = (target if module is None else module)(*inputs.args, **inputs.kwargs)
        except Exception:  # noqa: BLE001 - whatever the user's code raises without storage, it may well run with it
            return None
        if partial:
            return None
        parameters = [] if module is None else list(module.parameters())
        read = [tensor for _, tensor in inputs.tensors()] + parameters
        written = list(_tensors(outputs))
        if direction is Direction.BACKWARD:
            read, written = (
                [tensor for tensor in written if tensor.requires_grad],
                [tensor for tensor in read if tensor.requires_grad],
            )
        reads, writes = _bytes(read), _bytes(written)
        if not reads + writes:
            return None
        large = LARGE_STREAM * max(reads + writes)
        return Traffic(
            bytes_read=sum(reads),
            bytes_written=sum(writes),
            reads=sum(size >= large for size in reads),
            writes=sum(size >= large for size in writes),
        )

    def _load(self) -> ModuleType:
        if self._file is None:
            # A name of our own: the file's may be that of an installed package.
            digest = hashlib.sha256(str(self._path).encode()).hexdigest()[:12]
            name = f"_fuselab_user_{digest}_{id(self)}"
            spec = importlib.util.spec_from_file_location(name, self._path)
            if spec is None or spec.loader is None:
                raise UsageError(f"{self._path} cannot be imported", hint="it has to be a .py file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            try:
                with _on_path(self._path.parent), _seeded(self._seed):
                    spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            weakref.finalize(self, sys.modules.pop, name, None)
            self._file = module
        return self._file

    def _target(self) -> Any:
        file = self._load()
        if not hasattr(file, self._name):
            raise UsageError(
                f"{self._path.name} did not define {self._name!r} when it was run",
                hint="define it at the top level, whatever the environment",
            )
        target = getattr(file, self._name)
        if inspect.isclass(target) and not self._is_module(target):
            raise UsageError(
                f"{self._name} is a class and no torch.nn.Module", hint="name a function, an nn.Module or an instance"
            )
        if not callable(target):
            raise UsageError(
                f"{self._name} is a {type(target).__name__} and cannot be called",
                hint="name a function, an nn.Module or an instance of one",
            )
        return target

    @staticmethod
    def _is_module(target: Any) -> bool:
        import torch

        return issubclass(target if inspect.isclass(target) else type(target), torch.nn.Module)

    def _new_module(self, target: Any) -> torch.nn.Module:

        if not inspect.isclass(target):
            copied: torch.nn.Module = copy.deepcopy(target)
            return copied.train()
        init = Inputs()
        if hasattr(self._load(), "get_init_inputs"):
            with _seeded(self._seed):
                init = _inputs_from(self._load().get_init_inputs(), "get_init_inputs()")
        try:
            inspect.signature(target).bind(*init.args, **init.kwargs)
        except TypeError as error:
            raise UsageError(
                f"{self._name} cannot be constructed: {error}",
                hint="define get_init_inputs() in the file: it returns the list of arguments of the constructor",
            ) from error
        with _seeded(self._seed):
            constructed: Any = target(*init.args, **init.kwargs)
        module: torch.nn.Module = constructed.train()
        return module

    def _explained(self, function: Implementation) -> Implementation:
        def in_float64(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                raise UsageError(
                    f"{self._name} refuses float64 inputs, which the reference is computed in: "
                    f"{type(error).__name__}: {error}",
                    hint="take dtypes from the inputs (x.dtype), and cast what you compute with to them",
                ) from error

        return in_float64

    def _bound(self, draw: Any) -> Inputs:
        """The arguments in the order of the signature: by position where that is possible, else by name."""
        target = self._target()
        function = target.forward if self._is_module(target) else target
        values = {spec.name: draw(spec.value) if isinstance(spec.value, TensorSpec) else spec.value
                  for spec in self._arguments}  # fmt: skip
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            # Builtins have none that Python can see: by position, as the command line has them.
            return Inputs(tuple(values.values()), names=tuple(values))
        parameters = list(signature.parameters.values())
        if inspect.isclass(target):
            parameters = parameters[1:]
        args: list[Any] = []
        names: list[str] = []
        kwargs: dict[str, Any] = {}
        by_position = True
        for parameter in parameters:
            if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
                continue
            if parameter.name not in values:
                if parameter.default is parameter.empty:
                    raise ArgumentSpecError(
                        f"{self._name} needs {parameter.name!r}, and no --arg gives it",
                        hint=f"add --arg '{parameter.name}=bf16[4096,1024]'",
                    )
                by_position = False
            elif by_position and parameter.kind is not parameter.KEYWORD_ONLY:
                args.append(values.pop(parameter.name))
                names.append(parameter.name)
            else:
                kwargs[parameter.name] = values.pop(parameter.name)
        kinds = {parameter.kind for parameter in parameters}
        if values and inspect.Parameter.VAR_KEYWORD not in kinds:
            if inspect.Parameter.VAR_POSITIONAL not in kinds or not by_position:
                raise ArgumentSpecError(
                    f"{self._name} has no parameter {next(iter(values))!r}",
                    hint=f"its parameters: {', '.join(p.name for p in parameters) or 'none'}",
                )
            args += values.values()
            names += values
            values = {}
        return Inputs(tuple(args), {**kwargs, **values}, names=tuple(names))

    def _meta_inputs(self) -> Inputs:
        import torch

        if not self._arguments and hasattr(self._load(), "get_inputs"):
            return _inputs_from(self._load().get_inputs(), "get_inputs()").map(lambda tensor: _moved(tensor, "meta"))

        def empty(spec: TensorSpec) -> torch.Tensor:
            dtype: torch.dtype = getattr(torch, DTYPES[spec.dtype])
            return torch.empty(spec.shape, dtype=dtype, device="meta", requires_grad=spec.requires_grad)

        return self._bound(empty)


def _drawn(spec: TensorSpec, device_type: str, generator: torch.Generator) -> torch.Tensor:
    """Normal noise, integers of the range, or coins; never zeros, which hide wrong answers and are fast to move."""
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[spec.dtype])
    if dtype == torch.bool:
        return torch.randint(0, 2, spec.shape, generator=generator, device=device_type).bool()
    if not dtype.is_floating_point:
        low, high = spec.bounds
        # randint draws below `high`, which itself need not fit into a narrow dtype.
        return torch.randint(low, high, spec.shape, generator=generator, device=device_type).to(dtype)
    drawn_in = torch.float64 if dtype == torch.float64 else torch.float32
    values = torch.randn(spec.shape, generator=generator, device=device_type, dtype=drawn_in)
    return values.to(dtype).requires_grad_(spec.requires_grad)


def _moved(tensor: torch.Tensor, device_type: str) -> torch.Tensor:
    """On the device, as a leaf that requires grad if the user's did."""
    import torch

    return tensor.detach().to(torch.device(device_type)).requires_grad_(tensor.requires_grad)


def _inputs_from(returned: Any, source: str) -> Inputs:
    """Arguments from what a user's ``get_inputs()`` returned: a list or tuple, a dict by name, or one tensor."""
    if isinstance(returned, Mapping):
        return Inputs(kwargs=dict(returned))
    if isinstance(returned, (list, tuple)):
        return Inputs(tuple(returned))
    if hasattr(returned, "requires_grad"):
        return Inputs((returned,))
    raise UsageError(
        f"{source} returned a {type(returned).__name__}",
        hint="return the list of arguments, or a dict of them by name",
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
def _seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from a seed, and as they were afterwards."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """The folder first on ``sys.path``, as when the file is run by itself."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(entry)


@contextlib.contextmanager
def _watch_partial_reads() -> Iterator[list[str]]:
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
