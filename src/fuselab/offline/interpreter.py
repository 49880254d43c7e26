"""The generated kernels of a program, forward and backward, interpreted on numbers and compared with eager's results.

``python -m fuselab.offline.interpreter``, started with ``TRITON_INTERPRET=1``: one :class:`Interpretation` on stdin,
an :class:`InterpretedRun` as a file. What is compared, and within what bounds, is what ``fuselab run`` compares: every
output and gradient, with a float64 reference, beside eager's own error.
"""

from __future__ import annotations

import ast
import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fuselab import child
from fuselab.experiment import Experiment, Implementation, Inputs, load_registry
from fuselab.offline.cannot import cannot, why_it_stopped
from fuselab.offline.messages import Request
from fuselab.offline.replay import Replay, Source
from fuselab.offline.results import InterpretedKernel, InterpretedRun
from fuselab.records import Direction, TensorCheck

__all__ = ["ANSWER", "NOW", "Interpretation", "interpret"]

ANSWER = "interpreted.json"
NOW = "now.txt"
"""Names the kernel that is running: a process that dies says no more than that."""


class Interpretation(msgspec.Struct, frozen=True, kw_only=True):
    """What to interpret."""

    request: Request
    """The program, as it was traced; its directory has the generated modules."""
    replay: Replay
    """What they were called with."""
    edits: dict[str, list[tuple[str, str]]] = {}
    """Replacements in kernels' sources, by name: for faults that are planted to see them found."""


def interpret(asked: Interpretation) -> InterpretedRun:
    """Run eager and the generated code on the same numbers, and compare."""
    started = time.perf_counter()
    _prepare()
    from fuselab.offline.counterparts import UnsupportedError
    from fuselab.offline.generated import OutOfBoundsError

    run = _Run(asked)
    status, reason, checks = "agrees", "", []
    try:
        checks = run.carry_out()
        wrong = [check for check in checks if not check.correct]
        if wrong:
            status, reason = "differs", "; ".join(f"{c.name}: {c.reason}" for c in wrong[:3])
        elif not checks:
            status, reason = "not run", "there is nothing to compare: no output is a tensor of a generated graph"
    except OutOfBoundsError as error:
        status, reason = "differs", f"{run.kernel}: {error}"
    except UnsupportedError as error:
        status, reason = "not run", f"{run.kernel}: {error}" if run.kernel else str(error)
    except Exception as error:  # noqa: BLE001 - whatever a kernel or the user's code raises is the answer
        status, reason = "not run", why_it_stopped(run.kernel, error)
    return InterpretedRun(
        status=status,
        reason=reason,
        inputs=run.shapes,
        tensors=checks,
        kernels=run.kernels(),
        libraries=run.libraries(),
        notes=run.notes,
        seconds=round(time.perf_counter() - started, 3),
    )


def _prepare() -> None:
    """Before a generated module is executed: what it imports of Triton and torch is made to need no device."""
    import torch

    from fuselab.offline.counterparts import Libdevice, round_to_nearest

    helpers: Any = importlib.import_module("torch._inductor.runtime.triton_helpers")
    helpers.libdevice = Libdevice()
    for name in ("set_driver_to_gpu", "set_driver_to_cpu"):
        if hasattr(helpers, name):
            setattr(helpers, name, lambda: None)

    round_to_nearest()

    class NoGuard:
        def __init__(self, *_args: Any) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_error: object) -> None:
            pass

    torch.cuda._DeviceGuard = NoGuard  # type: ignore[assignment, misc]
    for name in ("set_device", "synchronize"):
        setattr(torch.cuda, name, lambda _device=None: None)


