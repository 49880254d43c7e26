"""Streams of shapes: what can be written, what is refused and how, and the totals of strategies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselab.errors import ArgumentSpecError, UsageError
from fuselab.records import Status
from fuselab.startup.shape_records import CallRecord, Strategy, StreamRecord
from fuselab.startup.shapes import bucket, parse_buckets, read_stream, shapes_text, varying
from fuselab.startup.summary import stream_summary


def test_a_file_holds_one_call_a_line_in_any_of_the_three_ways(tmp_path):
    file = tmp_path / "stream.txt"
    file.write_text("8x512  # the first\n\n16x512*2\n[32, 512]\n")
    assert read_stream(str(file)) == [{"": (8, 512)}, {"": (16, 512)}, {"": (16, 512)}, {"": (32, 512)}]
    file.write_text('{"x": [8, 512], "mask": [8, 8]}\nx=16x512;mask=16x16\n')
    assert read_stream(str(file)) == [{"x": (8, 512), "mask": (8, 8)}, {"x": (16, 512), "mask": (16, 16)}]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("8x512,,16x512", ArgumentSpecError, "empty place"),
        ("8x512,x", ArgumentSpecError, "x"),
        ("8x512*0", ArgumentSpecError, "repeated 0 times"),
        ("x=8x512;x=8x8", ArgumentSpecError, "twice"),
        ("x=8x512,y=8x512", ArgumentSpecError, "same arguments"),
        ("1x=8x512", ArgumentSpecError, "no name"),
        ("nowhere/stream.txt", UsageError, "nowhere/stream.txt"),
        ("8x512*100001", ArgumentSpecError, "100000"),
    ],
)
def test_what_cannot_be_read_is_quoted(text, error, said):
    with pytest.raises(error) as caught:
        read_stream(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"), [("[8, -1]", "no shape"), ('{"x": 8}', "no shape"), ("[8,", "not JSON"), ("[true]", "no shape")]
)
def test_a_bad_line_of_a_file_is_named_with_its_number(tmp_path, line, said):
    file = tmp_path / "stream.txt"
    file.write_text(f"8x512\n{line}\n")
    with pytest.raises(ArgumentSpecError) as caught:
        read_stream(str(file))
    assert "stream.txt:2" in str(caught.value)
    assert said in str(caught.value)


@given(st.integers(1, 10_000), st.lists(st.integers(1, 4096), max_size=5))
def test_a_bucket_holds_what_is_put_into_it(size, buckets):
    found = bucket(size, sorted(set(buckets)))
    assert found >= size
    if not buckets:
        assert found < 2 * size or size == 1
        assert found & (found - 1) == 0


@pytest.mark.parametrize("text", ["a", "0", "-4", "4,,8"])
def test_buckets_that_are_none_are_refused(text):
    with pytest.raises(ArgumentSpecError):
        parse_buckets(text)
    assert parse_buckets("") == []


def test_axes_that_vary_have_their_bounds_and_the_others_are_left_out():
    calls = [{"x": (8, 512), "w": (512,)}, {"x": (24, 512), "w": (512,)}, {"x": (16, 512), "w": (512,)}]
    assert varying(calls) == {"x": {0: (8, 24)}}
    with pytest.raises(UsageError, match="2 axes in one call and 3"):
        varying([{"x": (8, 512)}, {"x": (8, 8, 512)}])


@given(st.dictionaries(st.sampled_from(["x", "y"]), st.lists(st.integers(1, 99), min_size=1, max_size=4), min_size=1))
def test_shapes_are_read_back_as_they_are_written(shapes):
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    assert read_stream(shapes_text(shapes)) == [shapes]


def record(strategy, number, *durations, compiled=(), **fields):
    calls = [
        CallRecord(duration_ns=d, compilations=int(i in compiled), compile_ns=d // 2 if i in compiled else 0)
        for i, d in enumerate(durations)
    ]
    return StreamRecord(strategy=strategy, round=number, calls=calls, **fields)


STREAM = [{"": (8, 512)}, {"": (16, 512)}]


def test_the_cheapest_has_the_smallest_mean_total_and_says_whether_that_is_sure():
    records = [record(Strategy.STATIC, n, 100 + n, 100, compiled=(0, 1)) for n in range(3)]
    records += [record(Strategy.DYNAMIC, n, 120 + n, 10, compiled=(0,)) for n in range(3)]
    found = stream_summary(STREAM, records)
    assert found.cheapest is Strategy.DYNAMIC
    assert found.resolved
    assert [t.strategy for t in found.totals] == [Strategy.DYNAMIC, Strategy.STATIC]
    static = found.totals[1]
    assert (static.total_ns, static.compilations, static.compiled_at) == (201.0, 2, [0, 1])
    assert static.low_ns < 201 < static.high_ns
    alone = stream_summary(STREAM, records[:1] + records[3:4])
    assert alone.cheapest is Strategy.DYNAMIC
    assert not alone.resolved


def test_wrong_stopped_and_failed_strategies_cannot_be_the_cheapest():
    wrong = StreamRecord(
        strategy=Strategy.PADDED,
        round=0,
        calls=[CallRecord(duration_ns=1, correct=True), CallRecord(duration_ns=1, correct=False)],
    )
    records = [
        record(Strategy.EAGER, 0, 500, 500),
        record(Strategy.STATIC, 0, 900, 900, compiled=(0, 1)),
        wrong,
        record(Strategy.AUTOMATIC, 0, 1, stopped="after 1 of 2 calls: the budget of 60 s was spent"),
        StreamRecord(strategy=Strategy.MARKED, round=0, status=Status.ERROR, reason="ConstraintViolationError: no"),
    ]
    found = stream_summary(STREAM, records)
    assert found.cheapest is Strategy.EAGER
    assert found.cheapest_compiled is Strategy.STATIC
    excluded = {t.strategy: t.excluded for t in found.totals if t.excluded}
    assert "call 1 is not eager's" in excluded[Strategy.PADDED]
    assert "budget" in excluded[Strategy.AUTOMATIC]
    assert "ConstraintViolationError" in excluded[Strategy.MARKED]
    assert stream_summary(STREAM, records[2:]).cheapest is None
