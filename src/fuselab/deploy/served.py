"""A compiled model that can be served: warm before the first request, eager where compiling fails, and counted.

Thread-safe: calls may come from many threads. Dynamo compiles under a lock of its own; counters have theirs.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fuselab.deploy import internals, start
from fuselab.deploy.archive import Package
from fuselab.deploy.golden import Answers, answer, in_float64, is_random, judge
from fuselab.deploy.manifest import Compilation
from fuselab.deploy.signature import Binder, Declared, Signature, declared_inputs, describe, signature
from fuselab.deploy.state import StateKept, copied
from fuselab.deploy.target import compiled, golden_inputs
from fuselab.errors import UnknownNameError, UsageError
from fuselab.experiment import Inputs
from fuselab.measure.calls import named_outputs

__all__ = ["COUNTERS", "CompiledModel", "UndeclaredCallError", "load"]

log = logging.getLogger("fuselab.deploy")

COUNTERS = {
    "calls": "calls that were answered or refused",
    "cold_calls": "calls that waited for a compilation",
    "recompiles": "frames that were compiled again although their call was warm",
    "fallbacks": "calls answered by eager since compiling them failed, or since they differed from eager",
    "undeclared": "calls that were not declared: refused, or answered by eager",
    "compared": "calls that were compared with eager",
    "mismatches": "compared calls that differed from eager by more than the tolerance",
}
"""The counters and what each counts."""

POLICIES = ("refuse", "eager")
ON_MISMATCH = ("log", "eager")
WAYS = ("auto", "aoti", "artifacts")


class UndeclaredCallError(UsageError):
    """A call whose shapes, dtypes or layout were not declared, under the policy ``refuse``."""


@dataclass
class _Route:
    """One declared call."""

    inputs: Inputs
    function: Callable[..., Any]
    warm: bool = False
    failed: str = ""
    """Why it is answered by eager: a compilation that failed, or a mismatch."""
    told: bool = False
    """Whether a mismatch was logged."""
    told_why_not: bool = False
    """Whether it was logged that a call could not be compared."""


class CompiledModel:
    """``torch.compile`` of a model, for the calls that were declared.

    Example:
        >>> def double(x):
        ...     return x * 2
        >>> model = CompiledModel(double, [(torch.ones(3),)], warm_up=False)
        >>> try:
        ...     model(torch.ones(4))
        ... except UndeclaredCallError as error:
        ...     print(error.message)
        double was called on float32[4], which was not declared
        >>> model.counters["undeclared"]
        1
    """

    def __init__(
        self,
        model: Callable[..., Any],
        declared: Iterable[Declared],
        *,
        undeclared: str = "refuse",
        training: bool = False,
        mode: str | None = None,
        dynamic: bool | None = False,
        options: Mapping[str, Any] | None = None,
        compare: float = 0.0,
        on_mismatch: str = "log",
        warm_up: bool = True,
        name: str = "",
        seed: int = 0,
    ) -> None:
        """Compile and, unless told otherwise, warm up every declared call before returning.

        Args:
            model: a function or a module. For inference a module has to be in eval mode.
            declared: the calls to be ready for: tuples or dicts of example arguments, or lists of ``--arg`` texts
                (``["x=f32[8,512]"]``).
            undeclared: what happens to other calls: ``refuse`` raises ``UndeclaredCallError``, ``eager`` runs the model
                as written.
            training: calls are made with gradients as the caller has them, and warmed with a backward; else without.
            mode: of ``torch.compile``.
            dynamic: of ``torch.compile``.
            options: of ``torch.compile``.
            compare: share of live calls, 0 to 1, that are run in eager and in float64, too, and compared. Such a call
                costs both; a module is copied for it.
            on_mismatch: ``log`` counts and says it once a call; ``eager`` answers with eager's result from then on.
            warm_up: False leaves compiling to the first live call of each kind.
            name: in log lines and metrics; the model's own unless given.
            seed: of the draw which calls are compared.

        Raises:
            UsageError: the settings do not go together.
            UnknownNameError: no such policy.
        """
        for noun, value, allowed in (("policy", undeclared, POLICIES), ("reaction", on_mismatch, ON_MISMATCH)):
            if value not in allowed:
                raise UnknownNameError(noun, value, allowed)
        if not 0.0 <= compare <= 1.0:
            raise UsageError(f"compare={compare!r} is no share of calls", hint="a number from 0 to 1, such as 0.01")
        self.name = name or getattr(model, "__name__", None) or type(model).__name__
        _require_mode(model, self.name, training=training)
        self._setup(model, undeclared, on_mismatch, compare, seed, training=training)
        compilation = Compilation(mode=mode, dynamic=dynamic, options=dict(options or {}))
        function = compiled(model, compilation)
        for call in declared:
            self._declare(declared_inputs(call, model, _device_of(model)), function)
        if not self._routes:
            raise UsageError(f"no call of {self.name} was declared", hint="give example arguments: [(x,)]")
        internals.count_frames()
        if compare:
            self._require_comparable()
        if warm_up:
            self.warm_up()

    @classmethod
    def from_pack(
        cls,
        path: Path | str,
        model: Callable[..., Any] | None = None,
        *,
        way: str = "auto",
        undeclared: str = "refuse",
        training: bool | None = None,
        compare: float = 0.0,
        on_mismatch: str = "log",
        warm_up: bool = True,
        sha256: str | None = None,
        name: str = "",
        seed: int = 0,
    ) -> CompiledModel:
        """Start from a package without compiling. Loading a package runs its code: load what you would run.

        Args:
            path: the package.
            model: the model that was packed, with the weights to serve. An AOTInductor package serves without it, with
                the weights of the day it was packed.
            way: ``artifacts`` (``torch.compile`` with the package's caches and kernels), ``aoti``, or ``auto``:
                AOTInductor where there is one and no gradients are wanted.
            undeclared: see the constructor; ``eager`` needs the model.
            training: a training step; what the package has unless given.
            compare: see the constructor; needs the model.
            on_mismatch: see the constructor.
            warm_up: call everything once before returning.
            sha256: what the file must hash to, from whoever ships it.
            name: in log lines and metrics.
            seed: of the draw which calls are compared.

        Raises:
            StoreError: the package is damaged or others could have changed it.
            ForeignPackageError: it was made for other hardware or versions.
            UsageError: it has not what was asked for.
        """
        if way not in WAYS:
            raise UnknownNameError("way to start", way, WAYS)
        with start.collector_paused(), Package(path, sha256=sha256) as package:
            manifest = package.manifest
            start.require_fitting(package)
            if training is None:
                training = "forward" not in manifest.directions
            direction = "backward" if training else "forward"
            calls = [call for call in manifest.calls if getattr(call, direction)]
            if not calls:
                raise UsageError(f"{path} has no {direction}", hint="pack it with --direction both")
            if way == "auto":
                way = "aoti" if manifest.has_aoti and not training else "artifacts"
            inputs = [golden_inputs(call, package.read, manifest.machine.device_type) for call in calls]
            if way == "artifacts":
                if model is None:
                    raise UsageError(f"{path} starts from its caches, which needs the model", hint="load(PACK, model)")
                start.load_caches(package)
                compilation = manifest.compilation
                return cls(
                    model,
                    inputs,
                    undeclared=undeclared,
                    training=training,
                    mode=compilation.mode,
                    dynamic=compilation.dynamic,
                    options=compilation.options,
                    compare=compare,
                    on_mismatch=on_mismatch,
                    warm_up=warm_up,
                    name=name,
                    seed=seed,
                )
            if model is None and (undeclared == "eager" or compare):
                raise UsageError("undeclared='eager' and compare need the model", hint="load(PACK, model)")
            if training:
                raise UsageError("an AOTInductor package has no backward", hint="way='artifacts'")
            self = cls.__new__(cls)
            self.name = name or manifest.model.target.rpartition(":")[2] or manifest.model.name
            _require_mode(model, self.name, training=False)
            self._setup(model, undeclared, on_mismatch, compare, seed, training=False)
            for ahead, given in zip(start.ahead_of_time(package, calls, [model] * len(calls)), inputs, strict=True):
                self._declare(given, ahead)
            if compare:
                self._require_comparable()
            if warm_up:
                self.warm_up()
        return self

    def _setup(
        self,
        model: Callable[..., Any] | None,
        undeclared: str,
        on_mismatch: str,
        compare: float,
        seed: int,
        *,
        training: bool,
    ) -> None:
        self._model = model
        self._bind = Binder(model)
        self._undeclared = undeclared
        self._on_mismatch = on_mismatch
        self._training = training
        self._share = compare
        self._draw = random.Random(seed)  # noqa: S311 - which calls are compared
        self._routes: dict[Signature, _Route] = {}
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._lock = threading.Lock()

    def _declare(self, inputs: Inputs, function: Callable[..., Any]) -> None:
        inputs = self._bind(inputs.args, inputs.kwargs)
        self._routes.setdefault(self._signature(inputs), _Route(inputs, function))

    @property
    def counters(self) -> dict[str, int]:
        """What was counted so far; the names are those of ``COUNTERS``."""
        with self._lock:
            return dict(self._counts)

    @property
    def failures(self) -> dict[str, str]:
        """Declared calls that eager answers, and why."""
        return {describe(route.inputs): route.failed for route in self._routes.values() if route.failed}

    def expose(self, registry: Any = None) -> Any:
        """Register the counters with prometheus-client; see ``metrics.expose``."""
        from fuselab.deploy.metrics import expose

        return expose(self, registry)

    def warm_up(self) -> None:
        """Call everything that was declared once; a compilation that fails is logged, and that call goes to eager."""
        for route in self._routes.values():
            if route.warm or route.failed:
                continue
            try:
                with StateKept(self._model), internals.more_recompiles(len(self._routes)):
                    answer(
                        route.function,
                        route.inputs.map(copied),
                        backward=self._training,
                        parameters_of=self._model if isinstance(self._model, torch.nn.Module) else None,
                    )
            except internals.compiler_errors() as error:
                self._give_up(route, error)
            else:
                route.warm = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer one call.

        Raises:
            UndeclaredCallError: it was not declared, and such calls are refused.
            Exception: whatever the model itself raises.
        """
        inputs = self._bind(args, kwargs)
        route = self._routes.get(self._signature(inputs))
        self._count("calls")
        if route is None:
            self._count("undeclared")
            if self._undeclared == "refuse":
                raise UndeclaredCallError(
                    f"{self.name} was called on {describe(inputs)}, which was not declared",
                    hint="declared: " + "; ".join(describe(r.inputs) for r in list(self._routes.values())[:8]),
                )
            return self._eager(inputs)
        if route.failed:
            self._count("fallbacks")
            return self._eager(inputs)
        kept = inputs.map(copied) if self._is_compared() else None
        # Before the call: while this one waits for its compilation, another thread's may end.
        was_warm, before = route.warm, internals.frames_here()
        try:
            result = self._run(route, inputs)
        except internals.compiler_errors() as error:
            result = self._eager(inputs)  # if the model itself is at fault, this raises what it raises
            self._give_up(route, error)
            self._count("fallbacks")
            return result
        if compiled_now := internals.frames_here() - before:
            self._count("cold_calls")
            if was_warm:
                self._count("recompiles", compiled_now)
            route.warm = True
        if kept is not None:
            return self._compared(route, kept, result)
        return result

    def _run(self, route: _Route, inputs: Inputs) -> Any:
        if self._training:
            return route.function(*inputs.args, **inputs.kwargs)
        inputs = inputs.map(lambda t: t.detach())
        with torch.no_grad():
            if route.warm:
                return route.function(*inputs.args, **inputs.kwargs)
            with internals.more_recompiles(len(self._routes)):
                return route.function(*inputs.args, **inputs.kwargs)

    def _eager(self, inputs: Inputs) -> Any:
        model = self._model
        if model is None:
            raise UsageError(f"{self.name} was loaded without its model: eager cannot answer", hint="load(PACK, model)")
        if self._training:
            return model(*inputs.args, **inputs.kwargs)
        with torch.no_grad():
            return model(*inputs.args, **inputs.kwargs)

    def _give_up(self, route: _Route, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"[:300]
        with self._lock:
            first, route.failed = not route.failed, route.failed or reason
        if first:
            log.warning("%s: compiling for %s failed; eager answers: %s", self.name, describe(route.inputs), reason)

    def _compared(self, route: _Route, inputs: Inputs, result: Any) -> Any:
        """The answer to a compared call, after it was held against eager's by the gate's bound."""
        model = self._model
        assert model is not None  # noqa: S101 - comparing without a model is refused when it is set up
        try:
            eager = answer(model, inputs.map(copied), backward=False)
            truths = in_float64(model, inputs, eager)
            got = Answers(result, {name: t.detach() for name, t in named_outputs(result)})
            wrong = [check for check in judge(got, eager, truths, inputs) if not check.correct]
        except Exception as error:  # noqa: BLE001 - out of memory, most often; the answer is there all the same
            with self._lock:
                first, route.told_why_not = not route.told_why_not, True
            if first:
                log.warning("%s: a call on %s could not be compared: %r", self.name, describe(inputs), error)
            return result
        self._count("compared")
        if not wrong:
            return result
        self._count("mismatches")
        what = f"{wrong[0].name}: {wrong[0].reason}"
        with self._lock:
            first, route.told = not route.told, True
            if self._on_mismatch == "eager":
                route.failed = route.failed or f"differed from eager: {what}"
        if first:
            log.warning("%s differs from eager on %s: %s", self.name, describe(inputs), what)
        return result if self._on_mismatch == "log" else eager.raw

    def _require_comparable(self) -> None:
        assert self._model is not None  # noqa: S101 - see _compared
        if self._training:
            raise UsageError("compare judges inference, not training steps", hint="compare=0, or training=False")
        for route in self._routes.values():
            if is_random(self._model, route.inputs, backward=False):
                raise UsageError(
                    f"{self.name} draws random numbers: two of its answers differ, and comparing them says nothing",
                    hint="compare=0",
                )

    def _is_compared(self) -> bool:
        if not self._share:
            return False
        with self._lock:
            return self._draw.random() < self._share

    def _signature(self, inputs: Inputs) -> Signature:
        return signature(inputs, training=self._training)

    def _count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount


def load(path: Path | str, model: Callable[..., Any] | None = None, **settings: Any) -> CompiledModel:
    """Start from a package; the same as ``CompiledModel.from_pack``."""
    return CompiledModel.from_pack(path, model, **settings)


def _require_mode(model: Any, name: str, *, training: bool) -> None:
    if isinstance(model, torch.nn.Module) and model.training and not training:
        raise UsageError(f"{name} is in train mode and is to be served", hint="call model.eval(), or say training=True")


def _device_of(model: Any) -> str:
    if isinstance(model, torch.nn.Module):
        return next((p.device.type for p in model.parameters()), "cpu")
    return "cpu"
