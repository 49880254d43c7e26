"""Programs that the tests inspect: each is one way in which user code meets a device."""

import torch
from torch import nn
from torch.nn import functional as F


def norm_gelu(x, w):
    return F.gelu(F.rms_norm(x, (x.shape[-1],), w, 1e-6))


def attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class AsksForCuda(nn.Module):
    """Makes its parameters on the device, two of them one, in a dtype of their own; asks for a GPU; moves its input."""

    def __init__(self):
        super().__init__()
        if not torch.cuda.is_available():
            raise RuntimeError("this program needs a GPU")
        self.a = nn.Linear(64, 64, bias=False, dtype=torch.bfloat16, device="cuda")
        self.b = nn.Linear(64, 64, bias=False, dtype=torch.bfloat16)
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.ones(64))

    def forward(self, x):
        return self.b(F.gelu(self.a(x.cuda()))) * self.scale.to(x.dtype)


def looks_at_values(x):
    y = F.gelu(x)
    return y * 2 if y.sum().item() > 0 else y * 3


def breaks(x):
    y = F.gelu(x) * 2
    print("a graph break")
    return torch.softmax(y + 1, -1)


def raises(x):
    raise ValueError("the user's own error, 4711")


def attention_gelu(q, k, v):
    return F.gelu(attention(q, k, v))


def dropout(x):
    return F.dropout(torch.softmax(x, -1), 0.3, training=True) * 2
