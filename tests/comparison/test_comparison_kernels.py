"""Kernels of two runs: which belong together, and what of their text counts as a difference."""

from __future__ import annotations

import json

import comparison_factory as factory
import numpy as np
import pytest

from fuselab.comparison import compare_runs
from fuselab.comparison.records import KernelMatch
from fuselab.comparison.text import MOST_LINES, MOST_SHOWN, cleaned, difference
from fuselab.records import Artifact, Direction, Kernel, Stage

SOURCE = """@triton.jit
def {name}(in_ptr0, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    # backend_hash 91D1D1166449D9E2EB66EB9770C9E2C3B0FEB787341F27FEB4D3F0338DA50336
    tmp0 = tl.load(in_ptr0 + xindex)
    tl.store(out_ptr0 + xindex, {body})
"""


def capture(run, variant="compile", direction=Direction.FORWARD, **kernels):
    """Kernels of a run: by name, the body of the source, the operators, the facts."""
    key = factory.workload().key
    staging = run.staging("x")
    records, artifacts = [], []
    for name, (body, operations, facts) in kernels.items():
        place = f"kernels/{direction.value}/{name}"
        directory = staging / place
        directory.mkdir(parents=True)
        files = {
            Stage.TRITON: ("kernel.py", SOURCE.format(name=name, body=body)),
            Stage.TTIR: ("ttir", f"%1 = {body} loc(#loc)\n"),
        }
        identity = f"{variant}/{key}/{direction.value}/{name}"
        for stage, (file, text) in files.items():
            (directory / file).write_text(text)
            artifacts.append(Artifact(stage=stage, variant=variant, workload=key, direction=direction,
                                      path=f"{place}/{file}", size_bytes=len(text), kernel_id=identity))  # fmt: skip
        (directory / "card.json").write_text(
            json.dumps({"config": {"XBLOCK": facts.get("XBLOCK", 1024), "none": None}})
        )
        records.append(
            Kernel(kernel_id=identity, name=name, backend="triton", variant=variant, workload=key, direction=direction,
                   file_path=f"{place}/kernel.py", size_bytes=1, created_at="2026-01-01",
                   operations=operations, registers=facts.get("registers", 32), spills=0)
        )  # fmt: skip
    run.adopt(staging, artifacts, records)


ADD, MUL, EXP = "aten.add.Tensor", "aten.mul.Tensor", "aten.exp.default"
BASE = {
    "triton_poi_fused_add_0": ("tmp0 + 1", [ADD], {}),
    "triton_poi_fused_mul_1": ("tmp0 * 2", [MUL], {}),
    "triton_poi_fused_exp_mul_2": ("exp(tmp0) * 3", [EXP, MUL], {}),
}


@pytest.fixture
def compared(tmp_path):
    def run(base, new):
        paths = []
        for kernels in (base, new):
            made = factory.stored(tmp_path, factory.group({"eager": 10, "compile": 8}, np.random.default_rng(1)))
            capture(made, **kernels)
            made._lock.release()
            paths.append(str(made.path))
        return compare_runs(paths, tmp_path).comparisons[0]

    return run


def test_the_same_code_is_the_same_kernel_though_it_is_renumbered(compared):
    renumbered = {f"{name[:-1]}{int(name[-1]) + 4}": what for name, what in BASE.items()}
    found = compared(BASE, renumbered)
    assert [k.match for k in found.kernels] == [KernelMatch.CODE] * 3
    assert [k.new.name for k in found.kernels] == list(renumbered)
    assert all(k.same for k in found.kernels)
    assert found.headlines == []


def test_kernels_match_by_name_then_by_operators_and_the_rest_is_gone_or_new(compared):
    new = {
        "triton_poi_fused_add_0": ("tmp0 + 2", [ADD], {"registers": 40, "XBLOCK": 512}),
        "triton_red_fused_exp_mul_sum_1": ("exp(tmp0) * 3 + sum", [EXP, MUL, "aten.sum.default"], {}),
        "triton_poi_fused_tanh_7": ("tanh(tmp0)", ["aten.tanh.default"], {}),
    }
    found = compared(BASE, new)
    pairs = {(k.base and k.base.name, k.new and k.new.name): k for k in found.kernels}
    assert {names: k.match for names, k in pairs.items()} == {
        ("triton_poi_fused_add_0", "triton_poi_fused_add_0"): KernelMatch.NAME,
        ("triton_poi_fused_mul_1", None): KernelMatch.GONE,
        ("triton_poi_fused_exp_mul_2", "triton_red_fused_exp_mul_sum_1"): KernelMatch.OPERATIONS,
        (None, "triton_poi_fused_tanh_7"): KernelMatch.NEW,
    }
    add = pairs["triton_poi_fused_add_0", "triton_poi_fused_add_0"]
    assert add.changed == ["registers", "XBLOCK"]
    assert (add.base.facts["XBLOCK"], add.new.facts["XBLOCK"]) == (1024, 512)
    assert [(s.stage, s.added, s.removed) for s in add.stages] == [(Stage.TRITON, 1, 1), (Stage.TTIR, 1, 1)]
    assert "-    tl.store(out_ptr0 + xindex, tmp0 + 1)" in add.stages[0].text.splitlines()
    assert "no longer generated: triton_poi_fused_mul_1" in found.headlines[0]
    assert "generated now: triton_poi_fused_tanh_7" in found.headlines[1]


