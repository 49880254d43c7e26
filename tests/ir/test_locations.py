"""Location records of every stage: by hand where the rule is, on a kernel compiled for an H200 where the whole is."""

from __future__ import annotations

import pytest

from fuselab.ir.locations import invert, own_file, source_lines
from fuselab.ir.locations_assembly import assembly_frames
from fuselab.ir.locations_llvm import llvm_frames
from fuselab.ir.locations_mlir import mlir_frames
from fuselab.ir.locations_ptx import amdgcn_frames, ptx_frames, sass_frames
from fuselab.records import Stage

TTIR = """\
#loc = loc("/c/k.py":18:0)
#loc1 = loc(unknown)
#loc2 = loc("/c/k.py":20:8)
#loc3 = loc("/lib/helpers.py":5:2)
#loc4 = loc("tmp1"(#loc2))
#loc5 = loc(callsite(#loc3 at #loc4))
#loc6 = loc(fused[#loc2, #loc5])
#loc7 = loc("odd \\"name\\":9:9"(#loc2))
#loc8 = loc("/c/k.py":30:1 to :9)
module {
  tt.func public @k(%p: !tt.ptr<f32> loc("p"(#loc))) {
    %a = arith.constant 0 : i32 loc(#loc1)
    %b = tt.load %p : !tt.ptr<f32> loc(#loc4)
    %c = "tt.reduce"(%b) <{axis = 1 : i32}> ({
    ^bb0(%x: f32 loc(callsite(#loc1 at #loc4))):
      %y = arith.addf %x, %x : f32 loc(#loc5)
      tt.reduce.return %y : f32 loc(#loc6)
    }) : (f32) -> f32 loc(#loc5)
    %d = arith.mulf %c, %c : f32 loc(#loc7)
    tt.return loc(#loc8)
  } loc(#loc)
} loc(#loc)
"""


def test_mlir_locations_named_fused_inlined_unknown_and_of_regions():
    assert source_lines(Stage.TTIR, TTIR, "/c/k.py") == {
        10: (18,),
        11: (18,),
        13: (20,),
        14: (20,),  # the operation's location stands where its region ends
        15: (20,),
        16: (20,),
        17: (20,),
        18: (20,),
        19: (20,),
        20: (30,),
        21: (18,),
        22: (18,),
    }
    assert mlir_frames(TTIR)[16] == (("/lib/helpers.py", 5), ("/c/k.py", 20))
    assert own_file(TTIR) == "/c/k.py"
    assert own_file("module {}") == ""


def test_an_alias_that_names_itself_ends():
    text = "#loc1 = loc(fused[#loc1, #loc2])\n#loc2 = loc(#loc1)\n%0 = arith.addf %a, %b : f32 loc(#loc1)"
    assert mlir_frames(text) == {}


LLIR = """\
define void @k() !dbg !5 {
  %1 = load i32, ptr %0, !dbg !8
  %2 = add i32 %1, %1, !dbg !9
  %3 = add i32 %2, %2
  ret void, !dbg !12
}
declare !dbg !5 float @llvm.amdgcn.rsq.f32(float)
!1 = !DIFile(filename: "k.py", directory: "/c")
!2 = !DIFile(filename: "/lib/helpers.py", directory: "")
!5 = distinct !DISubprogram(name: "k", scope: !1, file: !1, line: 18)
!6 = distinct !DISubprogram(name: "h", scope: !2, file: !2, line: 1)
!7 = distinct !DILexicalBlockFile(scope: !5, file: !1, discriminator: 0)
!8 = !DILocation(line: 20, column: 3, scope: !7)
!9 = !DILocation(line: 5, column: 2, scope: !6, inlinedAt: !10)
!10 = !DILocation(line: 6, column: 2, scope: !6, inlinedAt: !11)
!11 = distinct !DILocation(line: 21, column: 3, scope: !5)
!12 = !DILocation(line: 1, column: 0, scope: !99)
"""


def test_llvm_locations_through_scopes_and_inlining():
    assert source_lines(Stage.LLIR, LLIR, "/c/k.py") == {1: (18,), 2: (20,), 3: (21,)}
    assert llvm_frames(LLIR)[3] == (("/lib/helpers.py", 5), ("/lib/helpers.py", 6), ("/c/k.py", 21))


