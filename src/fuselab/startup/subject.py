"""What is started, built in the measured process: the function, its inputs, one call of it, its repeated blocks."""

from __future__ import annotations

import re
import traceback as traceback_module
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fuselab.errors import UsageError
from fuselab.experiment import Experiment, Implementation, Inputs, VariantKind, load_registry
from fuselab.startup.messages import Subject
from fuselab.startup.records import Calls, Configuration, Scope

if TYPE_CHECKING:
    import torch

__all__ = ["Built", "build", "compiled", "place_of", "repeated_blocks"]

Call = Callable[[], Any]

_FRAME = re.compile(r'File "(?P<file>[^"<]+)", line (?P<line>\d+)')


class Built:
    """A function or module with its inputs, on the device."""

    def __init__(self, subject: Subject, function: Implementation, inputs: Inputs) -> None:
        self.subject = subject
        self.function = function
        self.inputs = inputs

    def call_of(self, function: Implementation, inputs: Inputs | None = None) -> Call:
        """One call of ``function`` on the inputs, the device waited for: a forward, or forward and backward."""
        import torch

        given = inputs or self.inputs
        synchronize: Callable[[], object] = (
            torch.cuda.synchronize if self.subject.device_type == "cuda" else lambda: None
        )

        def infer() -> Any:
            with torch.no_grad():
                result = function(*given.args, **given.kwargs)
            synchronize()
            return result

        def train() -> Any:
            result = function(*given.args, **given.kwargs)
            roots = [leaf for leaf in _tensors(result) if leaf.requires_grad]
            leaves = [tensor for _, tensor in given.differentiable()] + _parameters(self.function)
            if not roots or not leaves:
                raise UsageError(
                    "nothing requires a gradient, so a training call has no backward",
                    hint="write --arg 'x=f32[8,512]:requires_grad', or measure --calls inference",
                )
            torch.autograd.grad(roots, leaves, [torch.ones_like(root) for root in roots], allow_unused=True)
            synchronize()
            return result

        return infer if self.subject.calls is Calls.INFERENCE else train


def experiment_of(subject: Subject) -> Experiment:
    """The experiment that a subject names."""
    if subject.target:
        from fuselab.experiments.user import experiment_from

        return experiment_from(subject.target, subject.arguments, seed=subject.workload.seed)
    return load_registry()[subject.name]


def build(subject: Subject, experiment: Experiment | None = None) -> Built:
    """Build the function that compiled variants compile, and its inputs."""
    experiment = experiment or experiment_of(subject)
    variant = next(
        (v for v in experiment.variants if v.kind is VariantKind.COMPILED), experiment.variants[0]
    )  # its build returns the eager function
    function = variant.build(subject.workload)
    inputs = experiment.make_inputs(subject.workload, subject.device_type)
    return Built(subject, function, inputs)


def compiled(function: Implementation, configuration: Configuration) -> Implementation:
    """``torch.compile`` of a function, or of every repeated block of a module, in place.

    Raises:
        UsageError: regional, and there is no repeated block.
    """
    import torch

    mode = None if configuration.mode == "default" else configuration.mode
    if configuration.scope is Scope.WHOLE:
        whole: Implementation = torch.compile(function, mode=mode, dynamic=configuration.dynamic)
        return whole
    blocks = repeated_blocks(function)
    if not blocks:
        raise UsageError(
            "there is no repeated block: regional compilation needs a ModuleList or Sequential with two or more "
            "modules of one class",
            hint="leave --scope regional out",
        )
    for container, name, block in blocks:
        if type(block).__module__.startswith("torch."):
            # Dynamo does not enter torch's own files by itself: block.compile() would run in eager and say nothing.
            setattr(container, name, torch.compile(block, mode=mode, dynamic=configuration.dynamic))
        else:
            block.compile(mode=mode, dynamic=configuration.dynamic)
    return function


def repeated_blocks(function: Any) -> list[tuple[torch.nn.Module, str, torch.nn.Module]]:
    """Modules of one class that stand side by side in a ModuleList or Sequential, the outermost; none in a function.

    Each comes with the container that it stands in and its name there.
    """
    import torch

    if not isinstance(function, torch.nn.Module):
        return []
    found: list[tuple[torch.nn.Module, str, torch.nn.Module]] = []

    def visit(module: torch.nn.Module) -> None:
        children = dict(module.named_children())
        repeated: dict[str, torch.nn.Module] = {}
        if isinstance(module, torch.nn.ModuleList | torch.nn.Sequential):
            kinds = [type(child) for child in children.values()]
            repeated = {
                name: child
                for name, child in children.items()
                if kinds.count(type(child)) > 1 and any(True for _ in child.children())
            }
            found.extend((module, name, child) for name, child in repeated.items())
        for name, child in children.items():
            if name not in repeated:
                visit(child)

    visit(function)
    return found


def place_of(error: BaseException, file: str = "") -> str:
    """``file:line`` of the user's code that an exception is about; empty where none is known.

    The compiler quotes the user's frames in its message ("from user code"); without them the traceback's own last frame
    outside of torch counts.

    Args:
        error: the exception.
        file: the user's file; empty to take the first that is not torch's or ours.
    """
    text = str(error)
    frames = [(m["file"], int(m["line"])) for m in _FRAME.finditer(text)]
    chain: BaseException | None = error
    while chain is not None:
        frames = [(f.filename, f.lineno or 0) for f in traceback_module.extract_tb(chain.__traceback__)] + frames
        chain = chain.__cause__ or chain.__context__
    theirs = [(name, line) for name, line in frames if (name == file if file else _foreign(name))]
    return f"{theirs[-1][0]}:{theirs[-1][1]}" if theirs else ""


def _foreign(name: str) -> bool:
    return not any(part in name for part in ("/torch/", "/triton/", "/fuselab/", "<", "/lib/python"))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor))


def _parameters(function: Any) -> list[torch.Tensor]:
    import torch

    return [p for p in function.parameters() if p.requires_grad] if isinstance(function, torch.nn.Module) else []
