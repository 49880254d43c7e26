"""Build an AOTInductor package of one call's forward, and check what it answers before it is packed.

Runs in a child of its own: export and the loader of what was built are C++ that may bring the process down, and then
the rest of the package is made without this half.
"""

from __future__ import annotations

import re
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fuselab.deploy import internals
from fuselab.deploy.golden import Answers, answer, judge, truth
from fuselab.deploy.manifest import Aoti
from fuselab.deploy.messages import AotiRequest, AotiResult
from fuselab.deploy.target import Target, constants_of, experiment_of, settled
from fuselab.experiment import Implementation, Inputs
from fuselab.measure.calls import named_outputs

__all__ = ["build_aoti"]


def build_aoti(request: AotiRequest) -> AotiResult:
    """Build into the staging directory; what cannot be exported, or answers otherwise, is absent with its reason."""
    started = time.perf_counter()
    target = Target(experiment_of(request.reference, None), request.variant)
    path = Path(request.staging) / request.file
    path.parent.mkdir(exist_ok=True)
    try:
        aoti = _built(request, target, path)
    except Exception as error:  # noqa: BLE001 - whatever export says: the cache half is made without it
        aoti = Aoti(reason=reason_of(error, request.reference.target))
    return AotiResult(aoti=aoti, seconds=round(time.perf_counter() - started, 3))


def _built(request: AotiRequest, target: Target, path: Path) -> Aoti:
    workload = request.call.workload
    inputs = target.experiment.make_inputs(workload, request.device_type).map(lambda t: t.detach())
    model = settled(target.model(workload), training=False)
    flat = Flat(model, inputs)
    with torch.no_grad():
        eager = answer(model, inputs, backward=False)
        outputs, structure = internals.dump_structure(eager.raw)
        if not all(isinstance(t, Tensor) for t in outputs):
            return Aoti(reason="it returns something besides tensors")
        program = torch.export.export(flat, tuple(flat.tensors(inputs)))
        options = dict(target.compilation.options)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options or None)
        runner = internals.AotiRunner(path, structure)
        raw = runner(flat.tensors(inputs))
    got = Answers(raw, dict(named_outputs(raw)))
    true = truth(target.experiment, workload, model, inputs, got, backward=False)
    eager_true = None
    if request.call.random:
        eager_true = truth(target.experiment, workload, model, inputs, eager, backward=False)
    wrong = [c for c in judge(got, eager, true, inputs, eager_truths=eager_true) if not c.correct]
    if wrong:
        return Aoti(reason=f"its answer is not eager's: {wrong[0].name}: {wrong[0].reason}")
    inside = set(runner.constants())
    constants = {n: f"model.{n}" for n in constants_of(model) if f"model.{n}" in inside}
    return Aoti(file=request.file, outputs=structure, constants={v: k for k, v in constants.items()})


class Flat(torch.nn.Module):
    """A model called with the tensors among its arguments, everything else fixed, returning the tensors it returns."""

    def __init__(self, model: Implementation, inputs: Inputs) -> None:
        super().__init__()
        from torch.utils import _pytree as pytree

        self.model = model
        leaves, structure = pytree.tree_flatten((inputs.args, dict(inputs.kwargs)))
        self._fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self._structure = structure
        self._flatten, self._unflatten = pytree.tree_leaves, pytree.tree_unflatten

    def tensors(self, inputs: Inputs) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return [t for t in self._flatten((inputs.args, dict(inputs.kwargs))) if isinstance(t, Tensor)]

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        """Call the model."""
        leaves = list(self._fixed)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = self._unflatten(leaves, self._structure)
        return tuple(self._flatten(self.model(*args, **kwargs)))


def reason_of(error: BaseException, target: str) -> str:
    """What went wrong and in which of the user's lines, in one line."""
    text = str(error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    file = target.rpartition(":")[0]
    places = re.findall(r'File "([^"]+)", line (\d+)', text + "".join(traceback.format_exception(error)))
    own = [(f, n) for f, n in places if f == file] if file else []
    if not own:
        library = str(Path(torch.__file__).parent)
        here = str(Path(__file__).parent)
        own = [(f, n) for f, n in places if not f.startswith((library, here, "<"))]
    if own:
        said += f" ({Path(own[-1][0]).name}, line {own[-1][1]})"
    return said[:500]
