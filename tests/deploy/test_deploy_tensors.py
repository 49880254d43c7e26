"""Tensors and arguments as raw files and JSON: what goes out comes back, bits, layout and all."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselab.deploy.manifest import TensorFile, Value, element_size, span
from fuselab.deploy.tensors import TensorWriter, read_tensor, read_value, tensor_sha256
from fuselab.errors import UsageError
from fuselab.measure.exposure import same_bits

DTYPES = [
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def round_trip(tensor: torch.Tensor, directory) -> torch.Tensor:
    writer = TensorWriter(directory)
    spec = writer.tensor(tensor, "golden")
    path = writer.files[spec.file]
    assert path.stat().st_size == span(spec) * element_size(spec.dtype)
    return read_tensor(spec, lambda name: writer.files[name].read_bytes(), "cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_survive(dtype, tmp_path):
    tensor = torch.randint(0, 2, (3, 5)).to(dtype) if dtype is torch.bool else (torch.randn(3, 5) * 9).to(dtype)
    back = round_trip(tensor, tmp_path)
    assert same_bits(back, tensor)


def test_special_values_and_gradients_survive(tmp_path):
    tensor = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45]).requires_grad_()
    back = round_trip(tensor, tmp_path)
    assert same_bits(back, tensor)
    assert back.requires_grad
    assert back.is_leaf


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.t(),
        lambda t: t[:, 2:5],
        lambda t: t[::2],
        lambda t: t[1:2].expand(4, 8),
        lambda t: t[2, 3],
        lambda t: t[:0],
        lambda t: t.reshape(-1),
        lambda t: t.unsqueeze(1),
    ],
)
def test_layouts_survive(view, tmp_path):
    tensor = view(torch.randn(6, 8))
    back = round_trip(tensor, tmp_path)
    assert (back.shape, back.stride()) == (tensor.shape, tensor.stride())
    assert torch.equal(back, tensor)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(max_size=20).filter(lambda s: s.isprintable()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(values)
def test_plain_arguments_survive(tmp_path_factory, value):
    writer = TensorWriter(tmp_path_factory.mktemp("values"))
    packed = writer.value(value, "golden", "x")
    import msgspec

    again = msgspec.json.decode(msgspec.json.encode(packed), type=Value)
    back = read_value(again, lambda name: writer.files[name].read_bytes(), "cpu")
    assert back == value
    assert type(back) is type(value)


def test_nan_survives_and_objects_do_not(tmp_path):
    writer = TensorWriter(tmp_path)
    assert math.isnan(read_value(writer.value(math.nan, "golden", "x"), lambda _: b"", "cpu"))
    with pytest.raises(UsageError, match="the argument config is a object"):
        writer.value(object(), "golden", "config")


def test_a_models_hash_tells_values_names_and_shapes_apart():
    one = {"weight": torch.ones(2, 3), "bias": torch.zeros(3)}
    assert tensor_sha256(one) == tensor_sha256(dict(reversed(one.items())))
    for other in (
        one | {"weight": torch.full((2, 3), 2.0)},
        one | {"weight": torch.ones(3, 2)},
        {"weights": torch.ones(2, 3), "bias": torch.zeros(3)},
    ):
        assert tensor_sha256(one) != tensor_sha256(other)
    assert tensor_sha256({}) == ""


def test_the_span_is_what_strides_reach():
    assert span(TensorFile(file="x", dtype="float32", shape=[], stride=[])) == 1
    assert span(TensorFile(file="x", dtype="float32", shape=[4, 0], stride=[0, 1])) == 0
