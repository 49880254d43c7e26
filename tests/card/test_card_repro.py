"""The script that runs one kernel alone."""

from __future__ import annotations

import math

import pytest

from fuselab.card.launch import read_launches
from fuselab.card.repro import ReproFacts, repro_script

MODULE = """
k = async_compile.triton('k', '')
def call(self, args):
    arg0_1, s77, arg2_1 = args
    args.clear()
    assert_size_stride(arg0_1, (s77, 8), (8, 1))
    buf0 = empty_strided_cuda((s77, 8), (8, 1), torch.bfloat16)
    buf1 = reinterpret_tensor(buf0, (8, ), (1, ), 8)
    buf2 = buf0; del buf0  # reuse
    workspace_0 = empty_strided_cuda((64, ), (1, ), torch.float32)
    buf3 = workspace_0[0 * 32 : (0 + 1) * 32].view(4, 8).sum(dim=0)
    buf4 = torch.ops.custom.thing(arg2_1)
    k.run(arg0_1, buf1, buf2, buf3, buf4, s77 * 8, 0.5, None, stream=stream0)
def benchmark_compiled_module(times=10, repeat=10):
    from torch._dynamo.testing import rand_strided
    arg0_1 = rand_strided((5, 8), (8, 1), device='cuda:0', dtype=torch.float16)
    s77 = 5
    arg2_1 = rand_strided((3, ), (1, ), device='cuda:0', dtype=torch.float32)
"""


def repro_facts(**changes):
    (launch,) = read_launches(MODULE.replace("buf4, s77", "s77"))
    names = ("x", "view", "out", "sum", "n", "p", "none")
    return ReproFacts(
        **{
            "name": "k",
            "backend": "triton",
            "file": "kernel.py",
            "function": "k",
            "launch": launch,
            "names": names,
            "roles": {"out": "output"},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "name", ["a'b\"c", "'''; import os #", "x\ny", "\u202eevil\0", "../../etc/passwd", "}{[", "k" * 400]
)
def test_a_hostile_name_is_data_of_the_script(name):
    script = repro_script(repro_facts(name=name))
    scope = {"__name__": "loaded"}
    exec(compile(script, "repro.py", "exec"), scope)
    assert scope["KERNEL"]["name"] == name
    assert scope["KERNEL"]["buffers"]["buf0"] == {"dtype": "bfloat16", "elements": 40, "read": True}
    assert "fuselab" not in script


def test_an_unknown_argument_is_a_reason_not_a_script():
    (launch,) = read_launches(MODULE)
    with pytest.raises(ValueError, match="buf4 is not known before it runs"):
        repro_script(repro_facts(launch=launch))


def test_zeros_and_nans_do_not_pass_a_comparison():
    torch = pytest.importorskip("torch")
    from fuselab.card.repro_script import TOLERANCE, _error

    expected = torch.randn(64, 64)
    assert _error(expected + 1e-6, expected) < TOLERANCE["float32"]
    assert _error(torch.zeros(64, 64), expected) > 10 * max(TOLERANCE.values())
    assert _error(torch.full((64, 64), math.nan), expected) == math.inf
    assert _error(torch.full((4,), math.nan), torch.full((4,), math.nan)) == math.inf
    assert _error(torch.zeros(4), torch.zeros(4)) == 0.0
    assert _error(torch.ones(4), torch.zeros(4)) == math.inf