def test_a_kernel_whose_files_are_gone_is_matched_by_its_name(tmp_path):
    paths = []
    for _ in range(2):
        made = factory.stored(tmp_path, factory.group({"eager": 10, "compile": 8}, np.random.default_rng(1)))
        capture(made, **BASE)
        made._lock.release()
        paths.append(made.path)
    for file in paths[1].glob("kernels/**/*"):
        if file.is_file():
            file.unlink()
    found = compare_runs([str(path) for path in paths], tmp_path).comparisons[0].kernels
    assert [k.match for k in found] == [KernelMatch.NAME] * 3
    assert all("B has none" in s.note for k in found for s in k.stages if s.stage is Stage.TTIR)


@pytest.mark.parametrize(
    ("stage", "one", "other"),
    [
        (Stage.TTIR, "%12 = tt.load %11 : f32 loc(#loc4)", "%3 = tt.load %2 : f32 loc(#loc17)"),
        (Stage.TTIR, '#loc = loc("/a/x.py":1:0)\n%0 = a', '#loc1 = loc("/b/y.py":9:0)\n%7 = a'),
        (Stage.TTGIR, 'f(%x: i32 loc("x"(#loc))) loc(#loc)', 'f(%x: i32 loc("x"(#loc3))) loc(#loc9)'),
        (Stage.LLIR, "  %9 = add i32 %8, 1, !dbg !10\n!10 = !DILocation(line: 1)", "  %3 = add i32 %2, 1, !dbg !7"),
        (Stage.PTX, "\t.loc\t1 18 0\n\tadd.s32 \t%r9, %r8, 1; // c.py:1", "$L__tmp3:\n\tadd.s32 \t%r2, %r1, 1;"),
        (Stage.SASS, '\t//## File "/x", line 3\n /*0010*/ IADD3 R9, R8, 0x1 ;', "/*0450*/  IADD3 R2, R1, 0x1 ;"),
        (Stage.ASSEMBLY, "  401000:  c5 fc 58 c1  vaddps %ymm1,%ymm0,%ymm0", "vaddps  %ymm1,%ymm0,%ymm0"),
        (Stage.TRITON, f"x = '/a/b/c.py' # {'0e' * 20}", f"x = '/z/c.py' # {'1f' * 20}"),
    ],
)  # fmt: skip
def test_what_changes_by_itself_is_no_difference(stage, one, other):
    assert cleaned(one, stage) == cleaned(other, stage) != []


@pytest.mark.parametrize(
    ("stage", "one", "other"),
    [
        (Stage.TTIR, "%1 = tt.load %0 : f32", "%1 = tt.load %0 : bf16"),
        (Stage.LLIR, "%1 = fadd float %0, 1.0, !dbg !3", "%1 = fmul float %0, 1.0, !dbg !3"),
        (Stage.PTX, "add.f32 %f1, %f2, 0f3F800000;", "mul.f32 %f1, %f2, 0f3F800000;"),
        (Stage.SASS, "/*0010*/ LDG.E.128 R4, [R2.64] ;", "/*0010*/ LDG.E R4, [R2.64] ;"),
        (Stage.TRITON, "tmp1 = tmp0 + 1.0", "tmp1 = tmp0 + 2.0"),
    ],
)
def test_what_the_code_does_is_a_difference(stage, one, other):
    found = difference(cleaned(one, stage), cleaned(other, stage), stage)
    assert (found.added, found.removed) == (1, 1)


def test_a_long_text_is_compared_by_its_beginning_and_a_long_diff_cut_with_a_note():
    base, new = [f"line {n}" for n in range(MOST_LINES + 5)], [f"other {n}" for n in range(MOST_LINES + 5)]
    found = difference(base, new, Stage.LLIR)
    assert len(found.text.splitlines()) == MOST_SHOWN
    assert f"only the first {MOST_LINES}" in found.note
    assert "more lines of this diff" in found.note
    assert found.added == MOST_LINES
