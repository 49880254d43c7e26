"""The text of errors: what is wrong, what is allowed, the nearest match."""

from __future__ import annotations

import pytest

from fuselab import errors


@pytest.mark.parametrize(
    ("name", "allowed", "nearest"),
    [
        ("rmsnorm", ["rms_norm", "silu"], "rms_norm"),
        ("RMS_NORM", ["rms_norm", "silu"], "rms_norm"),
        ("zzz", ["rms_norm", "silu"], None),
        ("x", [], None),
    ],
)
def test_unknown_name_carries_the_nearest_match(name, allowed, nearest):
    error = errors.UnknownNameError("experiment", name, allowed)
    assert error.nearest == nearest
    assert (f"did you mean {nearest!r}?" in str(error)) is (nearest is not None)
    assert all(each in error.hint for each in allowed)
    assert error.exit_code == 2


def test_every_error_has_the_base_and_an_exit_code():
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert all(issubclass(kind, errors.FuselabError) for kind in kinds)
    assert {kind.exit_code for kind in kinds} == {1, 2}


def test_a_message_without_a_hint_stays_one_line():
    assert str(errors.StoreError("runs/x is not readable")) == "runs/x is not readable"
