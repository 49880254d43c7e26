"""A process of ``test_parallel``: trains small models on one device, under DDP and FSDP2, and writes what came out.

``python parallel_worker.py SETTINGS``: a JSON object with ``rank``, ``device`` (``cpu`` or ``cuda``), ``legs`` and
``folder``. The processes meet in a file of the folder, so that no port is chosen; each leaves ``rank<N>.pt`` there.
``TRITON_INTERPRET=1`` has the kernels run on a CPU.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from patched_models import LlamaMLP
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fuselab.ops.patched_forwards as forwards
from fuselab.child import die_with_parent
from fuselab.ops import (
    AddRMSNorm,
    LayerNormGELU,
    RMSNorm,
    SoftmaxDropout,
    SwiGLU,
    add_rms_norm,
    add_rms_norm_reference,
    layer_norm_gelu_reference,
    patch,
    rms_norm_reference,
    softmax_dropout_reference,
    swiglu_reference,
)

RANKS = 2
WIDTH, LENGTH, BATCH, STEPS = 64, 4, 4, 3
LEARNING_RATE, MOMENTUM = 0.05, 0.9


class Block(nn.Module):
    """Attention and a gated MLP, of fuselab's modules."""

    def __init__(self):
        super().__init__()
        self.norm = LayerNormGELU(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.softmax = SoftmaxDropout(0.0, scale=WIDTH**-0.5)
        self.add_norm = AddRMSNorm(WIDTH)
        self.gate_up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.swiglu = SwiGLU()
        self.down = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x, residual):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        y, residual = self.add_norm(self.softmax(q @ k.mT) @ v, residual)
        return self.down(self.swiglu(self.gate_up(y))), residual


class Model(nn.Module):
    """Two such blocks; what they leave is normalised once more."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = RMSNorm(WIDTH, casting="none")
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        residual = x
        for block in self.blocks:
            x, residual = block(x, residual)
        return self.head(self.norm(x + residual))

    def units(self):
        """What ``fully_shard`` is given before the whole."""
        return list(self.blocks)


class LosesItsGradient(AddRMSNorm):
    """The planted fault: the weight's gradient is zero."""

    def forward(self, x, residual):
        return add_rms_norm(x, residual, self.weight.detach() + 0 * self.weight, self.eps, self.casting)


