"""Functions that do not come to an end as functions should."""

import ctypes
import os
import sys
import time

import torch


def raises(x):
    y = x + 1
    raise ValueError(f"no good: {tuple(y.shape)}")


def raises_later(x):
    if x.shape[0] > 8:
        raise ValueError("too large")
    return x.sin()


def segfaults(x):
    ctypes.string_at(0)
    return x


def exits(x):
    sys.exit(3)


def vanishes(x):
    os._exit(7)


def never_returns(x):
    while True:
        time.sleep(0.05)


@torch.compiler.disable
def die_the_second_time():
    if os.environ.get("FUSELAB_TEST_CALLED"):
        ctypes.string_at(0)
    os.environ["FUSELAB_TEST_CALLED"] = "1"


def dies_when_compiled(x):
    y = x.sin()
    print("a break first")  # mark
    die_the_second_time()
    return y


def breaks_everywhere(x):
    print("a")
    x = x + 1
    print("b")
    x = x * float(x.sum())
    if x.sum() > 0:
        x = x.abs()
    print("c", x.shape)
    y = torch.nonzero(x).sum()
    torch._dynamo.graph_break()
    started = time.perf_counter()
    x = x.sin() + y
    print("d", started > 0)
    return x.cos()


def breaks_in_a_loop(x):
    for i in range(5):
        x = x + 1
        print(i)
    return x.sin()


NOT_CALLABLE = 3
