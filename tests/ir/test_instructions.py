"""Instruction mixes from SASS and assembly listings, and occupancy."""

from __future__ import annotations

import msgspec
import pytest

from fuselab.ir.instructions import classify, parse_sass
from fuselab.ir.instructions_cpu import parse_assembly
from fuselab.ir.occupancy import occupancy
from fuselab.targets import find

SASS = """
.text.first:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   IMAD R2, R2, R3, R4 ;
.L_x_0:
        /*0020*/                   LDG.E.EF.128 R4, desc[UR4][R4.64] ;
        /*0030*/              @!P0 LDG.E.U16.CONSTANT R8, desc[UR4][R8.64] ;
        /*0040*/                   MUFU.EX2 R9, R9 ;
        /*0050*/              @P1  BRA `(.L_x_0) ;
        /*0060*/                   F2FP.BF16.F32.PACK_AB R3, R4, R5 ;
        /*0070*/                   STG.E.64 desc[UR4][R2.64], R6 ;
        /*0080*/              @P0  EXIT ;
        /*0090*/                   NEWOP.X R1 ;
        /*00a0*/                   EXIT ;
        /*00b0*/                   MUFU.RCP R1, R1 ;
.L_x_1:
        /*00c0*/                   BRA `(.L_x_1);
        /*00d0*/                   NOP;
.text.second:
        /*0000*/                   EXIT ;
"""


def test_loops_weigh_their_instructions_and_what_lies_behind_the_last_exit_does_not_count():
    mix = parse_sass(SASS, "first", trips=[10])
    assert mix.function == "first"
    assert dict(mix.accesses) == {"LDG.128": 10, "LDG.16": 10, "STG.64": 1}
    assert (mix.classes["special"], mix.classes["conversion"], mix.classes["other"]) == (10, 1, 1)
    assert (mix.total, mix.static) == (2 + 4 * 10 + 5, 11)
    assert dict(mix.unknown) == {"NEWOP": 1}
    assert [vars(loop) for loop in mix.loops] == [{"first": 0x20, "last": 0x50, "trips": 10}]
    assert mix.reasons == []


@pytest.mark.parametrize(
    ("trips", "reason"),
    [
        ([], "1 loops in the machine code and 0 in the source: each machine loop is counted once"),
        ([None], "depends on data"),
        ([4, 5], "and 2 in the source: each machine loop is counted once"),
        ([None, None], "and 2 in the source: each machine loop is counted once"),
    ],
)
def test_loops_that_do_not_match_are_counted_once_and_said(trips, reason):
    mix = parse_sass(SASS, "first", trips=trips)
    assert mix.total == 11
    assert reason in mix.reasons[0]


def test_whichever_of_equally_long_loops_was_unrolled_the_others_turn_as_often():
    mix = parse_sass(SASS, "first", trips=[10, 10])
    assert mix.total == parse_sass(SASS, "first", trips=[10]).total
    assert mix.reasons == [
        "1 loops in the machine code and 2 in the source, which all turn 10 times: the compiler unrolled 1"
    ]


def test_other_functions_and_other_printers():
    assert parse_sass(SASS, "second").total == 1
    text = "\tFunction : k\n        /*0000*/  LDG.E R4, [R4.64] ;  /* 0x000 */\n        /*0010*/  EXIT ;"
    assert dict(parse_sass(text, "k").accesses) == {"LDG.32": 1}
    with pytest.raises(ValueError, match="no SASS instruction of nothing"):
        parse_sass(SASS, "nothing")


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("STL", "spill"),
        ("HGMMA", "tensor"),
        ("UTMALDG", "bulk copy"),
        ("HFMA2", "half"),
        ("UIADD3", "uniform"),
        ("LOP3", "integer"),
        ("I2FP", "conversion"),
        ("SHFL", "exchange"),
        ("FMNMX", "float"),
        ("BSSY", "control"),
    ],
)
def test_classes(opcode, kind):
    assert classify(opcode) == kind


OBJDUMP = """
0000000000001260 <kernel>:
kernel():
/c/k.cpp:7
    1260:\tvmulps %zmm1,%zmm2,%zmm3
    1266:\tvaddps %ymm1,%ymm2,%ymm3
    126a:\tcall   1030 <expf@plt>
    1270:\tvaddss %xmm1,%xmm2,%xmm3

0000000000001300 <kernel._omp_fn.0>:
    1300:\tmulps  %xmm1,%xmm2
    1304:\tvgatherdps %zmm4,(%rax,%zmm5,1){%k1}
    1308:\tmov    %rax,%rbx

0000000000001400 <PyInit_kernel>:
    1400:\tret
"""


