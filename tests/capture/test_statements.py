"""Lines of kernels' sources: what each does, and whose values it uses."""

from __future__ import annotations

import pytest

from fuselab.capture.statements import Kind, reachable, read_cpp, read_triton

TRITON = """
import triton.language as tl

@triton.jit
def _triton_helper_fn_add0(a, b):
    return a + b

@triton.jit
def k(in_ptr0, out_ptr0, xnumel, r0_numel, XBLOCK : tl.constexpr, R0_BLOCK : tl.constexpr):
    xnumel = 512
    rnumel = r0_numel
    RBLOCK: tl.constexpr = R0_BLOCK
    xoffset = tl.program_id(0) * XBLOCK
    xindex = xoffset + tl.arange(0, XBLOCK)[:, None]
    xmask = xindex < xnumel
    x0 = xindex % 128
    _tmp2 = tl.full([XBLOCK, R0_BLOCK], 0, tl.float32)
    for r0_offset in tl.range(0, r0_numel, R0_BLOCK):
        tmp0 = tl.load(in_ptr0 + (x0 + r0_offset), xmask,
                       other=0.0)
        tmp1 = tl.broadcast_to(tmp0, [XBLOCK, R0_BLOCK])
        tmp3 = _tmp2 + tmp1
        _tmp2 = tl.where(xmask, tmp3, _tmp2)
    tmp2 = tl.sum(_tmp2, 1)[:, None]
    tmp4 = tl.full([1, 1], 0.5, tl.float32)
    tmp5 = tmp2 * tmp4
    tl.store(out_ptr0 + (x0), tmp5, xmask)
    tl.atomic_add(out_ptr0, tmp5)
"""


def test_triton_lines():
    statements = {s.line: s for s in read_triton(TRITON)}
    kinds = {line: s.kind for line, s in statements.items()}
    assert min(statements) == 9  # the helper above is not the kernel
    assert kinds[9] is kinds[18] is Kind.CONTROL
    assert kinds[10] is kinds[12] is kinds[17] is kinds[25] is Kind.CONSTANT
    assert kinds[13] is kinds[14] is Kind.INDEX
    assert kinds[19] is Kind.LOAD
    assert statements[19].last == 20
    assert kinds[21] is Kind.LAYOUT
    assert kinds[22] is kinds[23] is kinds[24] is kinds[26] is Kind.COMPUTE
    assert kinds[27] is kinds[28] is Kind.STORE
    assert {16, 18} <= statements[19].producers
    assert statements[24].producers == {23}
    assert {27, 28} == statements[26].consumers


def test_a_kernel_of_the_users_comes_first():
    text = "def mine(p):\n    tl.store(p, 1.0)\n\n@triton.jit\ndef helper(x):\n    return x\n"
    assert [s.line for s in read_triton(text, first=True)] == [1, 2]
    assert [s.line for s in read_triton(text)] == [5, 6]


@pytest.mark.parametrize("text", ["", "def (", "x = 1", "\x00"])
def test_what_is_no_kernel_has_no_lines(text):
    assert read_triton(text) == []


CPP = """\
#include <torch/csrc/inductor/cpp_prefix.h>
extern "C"  void  kernel(const float* in_ptr0,
                       float* out_ptr0)
{
    std::unique_ptr<float []> buf_local_buffer_data_0 = std::make_unique<float []>(256L);
    float* local_buffer_data_0 = buf_local_buffer_data_0.get();
    #pragma omp parallel num_threads(2)
    {
        int tid = omp_get_thread_num();
        for(int64_t x0=static_cast<int64_t>(0L); x0<static_cast<int64_t>(64L); x0+=static_cast<int64_t>(16L))
        {
            float tmp_acc0 = 0;
            at::vec::Vectorized<float> tmp_acc0_vec = at::vec::Vectorized<float>(0);
            auto tmp0 = at::vec::Vectorized<float>::loadu(in_ptr0 + static_cast<int64_t>(x0), static_cast<int64_t>(16));
            auto tmp1 = static_cast<float>(-1e-05);
            auto tmp2 = at::vec::Vectorized<float>(tmp1);
            auto tmp3 = tmp0 * tmp2;
            tmp_acc0_vec = tmp_acc0_vec + tmp3;
            tmp3.store(local_buffer_data_0 + static_cast<int64_t>(x0));
            auto tmp4 = in_ptr0[static_cast<int64_t>(x0)];
            auto tmp5 = at::vec::Vectorized<float>(tmp4);
            tmp_acc0_vec_arr[i] = at::vec::Vectorized<float>(0);
            out_ptr0[static_cast<int64_t>(x0)] = static_cast<float>(tmp_acc0);
            atomic_add(&out_ptr0[x0], tmp4);
            auto tmp6 = tmp4 == tmp1;
            float tmp7[16*16];
            tmp0.store(tmp7 + static_cast<int64_t>(16L*x1_inner));
            transpose_mxn<float,16,16,false>(tmp7, 16, out_ptr0 + x0, 64);
        }
    }
}
"""


def test_cpp_lines():
    statements = {s.line: s for s in read_cpp(CPP)}
    kinds = {line: s.kind for line, s in statements.items()}
    assert [line for line, kind in kinds.items() if kind is Kind.LOAD] == [14, 20]
    assert [line for line, kind in kinds.items() if kind is Kind.STORE] == [19, 23, 24, 27, 28]
    assert [line for line, kind in kinds.items() if kind is Kind.CONSTANT] == [12, 13, 15, 16, 22]
    assert kinds[17] is kinds[18] is kinds[25] is Kind.COMPUTE
    assert kinds[21] is Kind.LAYOUT
    assert statements[17].producers == {14, 16}
    assert 27 in statements[28].producers  # through an array of its own
    assert 12 in statements[23].producers


def test_a_name_of_another_block_is_another_value():
    text = "auto tmp0 = in_ptr0[0];\nout_ptr0[0] = tmp0;\nauto tmp0 = in_ptr1[0];\nout_ptr1[0] = tmp0;"
    statements = {s.line: s for s in read_cpp(text)}
    assert statements[2].producers == {1}
    assert statements[4].producers == {3}


def test_reachable_goes_across_what_is_not_asked_for():
    statements = {s.line: s for s in read_cpp("auto a = 1.0;\nauto b = a + a;\nauto c = b * b;\nout_ptr0[0] = c;")}
    assert reachable(1, "consumers", statements, {3, 4}) == {3}
    assert reachable(4, "producers", statements, {1}) == {1}
    assert reachable(4, "consumers", statements, {1}) == set()
