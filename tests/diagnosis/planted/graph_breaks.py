"""Functions with one planted graph break each; the line that breaks carries the mark that the test looks for."""

# ruff: noqa: B028, PTH123, SIM108 - planted as people write it
import contextlib
import logging
import threading
import time
import warnings

import torch

logger = logging.getLogger("planted")
SEEN: list[int] = []
LOCK = threading.Lock()


def prints(x):
    y = x.sin()
    print("shape", x.shape)  # mark
    return y.cos()


def prints_a_tensor(x):
    y = x.sin()
    print("sum", y.sum())  # mark
    return y.cos()


def logs(x):
    y = x.sin()
    logger.info("half way")  # mark
    return y.cos()


def warns(x):
    y = x.sin()
    warnings.warn("half way")  # mark
    return y.cos()


def item_in_arithmetic(x):
    scale = x.abs().max().item()  # mark
    return x / scale


def item_in_branch(x):
    h = x * 2
    if h.sum().item() > 0:  # mark
        h = h + 1
    return h.sin()


def float_of_tensor(x):
    return x * float(x.abs().mean())  # mark


def tensor_branch(x):
    if x.sum() > 0:  # mark
        y = x + 1
    else:
        y = x - 1
    return y.sin()


def tensor_conditional(x):
    y = x + 1 if x.mean() > 0 else x - 1  # mark
    return y.sin()


def data_dependent_loop(x):
    while x.abs().sum() > 1:  # mark
        x = x / 2
    return x


def nonzero(x):
    return torch.nonzero(x > 0).sum()  # mark


def tolist(x):
    weights = x.sum(0).tolist()  # mark
    return x * weights[0]


def clock(x):
    started = time.perf_counter()  # mark
    return x.sin() + 0 * started


def c_function(x):
    size = memoryview(b"ab").nbytes  # mark
    return x.sin() * size


def explicit(x):
    y = x.sin()
    torch._dynamo.graph_break()  # mark
    return y.cos()


@torch.compiler.disable
def not_compiled(x):
    return x + 1


def calls_disabled(x):
    y = x.sin()
    y = not_compiled(y)  # mark
    return y.cos()


@contextlib.contextmanager
def tracked(name):
    SEEN.append(len(name))
    yield


def context_manager(x):
    with LOCK:  # mark
        y = x.sin()
    return y.cos()


def inside_context_manager(x):
    with torch.profiler.record_function("a"), tracked("a"):
        y = x.sin()
        print("in")  # mark
    return y.cos()


class Adaptive(torch.nn.Module):
    """A module of torch's own that breaks the graph inside: the line is the user's that calls it."""

    def __init__(self):
        super().__init__()
        self.loss = torch.nn.AdaptiveLogSoftmaxWithLoss(4, 10, [2, 5])

    def forward(self, x):
        return self.loss(x.detach(), torch.tensor([0, 3, 6, 9])).loss  # mark


def inlined_helper(x):
    print("helping")  # mark
    return x + 1


def calls_helper(x):
    return inlined_helper(x.sin()).cos()


def backward_inside(x):
    y = (x * x).sum()
    y.backward()  # mark
    return x.grad


def debugged(x):
    y = x.sin()
    breakpoint()  # mark
    return y


def reads_a_file(x):
    with open(__file__) as file:  # mark
        first = len(file.readline())
    return x * first


def unsupported_operator(x):
    return torch.unique(x).sum()  # mark


def item_then_branch(x):
    peak = x.abs().max().item()  # mark
    if peak > 1:
        x = x / peak
    return x.sin()


def early_return(x):
    if x.mean() > 0:  # mark
        return x.sin()
    return x.cos()


def misleading_branch(x):
    if x.sum() > 1e9:  # mark
        x.add_(1)
    return x.sin()


def prints_twice(x):
    y = x.sin()
    print("sum", float(y.sum()))  # mark
    return y.cos()


def clean(x):
    return x.sin().cos()


MADE = {}
exec("def from_exec(x):\n    y = x.sin()\n    print('exec')\n    return y.cos()\n", MADE)
from_exec = MADE["from_exec"]


@torch.compile
def decorated(x):
    y = x.sin()
    print("decorated")  # mark
    return y.cos()


class Printing(torch.nn.Module):
    """Prints its scale."""

    def forward(self, x):
        y = x.sin()
        print("module")  # mark
        return y.cos()


wrapped = torch.compile(Printing())
