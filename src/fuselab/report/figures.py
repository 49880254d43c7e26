"""Figures as people read them: no more digits than the interval supports, and the unit beside them."""

from __future__ import annotations

import math

__all__ = ["bandwidth", "duration", "elapsed", "ratio", "share", "size"]

NOTHING = "-"
"""Shown where there is no figure."""

_MOST_DIGITS = 5
"""Significant digits at most: no clock here resolves more than one part in 10^5."""

_TIME_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
_SIZE_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_RATE_UNITS = ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"))


def duration(median_ns: float | None, low_ns: float | None = None, high_ns: float | None = None) -> str:
    """A time with half the width of its interval, rounded up to one significant digit (two if the first is 1).

    An interval as wide as the time itself is shown by its ends.

    Args:
        median_ns: the time in nanoseconds.
        low_ns, high_ns: ends of its interval, where there is one.

    Example:
        >>> duration(12_341.7, 12_290.0, 12_385.0), duration(3.2e6), duration(None)
        ('12.34 ± 0.05 us', '3.20 ms', '-')
    """
    if median_ns is None or not math.isfinite(median_ns):
        return NOTHING
    scale, unit = next(((s, u) for s, u in _TIME_UNITS if abs(median_ns) >= s), _TIME_UNITS[-1])
    value = median_ns / scale
    half = _half_width(low_ns, high_ns)
    if half is None:
        return f"{value:.{_decimals_of(value, 3)}f} {unit}"
    if low_ns is not None and high_ns is not None and half >= median_ns / 2 > 0:
        # Such an interval is seldom symmetric, and "276 ± 4147" says nothing: both ends instead.
        ends = [f"{end / scale:.{_decimals_of(value, 2)}f}" for end in (low_ns, high_ns)]
        return f"{value:.{_decimals_of(value, 2)}f} {unit} [{', '.join(ends)}]"
    decimals = min(_decimals_for(half / scale), _decimals_of(value, _MOST_DIGITS))
    step = 10.0**-decimals
    # Rounded up, never to nothing: the interval shown contains the one that was computed.
    shown = max(math.ceil(half / scale / step - 1e-9), 1) * step
    return f"{value:.{decimals}f} ± {shown:.{decimals}f} {unit}"


_FAR = 1000.0
"""Times the speedup beyond which the end of its interval is not written out."""


def ratio(speedup: float | None, low: float | None = None, high: float | None = None, *, most_decimals: int = 3) -> str:
    """A speedup with its interval.

    Example:
        >>> ratio(1.8312, 1.7951, 1.8604), ratio(12.31, 11.9, 12.7), ratio(2.0)
        ('1.83x [1.80, 1.86]', '12.3x [11.9, 12.7]', '2.00x')

    An end so far out that its digits say nothing is infinity; the interval shown contains the one that was computed.
        >>> ratio(1.4, 0.2, 3.3e10)
        '1.4x [0.2, \u221e]'
    """
    if speedup is None or not math.isfinite(speedup):
        return NOTHING
    half = _half_width(low, high)
    if half is None or low is None or high is None:
        return f"{speedup:.{min(_decimals_of(speedup, 3), 2)}f}x"
    most_decimals = max(most_decimals, _decimals_of(speedup, 2))
    decimals = min(_decimals_for(half), most_decimals, _decimals_of(speedup, 4))
    decimals = max(decimals, 1 if speedup < 100 else 0)
    upper = f"{high:.{decimals}f}" if high <= _FAR * speedup else "\u221e"
    return f"{speedup:.{decimals}f}x [{low:.{decimals}f}, {upper}]"


def share(fraction: float | None) -> str:
    """A share in per cent.

    Example:
        >>> share(0.934), share(0.004), share(None)
        ('93%', '0.4%', '-')
    """
    if fraction is None or not math.isfinite(fraction):
        return NOTHING
    percent = 100 * fraction
    if 0 < percent < 0.95:
        return f"{percent:.1f}%" if percent >= 0.05 else "<0.1%"
    return f"{percent:.0f}%"


def size(count: int | None) -> str:
    """A number of bytes.

    Example:
        >>> size(532), size(2_300_000), size(None)
        ('532 B', '2.19 MiB', '-')
    """
    if count is None:
        return NOTHING
    for scale, unit in _SIZE_UNITS:
        if count >= scale:
            return f"{count / scale:.{_decimals_of(count / scale, 3)}f} {unit}"
    return f"{count} B"


def bandwidth(bytes_per_s: float | None) -> str:
    """A rate of bytes, in the decimal units that memory is sold in.

    Example:
        >>> bandwidth(4.02e12), bandwidth(17.3e9)
        ('4.02 TB/s', '17.3 GB/s')
    """
    if bytes_per_s is None or not math.isfinite(bytes_per_s):
        return NOTHING
    scale, unit = next(((s, u) for s, u in _RATE_UNITS if bytes_per_s >= s), _RATE_UNITS[-1])
    return f"{bytes_per_s / scale:.{_decimals_of(bytes_per_s / scale, 3)}f} {unit}"


def elapsed(seconds: float) -> str:
    """How long something took, for people.

    Example:
        >>> elapsed(7.4), elapsed(192), elapsed(7500)
        ('7 s', '3 min 12 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _half_width(low: float | None, high: float | None) -> float | None:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return abs(high - low) / 2


def _decimals_for(half_width: float) -> int:
    """Decimals that show one significant digit of the half-width, two if the first is 1."""
    if half_width <= 0:
        return _MOST_DIGITS
    exponent = math.floor(math.log10(half_width) + 1e-9)
    first = half_width / 10.0**exponent
    return max(0, -exponent + (1 if first < 1.95 else 0))


def _decimals_of(value: float, digits: int) -> int:
    """Decimals that show so many significant digits of the value."""
    if value == 0:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))
