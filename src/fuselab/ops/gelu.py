"""GELU and its derivative inside a kernel, on float32 (Hendrycks and Gimpel, 2016).

With ``erf``, GELU is z times the normal distribution's function. A call of ``erf`` costs about 70 instructions an
element, more than all the rest of a kernel has time for at the memory's limit. Here the lower tail is
``exp(-z^2 / 2)`` times a function of |z| so smooth that a polynomial serves (its shape is Mills' ratio); the derivative
of GELU is the same exponential times another one, because the density is that exponential itself. One special-function
instruction an element, symmetric in z, and the tails keep their relative accuracy, where ``1 + erf`` cancels.

The polynomials are minimax fits (linear programs over 700 Chebyshev nodes) on 0 <= |z| <= 5.5, evaluated beyond at 5.5,
where the exponential is below 3e-7. Errors against float64, arithmetic in float32 included:

================  =========================================  ===============================
form              GELU                                       its derivative
================  =========================================  ===============================
in full           2.5e-7, half an ulp of the largest there   1.5e-7
SHORT, scaled     3e-4 of the value                          8e-5
================  =========================================  ===============================

The short ones, of degree 8 and 7, are for results that are rounded to bfloat16 next, which moves a value by up to
3.9e-3 of itself. GELU's is a fit of the relative error: an odd polynomial that is clamped to [0, 1] saves the
exponential and a tenth of the time, but is off by 2e-5 everywhere, and results of that size come out wrong.
"""

import triton
import triton.language as tl

__all__ = ["GELU_SCALE", "gelu", "gelu_derivative", "gelu_gradient_doubled"]

GELU_SCALE: tl.constexpr = tl.constexpr(0.8493218002880191)
"""The square root of log2(e) / 2: exp(-z^2 / 2) is 2 to the power of -(GELU_SCALE z)^2."""


@triton.jit
def _tail(a, SHORT: tl.constexpr):  # type: ignore[no-untyped-def]
    # P(Z > a) exp(a^2 / 2)
    if SHORT:
        r = 3.9003648453217465e-06 * a - 0.0001066592667484656
        r = r * a + 0.0012607529060915112
        r = r * a - 0.008514586836099625
        r = r * a + 0.036831021308898926
        r = r * a - 0.10958091169595718
        r = r * a + 0.2382211834192276
        r = r * a - 0.396456241607666
        return r * a + 0.49990442395210266
    else:
        r = 1.859825893291145e-08 * a - 6.385710662470956e-07
        r = r * a + 9.837731340667233e-06
        r = r * a - 9.055389818968251e-05
        r = r * a + 0.000562134722713381
        r = r * a - 0.00253736088052392
        r = r * a + 0.00885305367410183
        r = r * a - 0.025258926674723625
        r = r * a + 0.061757270246744156
        r = r * a - 0.13273495435714722
        r = r * a + 0.24995790421962738
        r = r * a - 0.39893946051597595
        return r * a + 0.4999999701976776


@triton.jit
def _tail_derivative(a, b, SHORT: tl.constexpr):  # type: ignore[no-untyped-def]
    # GELU'(-a) exp(a^2 / 2): the tail above less a / sqrt(2 pi). ``b`` is a in the last step: see gelu_derivative.
    if SHORT:
        r = -3.020515197989051e-05 * a + 0.0006686901955343721
        r = r * a - 0.006222647587653831
        r = r * a + 0.032223907766807496
        r = r * a - 0.10510940775061595
        r = r * a + 0.2366153471858362
        r = r * a - 0.7953919344792791
        return r * b + 0.49992392268473806
    else:
        r = 2.967253820429505e-08 * a - 9.387707109453913e-07
        r = r * a + 1.332257488684263e-05
        r = r * a - 0.00011324973456794396
        r = r * a + 0.0006534948479384184
        r = r * a - 0.002773726126179099
        r = r * a + 0.00924958661198616
        r = r * a - 0.02568441443145275
        r = r * a + 0.06203855574131012
        r = r * a - 0.13284167647361755
        r = r * a + 0.24997830390930176
        r = r * a - 0.7978832125663757
        return r * b + 0.5


