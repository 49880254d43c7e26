"""Functions that are compiled again, for one planted reason each; the line that the guard is about carries the mark."""

import torch
from torch import nn

SCALE = 1


def size(x):
    return x.sin() * 2  # mark


def integer(x, k):
    return x * k  # mark


def floating(x, k):
    return x * k  # mark


def flag(x, negate):
    if negate:  # mark
        return -x
    return x


def word(x, mode):
    if mode == "sin":  # mark
        return x.sin()
    return x.cos()


def dtype(x):
    return x.sin()  # mark


def stride(x):
    return x.sin()  # mark


def rank(x):
    return x.sin()  # mark


def grad_mode(x):  # mark
    return x.sin()


def requires_grad(x):
    return x.sin()  # mark


def specialised(x):
    if x.shape[0] > 12:  # mark
        return x.sin()
    return x.cos()


def global_value(x):
    global SCALE  # noqa: PLW0603 - planted
    SCALE = SCALE + 1  # mark
    return x * SCALE


class Counter(nn.Module):
    """Counts its calls in a Python integer."""

    def __init__(self):
        super().__init__()
        self.step = 0
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        self.step += 1  # mark
        return x * self.weight * self.step


class Decay(nn.Module):
    """Holds a Python float that changes."""

    def __init__(self):
        super().__init__()
        self.decay = 1.0

    def forward(self, x):
        self.decay *= 0.5  # mark
        return x * self.decay


class Training(nn.Module):
    """Behaves differently in train and eval mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x)  # mark


class Holder:
    """A plain object with a value that changes."""

    def __init__(self):
        self.values = [1.0]


HOLDER = Holder()


def grows(x):
    HOLDER.values.append(1.0)  # mark
    return x * len(HOLDER.values)


def optional(x, bias):
    y = x.sin()
    return y if bias is None else y + bias  # mark


def two_sizes(x, y):
    return x.sum(1) + y.sum(1)  # mark


def clean(x, k):
    return x * k


def measured(x):
    scale = x.sum().item()
    return x * scale  # mark
