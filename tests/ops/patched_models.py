"""Models with the modules that ``patch`` knows, classes of other libraries written as these write them."""

import functools

import torch
from torch import nn


class LlamaRMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = eps

    def forward(self, states):
        dtype = states.dtype
        states = states.to(torch.float32)
        square = states.pow(2).mean(-1, keepdim=True)
        states = states * torch.rsqrt(square + self.variance_epsilon)
        return self.weight * states.to(dtype)


class Olmo2RMSNorm(LlamaRMSNorm):
    def forward(self, states):
        dtype = states.dtype
        states = states.to(torch.float32)
        square = states.pow(2).mean(-1, keepdim=True)
        states = states * torch.rsqrt(square + self.variance_epsilon)
        return (self.weight * states).to(dtype)


class GemmaRMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def _norm(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def forward(self, x):
        """In float32 to the end."""
        y = self._norm(x.float())
        y = y * (1.0 + self.weight.float())
        return y.type_as(x)


class SiLUActivation(nn.Module):
    def forward(self, input):
        return nn.functional.silu(input)


class GELUTanh(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = functools.partial(nn.functional.gelu, approximate="tanh")

    def forward(self, input):
        return self.act(input)


class PytorchGELUTanh(nn.Module):
    def forward(self, input):
        return nn.functional.gelu(input, approximate="tanh")


class LlamaMLP(nn.Module):
    def __init__(self, width, intermediate, act_fn=None):
        super().__init__()
        self.gate_proj = nn.Linear(width, intermediate, bias=False)
        self.up_proj = nn.Linear(width, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, width, bias=False)
        self.act_fn = SiLUActivation() if act_fn is None else act_fn

    def forward(self, x):
        down = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return down


class GemmaMLP(LlamaMLP):
    def __init__(self, width, intermediate):
        super().__init__(width, intermediate, GELUTanh())


class Block(nn.Module):
    """A residual block, of whatever norm and MLP."""

    def __init__(self, norm, mlp):
        super().__init__()
        self.norm = norm
        self.mlp = mlp

    def forward(self, x):
        return x + self.mlp(self.norm(x))


def model(width=32):
    """Everything that is recognised, in one model."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.GELU(),
        Block(LlamaRMSNorm(width), LlamaMLP(width, 2 * width)),
        Block(GemmaRMSNorm(width), GemmaMLP(width, 2 * width)),
        Block(Olmo2RMSNorm(width), LlamaMLP(width, width, nn.GELU())),
        nn.RMSNorm(width),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.LayerNorm(width),
        nn.GELU(approximate="tanh"),
    )


OPERATORS = {
    "": "layer_norm_gelu, 2 times",
    "3.norm": "rms_norm, casting 'llama'",
    "3.mlp": "swiglu",
    "3.mlp.act_fn": "silu",
    "4.norm": "rms_norm, casting 'gemma'",
    "4.mlp": "geglu, approximate 'tanh'",
    "5.norm": "rms_norm, casting 'none'",
    "5.mlp": "geglu",
    "6": "rms_norm, casting 'none'",
    "8": "silu",
}
"""What has to become of the model above, by name."""


def randomised(module, seed=0):
    """The module with other parameters than it starts with: ones and zeros hide what is left out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((noise / 4).to(parameter.dtype).to(parameter.device))
    return module
