"""GELU and its derivative inside a kernel, on float32 (Hendrycks and Gimpel, 2016)."""

import triton
import triton.language as tl

__all__ = ["gelu", "gelu_derivative"]


@triton.jit
def gelu(z, APPROXIMATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """GELU of ``z``: by erf for ``"none"``, by tanh for ``"tanh"``."""
    if APPROXIMATE == "tanh":
        # 0.5 (1 + tanh(u)) = sigmoid(2u): one exponential, and nothing cancels where tanh is near -1.
        return z * tl.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))
    else:
        return 0.5 * z * (1.0 + tl.math.erf(z * 0.7071067811865476))


@triton.jit
def gelu_derivative(z, APPROXIMATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Derivative of ``gelu`` at ``z``."""
    if APPROXIMATE == "tanh":
        # s = sigmoid(v) from exp(-|v|), which does not overflow; s (1 - s) without the difference, which would cancel.
        v = 1.5957691216057308 * (z + 0.044715 * z * z * z)
        e = tl.exp(-tl.abs(v))
        r = 1.0 / (1.0 + e)
        return tl.where(v >= 0.0, r, e * r) + z * e * r * r * 1.5957691216057308 * (1.0 + 0.134145 * z * z)
    else:
        cumulative = 0.5 * (1.0 + tl.math.erf(z * 0.7071067811865476))
        return cumulative + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
