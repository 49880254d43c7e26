"""Where wrong elements are and what they look like, in words; marked memory; which mistake explains what."""

import pytest

torch = pytest.importorskip("torch")

from fuselab.course.describe import looks, places, wrong_elements  # noqa: E402
from fuselab.course.exercises import EXERCISES  # noqa: E402
from fuselab.course.guard import ZONE, Memory, untouched  # noqa: E402
from fuselab.course.judge import judge  # noqa: E402
from fuselab.course.mistakes import Trial, raised_by_dtype  # noqa: E402
from fuselab.course.sources import Source  # noqa: E402

EXPECTED = torch.randn(4, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NOTHING = torch.zeros(4, 100, dtype=torch.bool)


def flags(rows, columns):
    wrong = NOTHING.clone()
    wrong[rows, columns] = True
    return wrong


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (flags(slice(None), slice(96, None)), "columns 96..99 of every row"),
        (flags(3, slice(None)), "row 3 only"),
        (flags(slice(1, 3), slice(None)), "rows 1..2"),
        (flags(slice(None), slice(None)), "every element"),
        (flags(slice(None), slice(1, None, 2)), "every second column from 1 on of every row"),
        (flags(2, 5), "column 5 of row 2"),
        (torch.ones(1, dtype=torch.bool), "the only element"),
        (torch.tensor([False, True, True, False]), "elements 1..2"),
    ],
)
def test_places(wrong, words):
    assert places(wrong) == words


def test_scattered_places():
    wrong = torch.rand(4, 100, generator=torch.Generator().manual_seed(1)) < 0.2
    assert places(wrong).startswith(f"{int(wrong.sum())} of 400 elements, scattered, the first at [0, ")


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (EXPECTED * 1.03, "3% too large"),
        (EXPECTED * 0.1, "0.1 times what they should be"),
        (-EXPECTED, "of the wrong sign"),
        (EXPECTED + 0.25, "0.25 too large, each of them"),
        (EXPECTED * 0, "all zero"),
        (EXPECTED * float("nan"), "all NaN"),
        (EXPECTED * torch.arange(2.0, 6.0)[:, None], "each row has a factor of its own, from 2 to 5"),
        (EXPECTED + torch.linspace(1, 2, 100), "each column is shifted by a number of its own, from +1 to +2"),
    ],
)
def test_looks(got, words):
    assert looks(got, EXPECTED, ~NOTHING, NOTHING) == words


def test_looks_of_a_mixture():
    got = EXPECTED.clone()
    got[2, 7] += 9
    said = looks(got + torch.rand(4, 100, generator=torch.Generator().manual_seed(2)), EXPECTED, ~NOTHING, NOTHING)
    assert said.startswith("off by ")
    assert "the worst is [2, 7]" in said
    assert looks(got, EXPECTED, ~NOTHING, ~NOTHING) == "never written"


def test_no_tolerance_that_zeros_pass():
    """Nor one that a bf16 result does not keep: a rounding each is right, one percent in float32 is not."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert not wrong_elements(EXPECTED.to(dtype).double(), EXPECTED, dtype).any()
        assert wrong_elements(EXPECTED * 0, EXPECTED, dtype).double().mean() > 0.95
    assert wrong_elements(EXPECTED * 1.01, EXPECTED, torch.float32).double().mean() > 0.95
    nan = torch.full((3,), float("nan"), dtype=torch.float64)
    assert not wrong_elements(nan, nan, torch.float32).any()
    assert wrong_elements(nan, torch.ones(3, dtype=torch.float64), torch.float32).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_marked_memory(dtype):
    """What is new is marked, what is zeroed is not, and a write beside a tensor is counted on its side."""
    memory = Memory("cpu", 0)
    before = torch.empty, torch.zeros_like
    with memory.watched():
        new = torch.empty(3, 5, dtype=dtype)
        zeroed = torch.zeros_like(new)
        assert torch.empty(2, dtype=torch.int32).shape == (2,)
    assert (torch.empty, torch.zeros_like) == before
    assert untouched(new).all()
    assert not untouched(zeroed).any()
    new[1, 2] = 1
    assert int(untouched(new).sum()) == 14
    memory.name(new, "y")
    zone = next(z for z in memory.zones if z.name == "y")
    zone.buffer[ZONE - 3] = 1
    zone.buffer[ZONE + 15 : ZONE + 17] = 1
    assert zone.spilled() == (1, 2)


def test_a_slice_lies_in_marked_memory():
    memory = Memory("cpu", 0)
    x = memory.normal((3, 10), torch.float32, 1.0, 0.0, "sliced")
    assert x.stride() == (46, 1)
    assert not (x == 50).any()
    assert (x.as_strided((3, 46), (46, 1), x.storage_offset())[:, 10:] == 50).all()


def trial(got, expected, dtype=torch.float32):
    wrong = wrong_elements(got, expected, dtype)
    return Trial(
        given=None,
        dtype=dtype,
        expected=(expected,),
        got=(got,),
        dtypes=(dtype,),
        wrong=(wrong,),
        untouched=(torch.zeros_like(wrong),),
    )


def test_only_16_bits_that_raise_after_all_else_was_right():
    assert raised_by_dtype([], torch.bfloat16) == ()
    one = torch.ones(3, dtype=torch.float64)
    assert raised_by_dtype([trial(one, one)], torch.float32) == ()
    assert [m.name for m in raised_by_dtype([trial(one, one)], torch.bfloat16)] == ["sixteen_bits"]
    assert raised_by_dtype([trial(one * 2, one)], torch.bfloat16) == ()


def test_what_nobody_thought_of_resembles_nothing(tmp_path):
    """An answer that is wrong in a way of its own gets a description, and no name."""
    text = "def block_choice(N):\n    return 77, 5\n"
    verdict = judge(EXERCISES["block_choice"], Source(text=text, entry="block_choice"), tmp_path, "cpu")
    assert not verdict.ok
    assert verdict.mistakes == ()
    assert verdict.findings[0].says == "77, not 128"
