"""The program, traced and lowered for a described device; it runs as far as it has to and computes nothing.

Two ways. ``described``: inputs and parameters are fake CUDA tensors, so whatever dispatches by device (a fused RMSNorm,
the choice of an attention, a decomposition) goes the way it goes on the device; needs the C++ half (``guard``).
``rewritten``: the program is traced and runs on the CPU, and every device is rewritten to CUDA just before a graph is
lowered; what was decided by device until then was decided for a CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from fuselab.experiment import CompileOptions, Experiment, Implementation, Inputs
from fuselab.offline import internals
from fuselab.offline.calls import Calls
from fuselab.offline.messages import Request
from fuselab.offline.replay import Recorder, Replay
from fuselab.records import Direction

if TYPE_CHECKING:
    import torch

__all__ = ["DEVICE_DEPENDENT", "Tracer", "needs_values"]

DEVICE_DEPENDENT = (
    "rms_norm",
    "layer_norm's backward in bf16 and f16",
    "scaled_dot_product_attention",
    "batch_norm",
    "linear (packed weights on a CPU)",
)
"""Operators that torch dispatches or decomposes by device before a graph is lowered."""


class Tracer:
    """Compiles an experiment's eager variant for the device that this process describes."""

    def __init__(
        self,
        *,
        described: bool,
        lowering: Callable[[], AbstractContextManager[Any]],
        calls: Calls,
        recorder: Recorder | None = None,
    ) -> None:
        """Take note of the way.

        Args:
            described: fake CUDA tensors from the start; else traced on the CPU and rewritten.
            lowering: makes a context in which the device is described, where it is not all the time.
            calls: is told of every graph.
            recorder: keeps what the generated graphs are called with; None where nothing is to be kept.
        """
        self._recorder = recorder
        self.replay: Replay | None = None
        self._described = described
        self._lowering = lowering
        self._calls = calls
        self._fake = internals.fake_mode()

    @property
    def mode(self) -> Any:
        """The mode in which tensors are made without storage."""
        return self._fake

    def compile(self, experiment: Experiment, request: Request) -> None:
        """Forward, and backward where it is wanted and possible; the graphs that come by are lowered."""
        import torch

        variant = experiment.variant(request.variant)
        function, inputs = self._program(experiment, request)
        backend = self._backend(variant.compile_options or CompileOptions())
        self._differentiate(torch.compile(function, backend=backend, dynamic=False), function, inputs, request)

    def _differentiate(self, called: Any, function: Implementation, inputs: Inputs, request: Request) -> None:
        from fuselab.measure.calls import named_outputs

        recorder = self._recorder
        if recorder is not None:
            for kind, named in _tensors_of(function, inputs):
                for name, tensor in named:
                    recorder.name(kind, name, tensor)
        outputs = called(*inputs.args, **inputs.kwargs)
        gradients_found = self._backward(outputs, function, inputs, request)
        if recorder is not None:
            self.replay = recorder.done(named_outputs(outputs), gradients_found)

    def _backward(
        self, outputs: Any, function: Implementation, inputs: Inputs, request: Request
    ) -> list[tuple[str, torch.Tensor | None]]:
        import torch
        from torch.utils._pytree import tree_leaves

        from fuselab.measure.calls import gradient_targets, named_outputs

        if Direction.BACKWARD not in request.directions:
            return []
        roots = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
        leaves = [tensor for _, tensor in inputs.differentiable()]
        leaves += [p for p in getattr(function, "parameters", list)() if p.requires_grad]
        if roots and leaves:
            with self._fake if self._described else nullcontext():
                gradients = [torch.randn_like(root) for root in roots]
            if self._recorder is not None:
                started = [(n, t) for n, t in named_outputs(outputs) if t.requires_grad]
                for (name, root), gradient in zip(started, gradients, strict=False):
                    if root.shape == gradient.shape:
                        self._recorder.name("gradient", name, gradient)
            back = torch.autograd.grad(roots, leaves, gradients, allow_unused=True)
            names = [name for name, _ in gradient_targets(inputs, function)]
            return list(zip(names, back, strict=True)) if len(names) == len(back) else []
        return []

    def _program(self, experiment: Experiment, request: Request) -> tuple[Implementation, Inputs]:
        import torch

        workload, build = request.workload, experiment.variant(request.variant).build
        if not self._described:
            inputs = experiment.make_inputs(workload, "cpu")
            return build(workload), inputs
        _modules_move_by_replacing()
        with self._fake:
            inputs = experiment.make_inputs(workload, "cpu")
            function = build(workload)
            if isinstance(function, torch.nn.Module):
                function = function.to("cuda")
            moved = _Moved(self._fake)
            return function, inputs.map(moved)

    def _backend(self, options: CompileOptions) -> Callable[..., Any]:
        compile_fx, compile_fx_inner = internals.compile_fx()
        patches = _config_patches(options)

        def lower(graph: torch.fx.GraphModule, example_inputs: Sequence[Any], **settings: Any) -> Any:
            whole = copy.deepcopy(graph)
            self._calls.add(whole, Direction.BACKWARD if settings.get("is_backward") else Direction.FORWARD)
            with self._lowering():
                if not self._described:
                    example_inputs = _rewrite(graph, example_inputs)
                compiled = compile_fx_inner(graph, example_inputs, **settings)
            run = self._standing_in(whole) if self._described else _interpreted(whole)
            if self._recorder is None:
                return run
            direction = Direction.BACKWARD if settings.get("is_backward") else Direction.FORWARD
            return self._recorder.lowered(compiled, direction, run)

        def backend(graph: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Any:
            return compile_fx(graph, example_inputs, inner_compile=lower, config_patches=patches)

        return backend

    def _standing_in(self, graph: torch.fx.GraphModule) -> Callable[[list[Any]], Any]:
        """What a lowered graph would return, without storage: shapes, strides and dtypes as they were traced."""
        import torch

        placeholders, outputs = internals.output_nodes(graph)
        position = {node: index for index, node in enumerate(placeholders)}

        def stand_in(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return internals.plain(value)
            shape = [internals.plain(n) for n in value.shape]
            stride = [internals.plain(n) for n in value.stride()]
            with self._fake:
                return torch.empty_strided(shape, stride, dtype=value.dtype, device=value.device)

        def run(arguments: list[Any]) -> list[Any]:
            given = list(arguments)
            arguments.clear()
            return [
                output
                if not isinstance(output, torch.fx.Node)
                else given[position[output]]
                if output in position
                else stand_in(output.meta["val"])
                for output in outputs
            ]

        return _takes_a_list(run)


def _tensors_of(function: Any, inputs: Inputs) -> list[tuple[str, list[tuple[str, Any]]]]:
    """What a program holds itself: its inputs, and a module's parameters and buffers."""
    found = [("input", list(inputs.tensors()))]
    if hasattr(function, "named_parameters"):
        found += [("parameter", list(function.named_parameters())), ("buffer", list(function.named_buffers()))]
    return found


def _modules_move_by_replacing() -> None:
    """``Module.to`` and its kin give a module new parameters: those of a fake tensor can be neither set nor swapped."""
    import torch
    from torch.nn import Module, Parameter

    def apply(self: Module, function: Callable[[Any], Any], recurse: bool = True) -> Module:
        made: dict[int, tuple[Any, Any]] = {}  # tied weights stay tied
        for module in self.modules() if recurse else (self,):
            for name, old in list(module._parameters.items()):
                if old is None:
                    continue
                if id(old) not in made:
                    with torch.no_grad():
                        made[id(old)] = (old, Parameter(function(old), old.requires_grad))
                module._parameters[name] = made[id(old)][1]
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = made.setdefault(id(buffer), (buffer, function(buffer)))[1]
        return self

    Module._apply = apply  # type: ignore[assignment, method-assign]


class _Moved:
    """Tensors as fake ones on the described device; two names of one tensor stay one."""

    def __init__(self, mode: Any) -> None:
        self._mode = mode
        self._seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        import torch

        if id(tensor) not in self._seen:
            with self._mode:
                made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
            self._seen[id(tensor)] = (tensor, made.requires_grad_(tensor.requires_grad))
        return self._seen[id(tensor)][1]


def _interpreted(graph: torch.fx.GraphModule) -> Callable[[list[Any]], Any]:
    """The graph as it was traced, run on the CPU."""
    import torch

    def run(arguments: list[Any]) -> Any:
        given = list(arguments)
        arguments.clear()
        return torch.fx.Interpreter(graph).run(*given)

    return _takes_a_list(run)


def _takes_a_list(run: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """Say that AOTAutograd may hand over the list itself, to be emptied."""
    vars(run)["_boxed_call"] = True
    return run


def _rewrite(graph: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> list[Any]:
    """Every device of a traced graph, and of the example inputs, rewritten from the CPU to CUDA; the inputs."""
    import torch
    from torch.utils import _pytree as pytree

    cuda = torch.device("cuda", 0)
    fake = internals.needed("torch._subclasses.fake_tensor", "FakeTensor")
    mode = internals.needed("torch._dynamo.utils", "detect_fake_mode")(example_inputs)

    def tensor(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.device.type == "cpu":
            meta = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            return fake(mode, meta, cuda)
        return value

    def device(value: Any) -> Any:
        return cuda if isinstance(value, torch.device) and value.type == "cpu" else value

    for node in graph.graph.nodes:
        if node.op == "call_function":
            node.args = pytree.tree_map(device, node.args)
            node.kwargs = pytree.tree_map(device, node.kwargs)
        for key in ("val", "example_value"):
            if key in node.meta:
                node.meta[key] = pytree.tree_map(tensor, node.meta[key])
    return [tensor(value) for value in example_inputs]


def _config_patches(options: CompileOptions) -> dict[str, Any] | None:
    import torch._inductor

    patches: dict[str, Any] = dict(torch._inductor.list_mode_options(options.mode)) if options.mode else {}
    return {**patches, **options.options} or None


def needs_values(error: BaseException) -> bool:
    """Whether a program stopped because it looks at a value, which a tensor without storage has none of."""
    kinds = {"DataDependentOutputException", "DynamicOutputShapeException", "UnsupportedFakeTensorException"}
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ in kinds or any(kind in str(seen) for kind in kinds):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
