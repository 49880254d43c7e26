"""What a launch in the output module is given: sizes, views and reused memory, followed statement by statement."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch_module import MODULE

from fuselab.capture.output_code import parse_output_code
from fuselab.card.launch import ScalarArgument, TensorArgument, Unknown, read_launches

RECORDED = Path(__file__).parents[1] / "capture" / "recorded"


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
