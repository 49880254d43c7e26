"""What a group knows the truth of, timed in its own rounds: a second copy of the baseline, and plain streaming with
exactly 2% more elements. If the engine errs about either, nothing that it says of the group is believed. Pure.
"""

from __future__ import annotations

import math

from fuselab.records import Comparison, Verdict

__all__ = ["CONTROL_BYTES", "CONTROL_PERCENT", "certificate_failure"]

CONTROL_PERCENT = 2
"""How much more the control does."""

CONTROL_BYTES = 128_000_000
"""The control moves at least this much: some 30 us on an H200, where 2% are more than what starting a kernel varies by.
A cell of a microsecond is certified by the same device under the same conditions."""

_MOST = 0.03
"""A control that comes out further off than this is wrong, too: what is timed is then not the work alone."""


def certificate_failure(copy: Comparison | None, control: Comparison | None, margin: float) -> str:
    """Why the group is not to be believed, in words; empty where nothing speaks against it.

    Args:
        copy: the baseline against a second copy of itself.
        control: plain streaming against the same with ``CONTROL_PERCENT`` more.
        margin: less than this is claimed of nobody, so that a copy may differ from itself by as much.

    Example:
        >>> found = Comparison(baseline="(ceiling)", verdict=Verdict.SLOWER, speedup=0.981, low=0.979, high=0.983)
        >>> certificate_failure(None, found, 0.01)
        ''
        >>> missed = Comparison(baseline="(ceiling)", verdict=Verdict.EQUIVALENT, speedup=0.999, low=0.998, high=1.0)
        >>> certificate_failure(None, missed, 0.01)
        'plain streaming of 2% more came out equivalent, 0.9990 [0.9980, 1.0000]'
    """
    differs = copy is not None and copy.verdict in (Verdict.FASTER, Verdict.SLOWER)
    if differs and copy is not None and abs(math.log(copy.speedup or 1.0)) > math.log1p(margin):
        return f"a second copy of {copy.baseline} came out {_words(copy)}"
    if control is None or control.high is None:
        return ""
    if control.verdict is not Verdict.SLOWER or control.high < 1 / (1 + _MOST):
        return f"plain streaming of {CONTROL_PERCENT}% more came out {_words(control)}"
    return ""


def _words(comparison: Comparison) -> str:
    return f"{comparison.verdict}, {comparison.speedup:.4f} [{comparison.low:.4f}, {comparison.high:.4f}]"
