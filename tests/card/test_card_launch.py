"""What a launch in the output module is given: sizes, views and reused memory, followed statement by statement."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuselab.capture.output_code import parse_output_code
from fuselab.card.launch import ScalarArgument, TensorArgument, Unknown, read_launches

RECORDED = Path(__file__).parents[1] / "capture" / "recorded"

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


def test_launch_arguments_are_followed_through_sizes_views_and_reuse():
    (launch,) = read_launches(MODULE)
    x, view, reused, summed, custom, count, factor, nothing = launch.arguments
    assert x == TensorArgument("arg0_1", "arg0_1", (5, 8), (8, 1), "float16", 0, "cuda")
    assert (view.buffer, view.shape, view.offset) == ("buf0", (8,), 8)
    assert (reused.buffer, reused.name, reused.was) == ("buf0", "buf2", "buf0")
    assert (summed.buffer, summed.shape, summed.dtype) == ("buf3", (8,), "float32")
    assert custom == Unknown("buf4 is not known before it runs")
    assert (count, factor, nothing) == (ScalarArgument(40), ScalarArgument(0.5), ScalarArgument(None))
    assert not launch.known


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECORDED.glob("*.txt")) if "post_grad" not in path.stem])
def test_every_launch_of_the_recorded_modules_is_read(name):
    text = (RECORDED / f"{name}.txt").read_text()
    launches = read_launches(text)
    generated = [launch for launch in parse_output_code(text).launches if not launch.extern]
    assert [launch.kernel for launch in launches] == [launch.name for launch in generated]
    assert all(launch.known for launch in launches)
