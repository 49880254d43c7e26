"""Fused operators in Triton, forward and backward, each with its reference in torch's own operators beside it.

==================  ==================================  =================================
function            module                              what it is
==================  ==================================  =================================
``layer_norm_gelu``  ``LayerNormGELU``                   ``gelu(layer_norm(x))``
``softmax_dropout``  ``SoftmaxDropout``                  ``dropout(softmax(scale * x + mask))``
``rms_norm``         ``RMSNorm``                         RMSNorm as Llama, Gemma or torch casts it
``add_rms_norm``     ``AddRMSNorm``                      ``rms_norm(x + residual)`` and the sum
``silu``             ``SiLU``                            ``x * sigmoid(x)``
``swiglu``           ``SwiGLU``                          ``silu(a) * b``, a pair or packed
``geglu``            ``GEGLU``                           ``gelu(a) * b``, a pair or packed
==================  ==================================  =================================

``patch(model)`` has the modules of a model call them, and can be undone.

float32, float16 and bfloat16 in any strides, computed in float32; rows of any width; weight gradients without atomics,
so that repeated calls agree to the bit; once differentiable. The kernels run on CUDA devices, and on CPU tensors in
Triton's interpreter when TRITON_INTERPRET=1 was set before triton was imported; else CPU tensors are computed with
torch's own operators, and a ``NotFusedWarning`` says so once. Under ``torch.compile`` each is one operator of torch; in
eager mode launches are bound (``fuselab.ops.bound``). This package imports torch and triton only, nothing else of
fuselab.
"""

from fuselab.ops.add_rms_norm import AddRMSNorm, add_rms_norm, add_rms_norm_reference
from fuselab.ops.geglu import GEGLU, geglu, geglu_reference
from fuselab.ops.inputs import NotFusedWarning
from fuselab.ops.layer_norm_gelu import LayerNormGELU, layer_norm_gelu, layer_norm_gelu_reference
from fuselab.ops.patch import Patch, patch
from fuselab.ops.rms_norm import RMSNorm, rms_norm, rms_norm_reference
from fuselab.ops.silu import SiLU, SwiGLU, silu, silu_reference, swiglu, swiglu_reference
from fuselab.ops.softmax_dropout import SoftmaxDropout, softmax_dropout, softmax_dropout_reference

__all__ = [
    "GEGLU",
    "AddRMSNorm",
    "LayerNormGELU",
    "NotFusedWarning",
    "Patch",
    "RMSNorm",
    "SiLU",
    "SoftmaxDropout",
    "SwiGLU",
    "add_rms_norm",
    "add_rms_norm_reference",
    "geglu",
    "geglu_reference",
    "layer_norm_gelu",
    "layer_norm_gelu_reference",
    "patch",
    "rms_norm",
    "rms_norm_reference",
    "silu",
    "silu_reference",
    "softmax_dropout",
    "softmax_dropout_reference",
    "swiglu",
    "swiglu_reference",
]