def test_vector_widths_of_the_kernel_and_its_parallel_regions():
    mix = parse_assembly(OBJDUMP, "kernel")
    assert mix.functions == ["kernel", "kernel._omp_fn.0"]
    assert dict(mix.widths) == {"512": 2, "256": 1, "other": 2, "scalar float": 1, "128": 1}
    assert (mix.gathers, mix.calls, mix.total) == (1, 1, 7)
    with pytest.raises(ValueError, match="no instruction"):
        parse_assembly("", "kernel")


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "blocks", "limited_by"),
    [
        # 64 x 32 = 2048 registers a warp, 8 warps in each quarter of 16384: 32 warps.
        ("h200", 64, 0, 4, 8, ("registers",)),
        # 33 registers are given as 40 x 32 = 1280: 12 warps a quarter, 48 in all, 6 of 8 warps.
        ("h200", 33, 0, 8, 6, ("registers",)),
        ("h200", 32, 0, 4, 16, ("warps", "registers")),
        ("h200", 16, 0, 1, 32, ("blocks",)),
        # 100 KiB and the driver's one of 228: two.
        ("h200", 32, 100 * 1024, 4, 2, ("shared memory",)),
        ("rtx4090", 32, 0, 1, 24, ("blocks",)),
        ("rtx3090", 32, 0, 1, 16, ("blocks",)),
        ("rtx4090", 24, 0, 4, 12, ("warps",)),
        ("a100", 255, 0, 8, 1, ("registers",)),
        # 128 x 64 registers a wavefront, 4 of them in each SIMD's 512 x 64: 16 wavefronts.
        ("mi300x", 128, 0, 4, 4, ("registers",)),
        ("mi300x", 24, 0, 1, 32, ("warps",)),
        ("mi300x", 24, 0, 2, 16, ("warps", "blocks")),
        ("mi300x", 24, 20 * 1024, 4, 3, ("shared memory",)),
        # 20 KiB are given as 16 x 1280 bytes, eight of them in 160 KiB.
        ("mi355x", 24, 20 * 1024, 4, 8, ("warps", "shared memory")),
    ],
)
def test_occupancy_by_hand(target, registers, shared, warps, blocks, limited_by):
    found = occupancy(find(target), registers, shared, warps, programs=1_000_000)
    assert (found.blocks, found.limited_by) == (blocks, limited_by)
    assert found.warps == blocks * warps


def test_a_small_grid_is_what_limits():
    found = occupancy(find("h200"), 32, 0, 4, programs=132)
    assert (found.blocks, found.limited_by, found.waves) == (1, ("grid",), 1 / 16)


@pytest.mark.parametrize(
    ("target", "arguments", "reason"),
    [
        ("h200", (32, 228 * 1024, 4), "does not fit"),
        ("h200", (32, 0, 33), "more than one block"),
        ("mi300x", (32, 0, 17), "more than one block"),
    ],
)
def test_what_cannot_run_is_said(target, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        occupancy(find(target), *arguments, programs=10)


def test_an_architecture_without_rules_is_named():
    old = msgspec.structs.replace(find("a100"), arch="sm_75", compute_capability=(7, 5))
    with pytest.raises(ValueError, match="not known here"):
        occupancy(old, 32, 0, 4, programs=10)


LOAD, BARRIER, ADD, STORE = (
    "LDG.E.64 R4, desc[UR4][R4.64]",
    "BAR.SYNC.DEFER_BLOCKING 0x0",
    "FADD R4, R4, R5",
    "STG.E.64 desc[UR4][R8.64], R4",
)


def listing(*instructions: str) -> str:
    lines = [f"        /*{16 * n:04x}*/                   {text} ;" for n, text in enumerate(instructions)]
    return "\n".join([*lines, f"        /*{16 * len(lines):04x}*/                   EXIT ;"])


@pytest.mark.parametrize(
    ("instructions", "rounds"),
    [
        ([ADD, STORE], 0),
        ([LOAD, LOAD, ADD, LOAD, STORE], 1),
        ([LOAD, ADD, BARRIER, ADD, STORE], 1),
        ([LOAD, LOAD, BARRIER, BARRIER, LOAD, STORE], 2),
        ([LOAD, BARRIER] * 16, 16),
        ([LOAD, LOAD, ADD, "BRA 0x0"], 5),  # five turns, each after the one before
        ([LOAD, BARRIER, LOAD, "BRA 0x0"], 10),
        ([LOAD, ADD, LOAD, "BRA 0x20"], 6),  # what is loaded before the loop waits by itself
    ],
)
def test_loads_between_two_barriers_go_together_and_turns_of_a_loop_do_not(instructions, rounds):
    trips = [5] if "BRA" in instructions[-1] else []
    assert parse_sass(listing(*instructions), trips=trips).load_rounds == rounds
