"""Bytes of the four experiments' kernels against counts by hand: recorded C++ of torch 2.13, and TTIR of Triton 3.7."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuselab.ir.traffic import measure_traffic
from fuselab.ir.traffic_cpp import read_cpp
from fuselab.ir.traffic_ttir import read_ttir

RECORDED = Path(__file__).parent / "recorded"

R, N = 64, 256
LN_R, LN_N = 64, 1000
RMS_R, RMS_N = 100, 4096
SD_R, SD_N = 64, 2048
MIX_R, MIX_N, MIX_PROGRAMS = 16384, 4096, 1024

CPP = {
    # reads: x in three passes, weight and bias, mean twice in its way to rstd ...; saved mean and rstd are outputs.
    "ln_forward": {
        "in_ptr0": (3 * 4 * R * N, 0, 4 * R * N),
        "in_ptr1": (4 * N, 0, 4 * N),
        "in_ptr2": (4 * N, 0, 4 * N),
        "in_out_ptr0": (3 * 4 * R, 2 * 4 * R, 4 * R),
        "in_out_ptr1": (2 * 4 * R, 2 * 4 * R, 4 * R),
        "in_out_ptr2": (0, 4 * R * N, 4 * R * N),
    },
    "ln_backward": {
        "in_ptr0": (3 * 4 * R * N, 0, 4 * R * N),
        "in_ptr1": (3 * 4 * R, 0, 4 * R),
        "in_ptr2": (3 * 4 * R, 0, 4 * R),
        "in_ptr3": (2 * 4 * N, 0, 4 * N),
        "in_ptr4": (4 * N, 0, 4 * N),
        "in_ptr5": (4 * R * N, 0, 4 * R * N),
        "out_ptr0": (2 * 4 * R * N, 4 * R * N, 4 * R * N),
        "out_ptr1": (4 * R, 4 * R, 4 * R),
        "out_ptr2": (4 * R, 4 * R, 4 * R),
        "out_ptr3": (0, 4 * R * N, 4 * R * N),
        "out_ptr4": (0, 4 * N, 4 * N),
        "out_ptr5": (0, 4 * N, 4 * N),
    },
    # 250 columns: 15 vectors of 16 and a rest of 10, one place in the code each time.
    "sd_forward": {
        "in_ptr0": (8, 0, 8),
        "in_ptr1": (2 * 4 * R * 250, 0, 4 * R * 250),
        "out_ptr1": (R * 250, R * 250, R * 250),
        "out_ptr2": (4 * R, 4 * R, 4 * R),
        "out_ptr3": (4 * R, 4 * R, 4 * R),
        "out_ptr4": (0, 4 * R * 250, 4 * R * 250),
    },
    "sd_backward": {
        "in_ptr0": (4 * R * 250, 0, 4 * R * 250),
        "in_ptr1": (4 * R, 0, 4 * R),
        "in_ptr2": (4 * R, 0, 4 * R),
        "in_ptr3": (2 * 4 * R * 250, 0, 4 * R * 250),
        "in_ptr4": (2 * R * 250, 0, R * 250),
        "out_ptr0": (4 * R, 4 * R, 4 * R),
        "out_ptr1": (0, 4 * R * 250, 4 * R * 250),
    },
    "rms_forward": {
        "in_ptr0": (2 * R * N, 0, 2 * R * N),
        "in_ptr1": (2 * R * N, 0, 2 * R * N),
        "in_ptr2": (2 * N, 0, 2 * N),
        "out_ptr0": (2 * 2 * R * N, 2 * R * N, 2 * R * N),
        "in_out_ptr0": (2 * 4 * R, 2 * 4 * R, 4 * R),
        "out_ptr2": (0, 2 * R * N, 2 * R * N),
    },
    "rms_backward": {
        "in_ptr0": (3 * 2 * R * N, 0, 2 * R * N),
        "in_ptr1": (3 * 2 * R * N, 0, 2 * R * N),
        "in_ptr2": (2 * 4 * R, 0, 4 * R),
        "in_ptr3": (2 * 2 * N, 0, 2 * N),
        "in_ptr4": (2 * R * N, 0, 2 * R * N),
        "out_ptr0": (0, 2 * N, 2 * N),
        "out_ptr1": (4 * R, 4 * R, 4 * R),
        "out_ptr2": (0, 2 * R * N, 2 * R * N),
    },
    "silu_forward": {
        "in_ptr0": (4 * R * N, 0, 4 * R * N),
        "in_ptr1": (4 * R * N, 0, 4 * R * N),
        "out_ptr0": (0, 4 * R * N, 4 * R * N),
    },
    "silu_backward": {
        "in_ptr0": (4 * R * N, 0, 4 * R * N),
        "in_ptr1": (4 * R * N, 0, 4 * R * N),
        "in_ptr2": (4 * R * N, 0, 4 * R * N),
        "out_ptr0": (0, 4 * R * N, 4 * R * N),
        "in_out_ptr0": (0, 4 * R * N, 4 * R * N),
    },
}
"""Kernel and argument to the bytes that it reads, writes and at least has to move."""

TTIR = {
    "ln_0_0": (
        {"xnumel": LN_R, "r0_numel": LN_N},
        (LN_R, 1, 1),
        {
            "in_ptr0": (4 * LN_R * LN_N, 0, 4 * LN_R * LN_N),
            "in_ptr1": (4 * LN_N, 0, 4 * LN_N),
            "in_ptr2": (4 * LN_N, 0, 4 * LN_N),
            "in_out_ptr0": (0, 4 * LN_R, 4 * LN_R),
            "out_ptr0": (0, 4 * LN_R, 4 * LN_R),
            "in_out_ptr1": (0, 4 * LN_R * LN_N, 4 * LN_R * LN_N),
        },
    ),
    "ln_1_0": (
        {"xnumel": LN_R, "r0_numel": LN_N},
        (LN_R, 1, 1),
        {
            "in_ptr0": (4 * LN_R * LN_N, 0, 4 * LN_R * LN_N),
            "in_ptr1": (4 * LN_R, 0, 4 * LN_R),
            "in_ptr2": (4 * LN_R, 0, 4 * LN_R),
            "in_ptr3": (4 * LN_N, 0, 4 * LN_N),
            "in_ptr4": (4 * LN_N, 0, 4 * LN_N),
            "in_ptr5": (4 * LN_R * LN_N, 0, 4 * LN_R * LN_N),
            "out_ptr0": (0, 4 * LN_R * LN_N, 4 * LN_R * LN_N),
            "in_out_ptr0": (0, 4 * LN_R * LN_N, 4 * LN_R * LN_N),
        },
    ),
    # The column sums: 1000 columns by 32, so that the last program is masked.
    "ln_1_1": (
        {"xnumel": LN_N, "r0_numel": LN_R},
        (32, 1, 1),
        {
            **{f"in_ptr{i}": (4 * LN_R * LN_N, 0, 4 * LN_R * LN_N) for i in range(3)},
            "in_ptr3": (4 * LN_R, 0, 4 * LN_R),
            "in_ptr4": (4 * LN_R, 0, 4 * LN_R),
            "out_ptr0": (0, 4 * LN_N, 4 * LN_N),
            "out_ptr1": (0, 4 * LN_N, 4 * LN_N),
        },
    ),
    # The sum that is stored as bfloat16 is loaded again by the second pass.
    "rms_0_0": (
        {"xnumel": RMS_R, "r0_numel": RMS_N},
        (RMS_R, 1, 1),
        {
            "in_ptr0": (2 * RMS_R * RMS_N, 0, 2 * RMS_R * RMS_N),
            "in_ptr1": (2 * RMS_R * RMS_N, 0, 2 * RMS_R * RMS_N),
            "in_ptr2": (2 * RMS_N, 0, 2 * RMS_N),
            "out_ptr0": (2 * RMS_R * RMS_N, 2 * RMS_R * RMS_N, 2 * RMS_R * RMS_N),
            "out_ptr1": (0, 2 * RMS_R * RMS_N, 2 * RMS_R * RMS_N),
            "in_out_ptr0": (0, 4 * RMS_R, 4 * RMS_R),
        },
    ),
    # 100 rows in steps of 32: the last step is masked.
    "rms_1_0": (
        {"xnumel": RMS_N, "r0_numel": RMS_R},
        (256, 1, 1),
        {
            "in_ptr0": (2 * RMS_R * RMS_N, 0, 2 * RMS_R * RMS_N),
            "in_ptr1": (2 * RMS_R * RMS_N, 0, 2 * RMS_R * RMS_N),
            "in_ptr2": (4 * RMS_R, 0, 4 * RMS_R),
            "out_ptr0": (0, 2 * RMS_N, 2 * RMS_N),
        },
    ),
    # Two passes over dy, the weight and x; the residual's gradient and rstd once.
    "rms_1_1": (
        {"xnumel": RMS_R, "r0_numel": RMS_N},
        (RMS_R, 1, 1),
        {
            "in_ptr0": (2 * 2 * RMS_R * RMS_N, 0, 2 * RMS_R * RMS_N),
            "in_ptr1": (2 * 2 * RMS_N, 0, 2 * RMS_N),
            "in_ptr2": (2 * 2 * RMS_R * RMS_N, 0, 2 * RMS_R * RMS_N),
            "in_ptr3": (2 * RMS_R * RMS_N, 0, 2 * RMS_R * RMS_N),
            "in_ptr4": (4 * RMS_R, 0, 4 * RMS_R),
            "out_ptr1": (0, 2 * RMS_R * RMS_N, 2 * RMS_R * RMS_N),
        },
    ),
    "sd_0_0": (
        {"load_seed_offset": 0, "xnumel": SD_R, "r0_numel": SD_N},
        (SD_R // 2, 1, 1),
        {
            "in_ptr0": (2 * 4 * SD_R * SD_N, 0, 4 * SD_R * SD_N),
            "in_ptr1": (8, 0, 8),
            "out_ptr0": (0, 4 * SD_R, 4 * SD_R),
            "out_ptr1": (0, 4 * SD_R, 4 * SD_R),
            "out_ptr3": (SD_R * SD_N, SD_R * SD_N, SD_R * SD_N),
            "out_ptr4": (0, 4 * SD_R * SD_N, 4 * SD_R * SD_N),
        },
    ),
    "sd_1_0": (
        {"xnumel": SD_R, "r0_numel": SD_N},
        (SD_R // 2, 1, 1),
        {
            "in_ptr0": (4 * SD_R * SD_N, 0, 4 * SD_R * SD_N),
            "in_ptr1": (SD_R * SD_N, 0, SD_R * SD_N),
            "in_ptr2": (2 * 4 * SD_R * SD_N, 0, 4 * SD_R * SD_N),
            "in_ptr3": (4 * SD_R, 0, 4 * SD_R),
            "in_ptr4": (4 * SD_R, 0, 4 * SD_R),
            "in_out_ptr0": (4 * SD_R * SD_N, 2 * 4 * SD_R * SD_N, 4 * SD_R * SD_N),
        },
    ),
    "silu_0_0": (
        {"xnumel": R * N},
        (R, 1, 1),
        dict.fromkeys(("in_ptr0", "in_ptr1"), (4 * R * N, 0, 4 * R * N)) | {"out_ptr0": (0, 4 * R * N, 4 * R * N)},
    ),
    "silu_1_0": (
        {"xnumel": R * N},
        (R, 1, 1),
        dict.fromkeys(("in_ptr0", "in_ptr1", "in_ptr2"), (4 * R * N, 0, 4 * R * N))
        | dict.fromkeys(("out_ptr0", "out_ptr1"), (0, 4 * R * N, 4 * R * N)),
    ),
    # Sixteen rows a program, and a workspace of one row a program; from an H200.
    "rms_norm_mix_order": (
        {"xnumel": MIX_R, "r0_numel": MIX_N},
        (MIX_PROGRAMS, 1, 1),
        {
            "in_ptr0": (2 * MIX_R * MIX_N, 0, 2 * MIX_R * MIX_N),
            "in_ptr1": (4 * MIX_R, 0, 4 * MIX_R),
            "in_ptr2": (2 * MIX_R * MIX_N, 0, 2 * MIX_R * MIX_N),
            "in_ptr3": (2 * MIX_N, 0, 2 * MIX_N),
            "out_ptr1": (0, 2 * MIX_R * MIX_N, 2 * MIX_R * MIX_N),
            "ws_ptr": (0, 4 * MIX_PROGRAMS * MIX_N, 4 * MIX_PROGRAMS * MIX_N),
        },
    ),
}


def figures(traffic):
    return {a.name: (a.read_bytes, a.written_bytes, a.fewest_bytes) for a in traffic.arguments}


@pytest.mark.parametrize("name", CPP)
def test_bytes_of_a_cpp_kernel_equal_a_hand_count(name):
    found = read_cpp((RECORDED / f"{name}.cpp").read_text())
    traffic = measure_traffic(found.accesses, reasons=found.reasons)
    assert traffic.exact, traffic.reasons
    assert figures(traffic) == CPP[name]


@pytest.mark.parametrize("name", TTIR)
def test_bytes_of_a_triton_kernel_equal_a_hand_count(name):
    sizes, grid, expected = TTIR[name]
    found = read_ttir((RECORDED / f"{name}.ttir").read_text(), sizes, grid)
    traffic = measure_traffic(found.accesses, reasons=found.reasons)
    assert traffic.exact, traffic.reasons
    assert figures(traffic) == expected


def test_requested_bytes_count_every_lane_of_every_program():
    found = read_ttir((RECORDED / "ln_0_0.ttir").read_text(), *TTIR["ln_0_0"][:2])
    summary = measure_traffic(found.accesses).summary()
    # x, weight and bias by each of the 64 programs, y once, mean and rstd once.
    assert summary["requested_bytes"] == 4 * LN_R * LN_N * 4 + 2 * 4 * LN_R
    assert summary["over_fewest"] == 1.0


def test_a_grid_that_does_not_divide_the_rows_ends_in_a_shorter_loop():
    sizes = {"xnumel": MIX_R, "r0_numel": MIX_N}
    text = (RECORDED / "rms_norm_mix_order.ttir").read_text().replace("constant 16384 :", "constant 16380 :")
    found = read_ttir(text, sizes, (MIX_PROGRAMS, 1, 1))
    traffic = measure_traffic(found.accesses, reasons=found.reasons)
    assert traffic.exact, traffic.reasons
    assert figures(traffic)["in_ptr0"][0] == 2 * 16380 * MIX_N


MODULE = """
module {{
  tt.func public @{name}(%x: !tt.ptr<f32>, %index: !tt.ptr<i64>, %n: i32) attributes {{noinline = false}} {{
    %c4 = arith.constant 4 : i32
    %pid = tt.get_program_id x : i32
    %base = arith.muli %pid, %c4 : i32
    %lanes = tt.make_range {{end = 4 : i32, start = 0 : i32}} : tensor<4xi32>
    %start = tt.splat %base : i32 -> tensor<4xi32>
    %at = arith.addi %start, %lanes : tensor<4xi32>
    %limit = tt.splat %n : i32 -> tensor<4xi32>
    %mask = arith.cmpi slt, %at, %limit : tensor<4xi32>
    %pi = tt.splat %index : !tt.ptr<i64> -> tensor<4x!tt.ptr<i64>>
    %qi = tt.addptr %pi, %at : tensor<4x!tt.ptr<i64>>, tensor<4xi32>
    %where = tt.load %qi, %mask : tensor<4x!tt.ptr<i64>>
    %px = tt.splat %x : !tt.ptr<f32> -> tensor<4x!tt.ptr<f32>>
    %qx = tt.addptr %px, %where : tensor<4x!tt.ptr<f32>>, tensor<4xi64>
    %value = tt.load %qx, %mask : tensor<4x!tt.ptr<f32>>
    tt.return
  }}
}}
"""


def test_an_address_that_depends_on_data_is_an_upper_limit_with_its_reason():
    found = read_ttir(MODULE.format(name="gather"), {"n": 10}, (3, 1, 1))
    traffic = measure_traffic(found.accesses, {"x": 1000}, found.reasons)
    assert not traffic.exact
    assert traffic.reasons == ["x: the address depends on data (line 17)"]
    assert figures(traffic) == {"index": (80, 0, 80), "x": (40, 0, 40)}


@pytest.mark.parametrize("name", ['"a/../b"', '"with space, and (parenthesis)"', "kernel.with.dots"])
def test_hostile_function_names_are_read(name):
    assert len(read_ttir(MODULE.format(name=name), {"n": 10}, (3, 1, 1)).accesses) == 2


def test_without_a_grid_or_a_function_it_is_said():
    assert read_ttir(MODULE.format(name="k"), {"n": 10}, None).reasons == ["the grid is not known"]
    with pytest.raises(ValueError, match=r"no tt\.func"):
        read_ttir("module {}", {}, (1, 1, 1))
    with pytest.raises(ValueError, match='no extern "C" function'):
        read_cpp("int main() {}")


def test_an_operation_that_is_not_read_is_listed():
    text = MODULE.format(name="k").replace(
        "tt.return", "%t = tt.descriptor_load %d[%c4] : tensor<4xf32>\n    tt.return"
    )
    assert read_ttir(text, {"n": 10}, (3, 1, 1)).reasons == ["tt.descriptor_load is not counted"]


def test_cpp_conditions_that_depend_on_data_make_an_upper_limit():
    source = """extern "C" void kernel(const float* in_ptr0, float* out_ptr0)
{
    for(int64_t x0=static_cast<int64_t>(0L); x0<static_cast<int64_t>(8L); x0+=static_cast<int64_t>(1L))
    {
        auto tmp1 = [&]
        {
            auto tmp2 = in_ptr0[static_cast<int64_t>(x0)];
            return tmp2;
        }
        ;
        out_ptr0[static_cast<int64_t>(x0)] = tmp0 ? tmp1() : 0;
        atomic_add(&out_ptr0[static_cast<int64_t>(0L)], tmp0);
    }
}"""
    traffic = measure_traffic(read_cpp(source).accesses)
    assert not traffic.exact
    assert "in_ptr0: it is under a condition" in traffic.reasons[0]
    assert figures(traffic) == {"in_ptr0": (32, 0, 32), "out_ptr0": (4, 36, 32)}