@triton.jit
def gelu(z, APPROXIMATE: tl.constexpr, SHORT: tl.constexpr = False):  # type: ignore[no-untyped-def]
    """GELU of ``z``: by erf for ``"none"``, by tanh for ``"tanh"``; ``SHORT`` for results that become bfloat16."""
    if APPROXIMATE == "tanh":
        # 0.5 (1 + tanh(u)) = sigmoid(2u): one exponential, and nothing cancels where tanh is near -1.
        return z * tl.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z))
    else:
        a = tl.minimum(tl.abs(z), 5.5)
        e = tl.exp2(z * z * -0.7213475204444817)
        # max(z, 0), by a sum that is NaN for -inf, as torch's GELU is.
        positive = 0.5 * z + tl.abs(0.5 * z)
        return positive - (a * e) * _tail(a, SHORT)


@triton.jit
def gelu_derivative(z, APPROXIMATE: tl.constexpr, SHORT: tl.constexpr = False):  # type: ignore[no-untyped-def]
    """Derivative of ``gelu`` at ``z``."""
    if APPROXIMATE == "tanh":
        # s = sigmoid(v) from exp(-|v|), which does not overflow; s (1 - s) without the difference, which would cancel.
        v = 1.5957691216057308 * (z + 0.044715 * z * z * z)
        e = tl.exp(-tl.abs(v))
        r = 1.0 / (1.0 + e)
        return tl.where(v >= 0.0, r, e * r) + z * e * r * r * 1.5957691216057308 * (1.0 + 0.134145 * z * z)
    else:
        a = tl.minimum(tl.abs(z), 5.5)
        # |z| itself in the last step: infinite z are NaN then, as torch's derivative is, and beyond 5.5 the tail keeps
        # its shape.
        q = tl.exp2(z * z * -0.7213475204444817) * _tail_derivative(a, tl.abs(z), SHORT)
        return tl.where(z > 0.0, 1.0 - q, q)


@triton.jit
def gelu_gradient_doubled(dy, z, APPROXIMATE: tl.constexpr):  # type: ignore[no-untyped-def]
    """``2 * dy * gelu_derivative(z, APPROXIMATE, SHORT=True)``; for ``"none"`` ``z`` comes times ``GELU_SCALE``.

    For callers that have that at no cost: the derivative less a half is odd, and twice that is one multiply-add from
    the gradient. Where ``z`` is infinite the derivative of ``"none"`` is 0 or 1 here, torch's NaN.
    """
    if APPROXIMATE == "tanh":
        # With v and e as in gelu_derivative, 1 / (1 + e) is a square, which costs a special function, not a division.
        square = z * z
        e = tl.exp2(-tl.abs(z) * (0.1029432395800235 * square + 2.302208198144325))
        root = tl.rsqrt(1.0 + e)
        r = root * root
        odd = (e * r * r) * (tl.abs(z) * (0.42812889763560147 * square + 3.1915382432114616)) + (2.0 * r - 1.0)
    else:
        a = tl.minimum(tl.abs(z), 4.671269901584105)
        # Twice the coefficients of _tail_derivative, over powers of GELU_SCALE.
        r = -0.00018949821242131293 * a + 0.003563045058399439
        r = r * a - 0.02816072665154934
        r = r * a + 0.12385658919811249
        r = r * a - 0.34312689304351807
        r = r * a + 0.6560370326042175
        r = r * a - 1.8730049133300781
        r = r * a + 0.9998478293418884
        odd = 1.0 - tl.exp2(-(z * z)) * r
    # Its sign by one logical instruction.
    sign = z.to(tl.int32, bitcast=True) & -2147483648
    odd = (odd.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)
    return dy * odd + dy