PTX = """\
.visible .entry k(
	.param .u64 p
)
{
	.reg .b32 %r<9>;
	.loc	1 18 0                          // k.py:18:0
	mov.u32 	%r1, %tid.x;
$L__tmp0:
	.loc	2 5 2                           // helpers.py:5:2 @[ helpers.py:6:1 @[ k.py:21:3 ] ]
	add.s32 	%r2, %r1, %r1;
	// a remark
	add.s32 	%r3, %r2, %r2;
	.loc	2 9 1, function_name $L__info_string0, inlined_at 1 22 4
	sub.s32 	%r4, %r3, %r1;
	.loc	1 0 0
	ret;
}
	.file	1 "/c/k.py"
	.file	2 "/lib" "helpers.py"
	.section	.debug_info
"""


def test_ptx_locations_from_comments_and_from_inlined_at():
    assert source_lines(Stage.PTX, PTX, "/c/k.py") == {7: (18,), 10: (21,), 12: (21,), 14: (22,)}
    assert ptx_frames(PTX)[10] == (("/lib/helpers.py", 5), ("helpers.py", 6), ("k.py", 21))


def test_amd_assembly():
    text = (
        '\t.file\t1 "/c" "k.py"\n\t.loc\t1 20 5 prologue_end ; k.py:20:5 @[ j.py:3:1 ]\n\tv_add_f32 v1, v2, v3\n; x\n'
    )
    assert source_lines(Stage.AMDGCN, text, "/c/k.py") == {3: (20,)}
    assert amdgcn_frames(text)[3][1] == ("j.py", 3)


SASS = """\
.text.k:
	//## File "/lib/helpers.py", line 5
	//## File ".nv_debug_ptx_txt", line 10
        /*0000*/                   IADD3 R2, R1, R1, RZ ;
	//## File "/c/k.py", line 18
	//## File ".nv_debug_ptx_txt", line 999
        /*0010*/                   S2R R1, SR_TID.X ;
        /*0020*/                   EXIT ;
.text.other:
        /*0000*/                   EXIT ;
"""


def test_sass_follows_the_ptx_out_of_what_was_inlined():
    assert source_lines(Stage.SASS, SASS, "/c/k.py", PTX) == {4: (21,), 7: (18,), 8: (18,)}
    assert source_lines(Stage.SASS, SASS, "/c/k.py") == {7: (18,), 8: (18,)}
    assert sass_frames(SASS, {})[4] == (("/lib/helpers.py", 5),)


ASSEMBLY = """\
00000000000025f0 <kernel._omp_fn.0>:
/c/k.cpp:18
    25f0:	push   %r13
/usr/include/v.h:80 (discriminator 3)
inlined by /usr/include/w.h:7 (f)
inlined by /c/k.cpp:22 (kernel._omp_fn.0)
    2683:	mov    $0x400,%edi
inlined by /c/k.cpp:23 (kernel._omp_fn.0)
    2688:	mov    %eax,%r12d
/c/k.cpp:24
    268b:	ret
0000000000002700 <other>:
    2700:	ret
"""


def test_assembly_places_hold_until_the_next_and_callers_are_printed_anew():
    assert source_lines(Stage.ASSEMBLY, ASSEMBLY, "/c/k.cpp") == {3: (18,), 7: (22,), 9: (23,), 11: (24,)}
    assert assembly_frames(ASSEMBLY)[7] == (("/usr/include/v.h", 80), ("/usr/include/w.h", 7), ("/c/k.cpp", 22))


@pytest.mark.parametrize("stage", [Stage.TTIR, Stage.LLIR, Stage.PTX, Stage.SASS, Stage.AMDGCN, Stage.ASSEMBLY])
@pytest.mark.parametrize(
    "text", ["", "\n\n", "#loc = loc(", "!1 = !DILocation(line: x)", '//## File "', ".loc 1 2", "}"]
)
def test_broken_text_maps_nothing(stage, text):
    assert source_lines(stage, text, "/c/k.py") == {}


def test_a_stage_without_locations_maps_nothing():
    assert source_lines(Stage.FUSION, '.loc 1 2 3\nret;\n.file 1 "/c/k.py"', "/c/k.py") == {}


def test_another_file_of_the_same_name_is_another_file():
    assert source_lines(Stage.TTIR, '#l = loc("/d/k.py":1:0)\nx loc("/d/k.py":3:0)', "/c/k.py") == {}


def test_invert():
    assert invert({1: (5,), 2: (5, 6), 3: ()}) == {5: (1, 2), 6: (2,)}