class Ordinary(nn.Sequential):
    """torch's own modules, which ``patch`` knows."""

    def __init__(self):
        super().__init__(
            nn.Linear(WIDTH, WIDTH),
            nn.LayerNorm(WIDTH),
            nn.GELU(),
            nn.RMSNorm(WIDTH, eps=1e-6),
            LlamaMLP(WIDTH, 2 * WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
        )

    def units(self):
        """Patched modules themselves among them: a class that was exchanged is exchanged again."""
        return [self[3], self[4]]


# In float64, by the references that stand beside the operators.


def _reference_of(module):
    return {
        LayerNormGELU: lambda x: layer_norm_gelu_reference(x, module.weight, module.bias, module.eps),
        RMSNorm: lambda x: rms_norm_reference(x, module.weight, module.eps, module.casting),
        AddRMSNorm: lambda x, r: add_rms_norm_reference(x, r, module.weight, module.eps, module.casting),
        SoftmaxDropout: lambda x: softmax_dropout_reference(x * module.scale, 0.0, None),
        SwiGLU: swiglu_reference,
    }.get(type(module))


def in_float64(kind):
    """What the whole batch gives in float64."""
    model = made(kind).double()
    for module in model.modules():
        if reference := _reference_of(module):
            module.forward = reference
    inputs, targets = (t.double() for t in batches())
    return train(model, inputs, targets)


def made(kind, *, faulty=False):
    """A model with its parameters, the same ones in every process."""
    torch.manual_seed(0)
    model = {"fuselab": Model, "ordinary": Ordinary}[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # ones and zeros hide what is left out
                parameter.add_(torch.randn_like(parameter) / 4)
    if faulty:
        model.blocks[0].add_norm.__class__ = LosesItsGradient
    return model


def batches():
    """Inputs and targets of all steps: (step, sample, place, feature)."""
    generator = torch.Generator().manual_seed(1)
    shape = (STEPS, BATCH, LENGTH, WIDTH)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def _whole(tensor):
    """A copy of a tensor that may be in shards."""
    tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return tensor.detach().cpu().clone()


def _plain(name):
    return name.replace("_orig_mod.", "").replace("module.", "")


def train(model, inputs, targets, quiet=contextlib.nullcontext):
    """Some steps of SGD; the loss of each sample, the gradients and the parameters that come out."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    losses, gradients = [], {}
    for x, y in zip(inputs, targets, strict=True):
        with quiet():
            each = (model(x) - y).square().mean((1, 2))
            each.mean().backward()
        losses.append(each.detach().cpu())
        for name, parameter in model.named_parameters():
            gradients.setdefault(_plain(name), []).append(_whole(parameter.grad))
        optimizer.step()
        optimizer.zero_grad()
    parameters = {_plain(name): _whole(parameter) for name, parameter in model.named_parameters()}
    stacked = {name: torch.stack(steps) for name, steps in gradients.items()}
    return {"losses": torch.stack(losses), "gradients": stacked, "parameters": parameters}


class Calls:
    """Counts the calls that patched forwards make of the operators."""

    def __init__(self):
        self.counts = {}
        for name in ("rms_norm", "layer_norm_gelu", "silu", "swiglu"):
            setattr(forwards, name, self._counting(name, getattr(forwards, name)))

    def _counting(self, name, function):
        @functools.wraps(function)
        def counted(*args):
            self.counts[name] = self.counts.get(name, 0) + 1
            return function(*args)

        return counted


class Legs:
    """One method a way of training."""

    def __init__(self, rank, device):
        self.rank = rank
        self.device = torch.device(device, rank) if device == "cuda" else torch.device(device)
        self.calls = Calls()
        inputs, targets = (t.to(self.device) for t in batches())
        half = slice(rank * BATCH // RANKS, (rank + 1) * BATCH // RANKS)
        self.whole, self.half = (inputs, targets), (inputs[:, half], targets[:, half])

    def _made(self, kind, **options):
        return made(kind, **options).to(self.device)

    def _ddp(self, model):
        return DistributedDataParallel(model, device_ids=[self.rank] if self.device.type == "cuda" else None)

    def _fsdp(self, model):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (RANKS,))
        for unit in model.units():
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def one(self):
        return train(self._made("fuselab"), *self.whole)

    def ddp(self):
        return train(self._ddp(self._made("fuselab")), *self.half)

    def fsdp(self):
        return train(self._fsdp(self._made("fuselab")), *self.half)

    def compiled_ddp(self):
        return train(torch.compile(self._ddp(self._made("fuselab"))), *self.half)

    def _patched(self, spread):
        model = self._made("ordinary")
        patched = patch(model)
        self.calls.counts.clear()
        result = train(spread(model), *self.half)
        result["calls"] = dict(self.calls.counts)
        try:
            patched.undo()
            result["undo"] = type(model[3]).__name__
        except RuntimeError as error:
            result["undo"] = str(error)
        return result

    def one_patched(self):
        model = self._made("ordinary")
        patch(model)
        return train(model, *self.whole)

    def patched_ddp(self):
        return self._patched(self._ddp)

    def patched_fsdp(self):
        return self._patched(self._fsdp)

    # What has to be seen.

    def ddp_without_all_reduce(self):
        model = self._ddp(self._made("fuselab"))
        return train(model, *self.half, quiet=model.no_sync)

    def ddp_without_a_gradient(self):
        return train(self._ddp(self._made("fuselab", faulty=self.rank == 1)), *self.half)

    def fsdp_without_a_gradient(self):
        return train(self._fsdp(self._made("fuselab", faulty=self.rank == 1)), *self.half)

    def fsdp_without_division(self):
        model = self._fsdp(self._made("fuselab"))
        for module in (*model.units(), model):
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other with a factor
            module.set_gradient_divide_factor(1.0)
        return train(model, *self.half)


def main():
    die_with_parent()
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if settings["device"] == "cuda":
        torch.cuda.set_device(settings["rank"])
    folder = Path(settings["folder"])
    dist.init_process_group(
        {"cpu": "gloo", "cuda": "nccl"}[settings["device"]],
        init_method=(folder / "meeting").as_uri(),
        rank=settings["rank"],
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=150),
    )
    legs = Legs(settings["rank"], settings["device"])
    torch.save({name: getattr(legs, name)() for name in settings["legs"]}, folder / f"rank{settings['rank']}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
