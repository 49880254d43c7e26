"""The shortest way of an eager call: when a bound launch is used, with which pointers, and when it is not."""

import sys

import pytest
import torch

import fuselab.ops  # noqa: F401 - its modules are looked up by name: functions are exported under the same
from fuselab.ops.launch import INTERPRETED
from fuselab.ops.layer_norm_gelu_launch import packed_parts

SILU, GEGLU = (sys.modules[f"fuselab.ops.{name}"] for name in ("silu", "geglu"))
BLOCK = sys.modules["fuselab.ops.flat"].BLOCK

pytestmark = pytest.mark.skipif(INTERPRETED, reason="in the interpreter nothing is bound")


class Bound:
    """A bound launch that notes what it is given; ``answer`` False declines."""

    def __init__(self, answer=True):
        self.answer = answer
        self.calls = []

    def __call__(self, *args):
        self.calls.append(args)
        return self.answer


class Table(dict):
    """Every form is bound, to the same launch; keeps the forms that were looked up."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound
        self.forms = []

    def get(self, form, default=None):
        self.forms.append(form)
        return self.bound


class OrdinaryError(Exception):
    """The ordinary way was gone."""


@pytest.fixture
def ordinary(monkeypatch):
    def way(*_, **__):
        raise OrdinaryError

    for module, name in (
        (SILU, "_silu_forward"),
        (SILU, "_silu_backward"),
        (sys.modules["fuselab.ops.gate"], "gate_forward"),
        (sys.modules["fuselab.ops.gate"], "gate_backward"),
        (sys.modules["fuselab.ops.gate"], "check_gate"),
        (SILU, "check_tensors"),
    ):
        monkeypatch.setattr(module, name, way)


def gate(module, forward, backward):
    known = module._SWIGLU if module is SILU else module._GATE
    return sys.modules["fuselab.ops.gate"].Gate(known.name, known.forward, known.backward, forward, backward)


@pytest.mark.parametrize("shape", [(4, 512), (3, 5, 7), (1,)])
def test_silu(monkeypatch, ordinary, shape):
    x, dy = torch.randn(shape), torch.randn(shape)
    bound = Bound()
    for name in ("_FORWARD", "_BACKWARD"):
        monkeypatch.setattr(SILU, name, Table(bound))
    y = SILU._eager_forward(x)
    dx = SILU._eager_backward(x, dy)
    count = x.numel()
    programs = -(-count // BLOCK)
    assert bound.calls == [
        (programs, x.data_ptr(), y.data_ptr(), count),
        (programs, x.data_ptr(), dy.data_ptr(), dx.data_ptr(), count),
    ]
    for result in (y, dx):
        assert result.shape == x.shape
        assert result.dtype == x.dtype
        assert result.is_contiguous()
    remainder = 0 if count % BLOCK == 0 else count
    assert SILU._FORWARD.forms == [(x.dtype, -1, remainder, True)]
    assert SILU._BACKWARD.forms == [(x.dtype, dy.dtype, -1, remainder, True)]


def test_silu_goes_the_ordinary_way(monkeypatch, ordinary):
    for name in ("_FORWARD", "_BACKWARD"):
        monkeypatch.setattr(SILU, name, Table(Bound()))
    x = torch.randn(4, 8)
    for strided in (x.t(), x[:, :4], x[:1].expand(4, 8)):
        with pytest.raises(OrdinaryError):
            SILU._eager_forward(strided)
        with pytest.raises(OrdinaryError):
            SILU._eager_backward(strided.contiguous(), strided)
    monkeypatch.setattr(SILU, "_FORWARD", Table(Bound(answer=False)))
    with pytest.raises(OrdinaryError):
        SILU._eager_forward(x)


@pytest.mark.parametrize(("module", "flags"), [(SILU, {}), (GEGLU, {"APPROXIMATE": "tanh"})])
def test_pairs(ordinary, module, flags):
    a, b, dy = (torch.randn(2, 3, 8).bfloat16() for _ in range(3))
    bound = Bound()
    both = gate(module, Table(bound), Table(bound))
    y = module.gate_eager_forward(both, a, b, **flags)
    da, db = module.gate_eager_backward(both, a, b, dy, **flags)
    pointers = [[t.data_ptr() for t in some] for some in ((a, b, y), (a, b, dy, da, db))]
    assert bound.calls == [(1, *pointers[0], 48), (1, *pointers[1], 48)]
    assert all(t.shape == a.shape and t.dtype == a.dtype and t.is_contiguous() for t in (y, da, db))
    assert both.bound_forward.forms == [(*flags.values(), a.dtype, a.dtype, 0, 0, -1, 48, True)]
    assert both.bound_backward.forms == [(*flags.values(), a.dtype, a.dtype, a.dtype, 0, 0, -1, 48, True)]


def test_packed(ordinary):
    a = torch.randn(4, 3, 2048)
    bound = Bound()
    y = SILU.gate_eager_forward(gate(SILU, Table(bound), Table(bound)), a, None)
    assert y.shape == (4, 3, 1024)
    assert bound.calls == [(12, a.data_ptr(), a.data_ptr(), y.data_ptr(), 12 * 1024)]


@pytest.mark.parametrize(("module", "flags"), [(SILU, {}), (GEGLU, {"APPROXIMATE": "tanh"})])
def test_packed_gradients(ordinary, module, flags):
    a, dy = torch.randn(4, 3, 2048), torch.randn(4, 3, 1024).bfloat16()
    bound = Bound()
    both = gate(module, Table(bound), Table(bound))
    da, _ = module.gate_eager_backward(both, a, None, dy, **flags)
    pointers = [t.data_ptr() for t in (a, a, dy, da, da)]
    assert bound.calls == [(12, *pointers, 12 * 1024)]
    assert da.shape == a.shape
    assert both.bound_backward.forms == [(*flags.values(), a.dtype, None, dy.dtype, 1024, 1024, -1, 0, True)]
    for strided_a, strided_dy in ((a[:, :, ::2], dy[:, :, ::2]), (a.transpose(0, 1), dy), (a, dy.transpose(0, 1))):
        with pytest.raises(OrdinaryError):
            module.gate_eager_backward(both, strided_a, None, strided_dy, **flags)


def test_packed_tensors_of_more_than_2_to_the_31_elements_are_not_bound(ordinary):
    """Their offsets are of 64 bits, those of a bound launch of 32."""
    both = gate(SILU, Table(Bound()), Table(Bound()))
    a = torch.empty(2**20, 2048, device="meta")
    with pytest.raises(OrdinaryError):
        SILU.gate_eager_forward(both, a, None)
    with pytest.raises(OrdinaryError):
        SILU.gate_eager_backward(both, a, None, torch.empty(2**20, 1024, device="meta"))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("rows", "wide"), [(2**14 - 1, False), (2**14 + 1, True)])
def test_rows_far_apart_have_offsets_of_64_bits(monkeypatch, packed, rows, wide):
    """Of few elements: slices of a fused projection of 2^17 columns."""
    made = []
    monkeypatch.setattr(sys.modules["fuselab.ops.flat"], "launch_ordinarily", lambda *_, **meta: made.append(meta))
    projection = torch.empty(rows, 2**17, device="meta")
    inputs = (projection[:, 64:192], None) if packed else (projection[:, :64], projection[:, 64:128])
    both = gate(SILU, Table(None), Table(None))
    SILU.gate_forward(both.forward, both, *inputs)
    assert [meta["WIDE"] for meta in made] == [wide]
    if not packed:  # a packed tensor is copied: its gradient lies in the same places
        SILU.gate_backward(both.backward, both, *inputs, torch.empty(rows, 64, device="meta"))
        assert [meta["WIDE"] for meta in made] == [wide, wide]


def test_the_ordinary_way_looks_up_as_well(monkeypatch):
    """What has no short way (other dtypes, strided halves) is bound by the same forms."""
    monkeypatch.setattr(sys.modules["fuselab.ops.flat"], "launch_ordinarily", lambda *_, **__: pytest.fail("not bound"))
    bound = Bound()
    both = gate(SILU, Table(bound), Table(bound))
    wide = torch.randn(4, 3, 4096)
    a, b = wide[..., :2048], torch.randn(4, 3, 1024).bfloat16()
    y = SILU.gate_forward(both.forward, both, a, None)
    mixed = SILU.gate_forward(both.forward, both, b.float(), b)
    assert [call[1:] for call in bound.calls] == [
        (a.data_ptr(), a.data_ptr(), y.data_ptr(), 12 * 1024),
        (bound.calls[1][1], b.data_ptr(), mixed.data_ptr(), 12 * 1024),
    ]
    assert both.bound_forward.forms == [
        (torch.float32, None, 1024, 3072, None, 0, True),
        (torch.float32, torch.bfloat16, 0, 0, None, 0, True),
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.randn(4, 8), torch.randn(8, 4)),
        (torch.randn(4, 8), torch.randn(32)),
        (torch.randn(4, 8), torch.randn(4, 8).bfloat16()),
        (torch.randn(4, 8), torch.randn(4, 16)[:, :8]),
        (torch.randn(4, 16)[:, :8], torch.randn(4, 8)),
        (torch.randn(4, 8), torch.randn(4, 8, device="meta")),
        (torch.randn(4, 7), None),
        (torch.randn(8, 4).t(), None),
        (torch.tensor(1.0), None),
    ],
)
def test_gates_go_the_ordinary_way(ordinary, a, b):
    """Where shapes are refused, dtypes promoted, or layouts copied."""
    both = gate(SILU, Table(Bound()), Table(Bound()))
    if b is not None and b.device.type == "meta":  # the device is a part of the form
        both.bound_forward.bound = Bound(answer=False)
    with pytest.raises(OrdinaryError):
        SILU.gate_eager_forward(both, a, b)


@pytest.mark.parametrize(("count", "parts"), [(2**20 + 1, [2**20, 1]), (2**20 + 5 * 1024 + 9, [2**20 + 5 * 1024, 9])])
def test_an_odd_number_of_elements_is_masked_at_its_end_only(monkeypatch, count, parts):
    made = []
    monkeypatch.setattr(sys.modules["fuselab.ops.flat"], "launch", lambda *args, **meta: made.append((args, meta)))
    x = torch.randn(count)
    SILU._silu_forward(SILU._silu_forward_kernel, x)
    assert [args[-1] for args, _ in made] == parts
    assert [args[1] for args, _ in made] == [(-(-part // BLOCK),) for part in parts]
    assert [meta["EVEN"] for _, meta in made] == [True, False]
    assert [args[3].data_ptr() - x.data_ptr() for args, _ in made] == [0, 4 * parts[0]]
    assert [args[3].numel() for args, _ in made] == parts
    assert made[0][0][4].data_ptr() + 4 * parts[0] == made[1][0][4].data_ptr()


@pytest.mark.parametrize("count", [2**20 + 16, 1023])
def test_where_the_mask_costs_nothing_there_is_one_launch(monkeypatch, count):
    made = []
    flat = sys.modules["fuselab.ops.flat"]
    monkeypatch.setattr(flat, "launch_ordinarily", lambda *args, **meta: made.append((args, meta)))
    SILU._silu_forward(SILU._silu_forward_kernel, torch.randn(count))
    assert [args[-1] for args, _ in made] == [count]
    assert not made[0][1]["EVEN"]


@pytest.mark.parametrize(("count", "warps"), [(2**20 - 1, 8), (2**20, 8), (2**20 + 1024, 4)])
def test_few_elements_have_more_warps_and_a_form_of_their_own(monkeypatch, count, warps):
    made, bound = [], Table(None)
    monkeypatch.setattr(sys.modules["fuselab.ops.flat"], "launch_ordinarily", lambda *_, **meta: made.append(meta))
    monkeypatch.setattr(SILU, "_FORWARD", bound)
    SILU._silu_forward(SILU._silu_forward_kernel, torch.empty(count))
    assert [meta["num_warps"] for meta in made] == [warps]
    assert [form[-1] for form in bound.forms] == [warps == 8]


@pytest.mark.parametrize(
    ("rows", "width", "dtype", "parts"),
    [
        (512, 4096, torch.bfloat16, 0), (513, 4096, torch.bfloat16, 4), (4096, 4096, torch.float16, 4),
        (4097, 4096, torch.bfloat16, 8), (2, 16_384, torch.bfloat16, 0), (1025, 16_384, torch.bfloat16, 8),
        (1, 16_392, torch.bfloat16, 8), (1, 32_768, torch.bfloat16, 8), (600, 32_776, torch.bfloat16, 0),
        (4097, 4096, torch.float32, 0), (4097, 4100, torch.bfloat16, 0), (32_769, 1024, torch.bfloat16, 0),
    ],
)  # fmt: skip
def test_rows_of_layer_norm_gelu_are_packed_by_how_many_elements_there_are(rows, width, dtype, parts):
    assert packed_parts(torch.empty(rows, width, dtype=dtype, device="meta"), width) == parts
