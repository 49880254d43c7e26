"""The grammar of --arg, --shape and --dtype: what it takes, what it says to the rest, and the way back to text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuselab.errors import ArgumentSpecError
from fuselab.experiments.arguments import (
    FLOAT_DTYPES,
    INTEGER_RANGES,
    ArgumentSpec,
    TensorSpec,
    parse_argument,
    parse_dtype,
    parse_shape,
)
from fuselab.records import DTYPES

GOOD = [
    ("x=bf16[4096,1024]", "x", TensorSpec("bf16", (4096, 1024))),
    ("x=bfloat16[4096, 1024]", "x", TensorSpec("bf16", (4096, 1024))),
    ("x=torch.float32[2]", "x", TensorSpec("f32", (2,))),
    ("x=half[2]", "x", TensorSpec("f16", (2,))),
    ("x=f32[]", "x", TensorSpec("f32", ())),
    ("x=f32[ ]", "x", TensorSpec("f32", ())),
    ("x=f32[0,8]", "x", TensorSpec("f32", (0, 8))),
    ("w=f32[1024]:requires_grad", "w", TensorSpec("f32", (1024,), requires_grad=True)),
    ("  w = f32 [ 1024 ] : requires_grad ", "w", TensorSpec("f32", (1024,), requires_grad=True)),
    ("ids=i64[8,512]<50257", "ids", TensorSpec("i64", (8, 512), high=50257)),
    ("ids=int64[8,512]>=-5<5", "ids", TensorSpec("i64", (8, 512), low=-5, high=5)),
    ("ids=u8[8]>=200", "ids", TensorSpec("u8", (8,), low=200)),
    ("ids=i8[8]<128", "ids", TensorSpec("i8", (8,), high=128)),
    ("mask=bool[8,512]", "mask", TensorSpec("bool", (8, 512))),
    ("n=3", "n", 3),
    ("n=-3", "n", -3),
    ("eps=1e-5", "eps", 1e-5),
    ("eps=.5", "eps", 0.5),
    ("eps=2.", "eps", 2.0),
    ("eps=-inf", "eps", float("-inf")),
    ("flag=true", "flag", True),
    ("flag=False", "flag", False),
    ("x=none", "x", None),
    ("x=None", "x", None),
    ("approximate=tanh", "approximate", "tanh"),
    ("mode=max-autotune", "mode", "max-autotune"),
    ("mode=half", "mode", "half"),
    ("mode=infinite", "mode", "infinite"),
    ("mode='none'", "mode", "none"),
    ("mode='bf16'", "mode", "bf16"),
    (r"mode='it\'s \\ fine'", "mode", r"it's \ fine"),
    ("mode=''", "mode", ""),
    ("größe=f32[2]", "größe", TensorSpec("f32", (2,))),
]


@pytest.mark.parametrize(("text", "name", "value"), GOOD)
def test_what_the_grammar_takes(text, name, value):
    spec = parse_argument(text)
    assert spec == ArgumentSpec(name, value)
    assert type(spec.value) is type(value)
    assert parse_argument(str(spec)) == spec


# Text, the words of the message, the text left of the caret, words of the hint.
BAD = [
    ("", "expected the name of a parameter", "", "x=bf16[4096,1024]"),
    ("=3", "expected the name of a parameter", "", "for example"),
    ("3x=1", "expected the name of a parameter", "", "for example"),
    ("x", "expected '=' after the name", "x", "for example"),
    ("x bf16[4]", "expected '=' after the name", "x ", "for example"),
    ("x=", "nothing stands after the '='", "x=", "a tensor, a number, true, false, none"),
    ("x=@", "cannot read this value", "x=", "a tensor, a number, true, false, none"),
    ("x='open", "cannot read this value", "x=", "single quotes"),
    ("x=1abc", "cannot read this number", "x=", "single quotes"),
    ("x=1,2", "cannot read this number", "x=", "single quotes"),
    ("x=a b", "cannot read the rest", "x=a ", "single quotes"),
    ("x=bf17[4,4]", "unknown dtype 'bf17'; did you mean 'bf16'?", "x=", "bf16, f16, f32, f64, i64"),
    ("x=Float32[4]", "unknown dtype 'Float32'; did you mean 'float32'?", "x=", "bfloat16"),
    ("x=zzz[4]", "unknown dtype 'zzz'", "x=", "bfloat16"),
    ("x=bf16", "bf16 is a dtype, and its shape is missing", "x=bf16", "bf16[4096,1024], or 'bf16' in quotes"),
    ("x=bf16<3", "bf16 is a dtype, and its shape is missing", "x=bf16", "bf16[4096,1024]"),
    ("x=bf16[4,", "expected a number", "x=bf16[4,", "[4096,1024]"),
    ("x=bf16[4,,4]", "expected a number", "x=bf16[4,", "[4096,1024]"),
    ("x=bf16[4,]", "expected a number", "x=bf16[4,", "[4096,1024]"),
    ("x=bf16[4x4]", "expected ',' or ']'", "x=bf16[4", "[4096,1024]"),
    ("x=bf16[4", "expected ',' or ']'", "x=bf16[4", "[4096,1024]"),
    ("x=bf16[4.5]", "expected ',' or ']'", "x=bf16[4", "[4096,1024]"),
    ("x=bf16[-1]", "an axis of -1 is not possible", "x=bf16[", "whole numbers"),
    ("x=bf16[99999999999999999999]", "an axis of 99999999999999999999 is not possible", "x=bf16[", "whole numbers"),
    ("x=bf16[4]:grad", "unknown flag 'grad'", "x=bf16[4]:", ":requires_grad"),
    ("x=bf16[4]:", "unknown flag ''", "x=bf16[4]:", ":requires_grad"),
    ("x=i64[4]:requires_grad", "i64 has no gradient", "x=i64[4]:", "bf16, f16, f32, f64"),
    ("x=f32[4]<5", "a range is for integers, and f32 is none", "x=f32[4]", "u8, i8, i16, i32, i64"),
    ("x=bool[4]>=0", "a range is for integers, and bool is none", "x=bool[4]", "u8, i8, i16, i32, i64"),
    ("x=i8[4]<129", "i8 holds -128 to 127, not 0 to 128", "x=i8[4]", "a range is"),
    ("x=u8[4]>=-1", "u8 holds 0 to 255, not -1 to 9", "x=u8[4]", "a range is"),
    ("x=i64[4]<0", "the range holds no integer: from 0 to below 0", "x=i64[4]", "a range is"),
    ("x=i64[4]>=5<5", "the range holds no integer: from 5 to below 5", "x=i64[4]", "a range is"),
    ("x=i64[4]<a", "expected a whole number", "x=i64[4]<", "a range is"),
    ("x=i64[4]<5>=2", "cannot read the rest", "x=i64[4]<5", "in this order"),
    ("x=bf16[4] foo", "cannot read the rest", "x=bf16[4] ", "in this order"),
    ("x=" + "9" * 2000, "an integer of 2000 digits is too long", "x=", "in your code"),
]


@pytest.mark.parametrize(("text", "message", "left", "hint"), BAD, ids=[case[0][:30] for case in BAD])
def test_what_the_grammar_says_to_the_rest(text, message, left, hint):
    with pytest.raises(ArgumentSpecError) as caught:
        parse_argument(text)
    first, window, caret = caught.value.message.split("\n")
    assert first.endswith(message)
    assert first.startswith("--arg ")
    assert repr(text)[:90].rstrip("'") in first
    assert window.strip() == text[: len(window.strip())].strip()
    assert caret == "    " + " " * len(left) + "^"
    assert hint in caught.value.hint


def test_a_long_text_is_cut_around_the_place():
    text = "y=f32[" + "1," * 200 + "q]"
    with pytest.raises(ArgumentSpecError) as caught:
        parse_argument(text)
    first, window, caret = caught.value.message.split("\n")
    assert len(first) < 150
    assert len(window) < 110
    assert window[caret.index("^")] == "q"


def test_what_cannot_be_printed_is_shown_as_a_question_mark():
    with pytest.raises(ArgumentSpecError) as caught:
        parse_argument("x=a\n\x1b[31mb")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "bounds"),
    [
        (TensorSpec("i64", (2,)), (0, 10)),
        (TensorSpec("i64", (2,), high=3), (0, 3)),
        (TensorSpec("i64", (2,), low=100), (100, 110)),
        (TensorSpec("i64", (2,), low=-5), (-5, 10)),
        (TensorSpec("i64", (2,), low=-5, high=-2), (-5, -2)),
    ],
)
def test_bounds_of_integers(spec, bounds):
    assert spec.bounds == bounds


# There and back


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True)
shapes = st.lists(st.integers(0, 2**40), max_size=5).map(tuple)
float_tensors = st.builds(TensorSpec, st.sampled_from(FLOAT_DTYPES), shapes, requires_grad=st.booleans())


@st.composite
def integer_tensors(draw):
    dtype = draw(st.sampled_from(sorted(INTEGER_RANGES)))
    smallest, largest = INTEGER_RANGES[dtype]
    low = draw(st.none() | st.integers(smallest, largest - 20))
    first = 0 if low is None else low
    high = draw(st.none() | st.integers(first + 1, largest + 1))
    return TensorSpec(dtype, draw(shapes), low, high)


scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text()
arguments = st.builds(ArgumentSpec, names, float_tensors | integer_tensors() | scalars)


@given(arguments)
def test_what_is_written_out_reads_back(spec):
    again = parse_argument(str(spec))
    assert again == spec
    assert type(again.value) is type(spec.value)
    assert str(again) == str(spec) == f"{spec.name}={spec.text}"


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_hint(text):
    refused = None
    try:
        spec = parse_argument("x=" + text)
    except ArgumentSpecError as error:
        refused = error
    if refused is not None:
        assert refused.hint
        assert refused.message.startswith("--arg ")
    elif spec.value == spec.value:  # all but NaN
        assert parse_argument(str(spec)) == spec


# Shapes and dtypes


@pytest.mark.parametrize(
    ("text", "shape"), [("4096x1024", (4096, 1024)), ("7", (7,)), (" 2 X 3x4 ", (2, 3, 4)), ("1x1", (1, 1))]
)
def test_shapes(text, shape):
    assert parse_shape(text) == shape


@given(st.lists(st.integers(1, 2**50), min_size=1, max_size=6).map(tuple))
def test_a_shape_reads_back(shape):
    assert parse_shape("x".join(map(str, shape))) == shape


@pytest.mark.parametrize(
    ("text", "message", "left"),
    [
        ("", "expected a number", ""),
        ("4x", "an axis is empty", "4x"),
        ("x4", "an axis is empty", ""),
        ("4xx4", "an axis is empty", "4x"),
        ("axb", "expected a number", ""),
        ("4,4", "expected 'x' between two axes", "4"),
        ("4.5x4", "expected 'x' between two axes", "4"),
        ("0x4", "an axis of 0 is not possible", ""),
        ("4x-1", "an axis of -1 is not possible", "4x"),
        ("9" * 5000, "is not possible", ""),
    ],
    ids=lambda value: value[:12],
)
def test_what_is_no_shape(text, message, left):
    with pytest.raises(ArgumentSpecError) as caught:
        parse_shape(text)
    first, _, caret = caught.value.message.split("\n")
    assert first.startswith("--shape ")
    assert first.endswith(message)
    assert caret == "    " + " " * len(left) + "^"
    assert "4096x1024" in caught.value.hint or "at least 1" in caught.value.hint


@pytest.mark.parametrize(("short", "long"), DTYPES.items())
def test_a_dtype_by_each_of_its_names(short, long):
    assert parse_dtype(short) == parse_dtype(long) == parse_dtype(f"torch.{long}") == parse_dtype(f" {long} ") == short


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bf61", "unknown dtype 'bf61'; did you mean 'bf16'?"),
        ("FLOAT32", "unknown dtype 'FLOAT32'; did you mean 'float32'?"),
        ("", "unknown dtype ''"),
        ("complex64", "unknown dtype 'complex64'"),
    ],
)
def test_what_is_no_dtype(text, says):
    with pytest.raises(ArgumentSpecError) as caught:
        parse_dtype(text)
    assert caught.value.message.startswith(f"--dtype {text!r}: {says}")
    assert "bf16, f16, f32, f64" in caught.value.hint
