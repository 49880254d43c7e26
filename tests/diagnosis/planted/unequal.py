"""Functions for which the likeliest edit gives another answer."""

import torch


def widens(x):
    scale = float(x.abs().mean().double())  # as a tensor it would widen what it meets
    return x.to(torch.int64) * scale


def prints_a_number(x):
    total = x.sum().item()
    print("total", total)
    return x * 2
