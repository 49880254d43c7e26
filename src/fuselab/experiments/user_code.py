"""A user's own code, called: for workers only.

Modules are constructed from the run's seed, each variant its own, so that all start from identical parameters. What the
user's code raises passes through as it is; it is recorded in its cell.
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fuselab.errors import UsageError
from fuselab.experiment import Implementation, Inputs
from fuselab.experiments.arguments import ArgumentSpec, TensorSpec
from fuselab.experiments.user_arguments import bind, drawn, inputs_from, moved, without_storage
from fuselab.experiments.user_file import Loaded, seeded
from fuselab.experiments.user_traffic import traffic_of
from fuselab.records import Direction, Traffic

if TYPE_CHECKING:
    import torch

__all__ = ["UserCode"]


class UserCode:
    """A function, an ``nn.Module`` class or an instance of one, with what it is to be called on."""

    def __init__(self, name: str, load: Callable[[], Loaded], arguments: Sequence[ArgumentSpec], seed: int) -> None:
        """Take note; nothing is loaded yet.

        Args:
            name: what it is called in errors.
            load: returns the object and, where they are, ``get_inputs`` and ``get_init_inputs``; called when needed.
            arguments: what to call it on; without any, ``get_inputs`` is asked, if there is one.
            seed: of module parameters.
        """
        self._name = name
        self._load = load
        self._arguments = tuple(arguments)
        self._seed = seed
        self._device_type: str | None = None
        self._unplaced: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()

    def implementation(self) -> Implementation:
        """The function itself, or a new module in train mode on the device of the inputs.

        A variant is built without being told the device, which is that of the inputs: a module built before them
        follows when they are made.
        """
        import torch

        target = self._target()
        if not _is_module(target):
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
        name = self._name
        if not isinstance(implementation, torch.nn.Module):

            def in_float64(*args: Any, **kwargs: Any) -> Any:
                try:
                    return implementation(*args, **kwargs)
                except Exception as error:
                    raise _refusal(name, error) from error

            return in_float64
        kind: Any = type(implementation)

        # A subclass, so that parameters keep their names and copies of the module call their own forward.
        class InFloat64(kind):  # type: ignore[misc]
            def forward(self, *args: Any, **kwargs: Any) -> Any:
                try:
                    return super().forward(*args, **kwargs)
                except Exception as error:
                    raise _refusal(name, error) from error

        module = implementation.double()
        module.__class__ = InFloat64
        return module

    def make_inputs(self, device_type: str, seed: int) -> Inputs:
        """What ``get_inputs()`` returns, or what the arguments describe, drawn from a seed."""
        import torch

        loaded = self._load()
        self._device_type = device_type
        for module in list(self._unplaced):
            module.to(torch.device(device_type))
        self._unplaced.clear()
        if self._arguments or loaded.get_inputs is None:
            return self._bound(drawn(device_type, seed))
        with seeded(seed):
            inputs = inputs_from(loaded.get_inputs(), "get_inputs()")
        return inputs.map(lambda tensor: moved(tensor, device_type))

    def check_arguments(self) -> None:
        """Raise what is wrong with the arguments or the target, without drawing anything."""
        if self._arguments or self._load().get_inputs is None:
            self._bound(lambda _: None)

    def traffic(self, direction: Direction) -> Traffic | None:
        """The fewest bytes of one call; None where nobody can say (see ``user_traffic``)."""
        loaded = self._load()  # here, since what the file makes for itself has to have its storage
        target = self._target()

        def make() -> tuple[Implementation, Inputs]:
            with seeded(self._seed):
                function = self._new_module(target).to("meta") if _is_module(target) else target
                if self._arguments or loaded.get_inputs is None:
                    return function, self._bound(without_storage)
                inputs = inputs_from(loaded.get_inputs(), "get_inputs()")
            return function, inputs.map(lambda tensor: moved(tensor, "meta"))

        return traffic_of(make, direction)

    def _target(self) -> Any:
        target = self._load().target
        if inspect.isclass(target) and not _is_module(target):
            raise UsageError(
                f"{self._name} is a class and no torch.nn.Module", hint="name a function, an nn.Module or an instance"
            )
        if not callable(target):
            raise UsageError(
                f"{self._name} is a {type(target).__name__} and cannot be called",
                hint="name a function, an nn.Module or an instance of one",
            )
        return target

    def _new_module(self, target: Any) -> torch.nn.Module:
        module: torch.nn.Module
        if not inspect.isclass(target):
            module = copy.deepcopy(target)
            return module.train()
        constructor: Any = target
        get_init_inputs = self._load().get_init_inputs
        init = Inputs()
        if get_init_inputs is not None:
            with seeded(self._seed):
                init = inputs_from(get_init_inputs(), "get_init_inputs()")
        try:
            inspect.signature(constructor).bind(*init.args, **init.kwargs)
        except TypeError as error:
            raise UsageError(
                f"{self._name} cannot be constructed: {error}",
                hint="define get_init_inputs() in the file: it returns the list of arguments of the constructor",
            ) from error
        with seeded(self._seed):
            module = constructor(*init.args, **init.kwargs)
        return module.train()

    def _bound(self, make: Callable[[TensorSpec], Any]) -> Inputs:
        function = target = self._target()
        if _is_module(target):
            function = target.forward
            if inspect.isclass(target):
                function = function.__get__(object())  # forward still has its self; any object will do to bind it
        return bind(function, self._arguments, make, what=self._name)


def _is_module(target: Any) -> bool:
    import torch

    return issubclass(target if inspect.isclass(target) else type(target), torch.nn.Module)


def _refusal(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{name} refuses float64 inputs, which the reference is computed in: {type(error).__name__}: {error}",
        hint="take dtypes from the inputs (x.dtype), and cast what you compute with to them",
    )