class _Run:
    """One interpretation on its way."""

    def __init__(self, asked: Interpretation) -> None:
        self._asked = asked
        self._into = Path(asked.request.into)
        self.kernel = ""
        self.shapes: dict[str, str] = {}
        self.notes: list[str] = []
        self._modules: list[tuple[Any, Direction, str]] = []
        self._stood_in: list[str] = []
        self._seeds: list[int] = []

    def carry_out(self) -> list[TensorCheck]:
        """Eager, the generated code, the reference."""
        import torch
        from torch.utils import _pytree as pytree

        from fuselab.measure.calls import gradient_targets, named_outputs, random_grad_outputs
        from fuselab.offline.comparison import Comparison

        request = self._asked.request
        experiment = _experiment(request)
        workload = request.workload
        inputs = experiment.make_inputs(workload, "cpu")
        torch.manual_seed(workload.seed)
        program = experiment.variant(request.variant).build(workload)
        self.shapes = {name: _text(t) for name, t in inputs.tensors()}
        mine = inputs.map(lambda t: t.detach().clone().requires_grad_(t.requires_grad))
        kept = {n: p.detach().clone() for n, p in _held(program)}
        # Eager's shapes decide what the backward starts from; its numbers are compared below.
        shaped = program(*inputs.args, **inputs.kwargs)
        roots = [(name, t) for name, t in named_outputs(shaped) if t.requires_grad]
        starts = random_grad_outputs([t for _, t in roots], workload.seed)
        self._restore(program, kept)
        got, back = self._generated(mine, kept, {n: g for (n, _), g in zip(roots, starts, strict=True)})
        self._restore(program, kept)
        targets = [name for name, _ in gradient_targets(inputs, program)]
        flat, form = pytree.tree_flatten(shaped)
        by_id = {id(t): got.get(name) for name, t in named_outputs(shaped)}
        structure = pytree.tree_unflatten([by_id.get(id(leaf), leaf) for leaf in flat], form)
        compared = Comparison(
            experiment, workload, inputs, program, seeds=self._seeds, restore=lambda: self._restore(program, kept)
        )
        found = compared.checks(got, back if targets else {}, structure)
        self.notes += compared.notes
        return found

    def kernels(self) -> list[InterpretedKernel]:
        """Every kernel of every graph: what it did, and what of it cannot be interpreted."""
        found: list[InterpretedKernel] = []
        for module, direction, text in self._modules:
            for name, source in _sources(text).items():
                run = module.runs.get(name) if module is not None else None
                found.append(
                    InterpretedKernel(
                        name=name,
                        direction=direction,
                        launches=run.launches if run else 0,
                        programs=run.programs if run else 0,
                        problem=run.problem if run else "it was not reached",
                        cannot=cannot(source),
                    )
                )
        return found

    def libraries(self) -> list[str]:
        """Calls of libraries that the CPU's own operators, or their definitions, stood in for."""
        named = [f"extern_kernels.{n}" for m, _, _ in self._modules if m is not None for n in m.libraries]
        return list(dict.fromkeys([*named, *(f"aten.{name} (by its definition)" for name in self._stood_in)]))

    def _generated(
        self, inputs: Inputs, held: Mapping[str, Any], starts: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from fuselab.offline.counterparts import CudaOperators, UnsupportedError
        from fuselab.offline.generated import Memory, Module

        replay = self._asked.replay
        if replay.problem:
            raise UnsupportedError(replay.problem)
        memory = Memory()
        results: list[list[Any]] = []
        values: dict[tuple[str, str], Any] = {("input", n): t for n, t in inputs.tensors()}
        values |= {(kind, n): t for n, t in held.items() for kind in ("parameter", "buffer")}
        values |= {("gradient", n): t for n, t in starts.items()}
        ready: dict[tuple[str, str], Any] = {}

        def take(source: Source) -> Any:
            if source.kind == "number":
                return source.number
            if source.kind == "result":
                base = results[source.call][source.position]
            else:
                key = (source.kind, source.name)
                if key not in ready:
                    strides = replay.strides.get(source.name) if source.kind == "gradient" else None
                    ready[key] = memory.copied(values[key], strides)
                base = ready[key]
            if list(base.shape) == source.shape and list(base.stride()) == source.stride and not source.offset:
                return base
            return base.as_strided(source.shape, source.stride, base.storage_offset() + source.offset)

        for number, call in enumerate(replay.calls):
            text = (self._into / call.file).read_text(encoding="utf-8")
            self._modules.append((None, call.direction, text))
            with CudaOperators() as operators:
                try:
                    module = Module(
                        text,
                        self._into / "interpreted" / str(number),
                        call.configs,
                        memory=memory,
                        now=self._now,
                        edit=self._edited,
                    )
                    self._modules[-1] = (module, call.direction, text)
                    self.kernel = ""
                    arguments = [take(source) for source in call.arguments]
                    results.append(module(arguments))
                finally:
                    self._stood_in += [n for n in operators.used if n not in self._stood_in]
            self.kernel = ""
            if call.direction is Direction.FORWARD:
                self._seeds += operators.seeds
        outputs = {name: take(source) for name, source in replay.outputs.items()}
        gradients = {n: None if s is None else take(s) for n, s in replay.gradients.items()}
        return outputs, gradients

    def _now(self, kernel: str) -> None:
        self.kernel = kernel
        (self._into / NOW).write_text(kernel)

    def _edited(self, name: str, source: str) -> str:
        for old, new in self._asked.edits.get(name, []):
            if old not in source:
                raise ValueError(f"{name} has no {old!r} to replace")
            source = source.replace(old, new)
        return source

    @staticmethod
    def _restore(program: Implementation, kept: Mapping[str, Any]) -> None:
        """Running statistics are as they were before a call."""
        import torch

        with torch.no_grad():
            for name, tensor in _held(program):
                tensor.copy_(kept[name])


def _held(program: Implementation) -> list[tuple[str, Any]]:
    """Parameters and buffers of a module."""
    import torch

    if not isinstance(program, torch.nn.Module):
        return []
    return [*program.named_parameters(), *program.named_buffers()]


def _experiment(request: Request) -> Experiment:
    if request.file_target:
        from fuselab.experiments.user import experiment_from

        return experiment_from(request.file_target, request.arguments, seed=request.seed)
    return load_registry()[request.experiment]


def _text(tensor: Any) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype}[{','.join(str(n) for n in tensor.shape)}]"


def _sources(text: str) -> dict[str, str]:
    """The sources of a generated module's kernels, by name."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "async_compile.triton":
            name, source = (ast.literal_eval(argument) for argument in node.args[:2])
            found[name] = source
    return found


def main() -> None:
    """Carry out the request on stdin."""
    child.die_with_parent()
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Interpretation)
    found = interpret(asked)
    (Path(asked.request.into) / ANSWER).write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
