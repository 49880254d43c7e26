"""Reasons for recompilations as torch 2.11 to 2.15 write them, taken apart."""

from __future__ import annotations

import pytest

from fuselab.diagnosis.guards import guard_from, normalised, version_of

REASONS = [
    ("0/0: tensor 'x' size mismatch at index 0. expected 4, actual 8", ("size", "x", "argument", 0, "4", "8")),
    ("2/1: tensor 'x' stride mismatch at index 1. expected 4, actual 1", ("stride", "x", "argument", 1, "4", "1")),
    (
        "0/0: tensor 'x' dtype mismatch. expected Float, actual Double",
        ("dtype", "x", "argument", None, "Float", "Double"),
    ),
    ("0/0: tensor 'x' rank mismatch. expected 2, actual 3", ("rank", "x", "argument", None, "2", "3")),
    (
        "0/0: tensor 'x' requires_grad mismatch. expected requires_grad=0",
        ("requires_grad", "x", "argument", None, "requires_grad=0", ""),
    ),
    (
        "0/0: tensor 'self._buffers['mask']' size mismatch at index 0. expected 4, actual 8",
        ("size", "self.mask", "attribute", 0, "4", "8"),
    ),
    ("0/0: GLOBAL_STATE changed: grad_mode ", ("grad_mode", "grad_mode", "state", None, "", "")),
    ("0/0: GLOBAL_STATE changed: num_threads ", ("global_state", "num_threads", "state", None, "", "")),
    (
        "0/0: k == 2                        # return x * k  # model.py:14 in f\nUser stack trace:\n  File ...",
        ("integer", "k", "argument", None, "2", ""),
    ),
    ("0/0: k == 0.5   # return x * k", ("float", "k", "argument", None, "0.5", "")),
    ("0/0: negate == True   # if negate:", ("flag", "negate", "argument", None, "True", "")),
    ("0/0: mode == 'a  # b'   # if mode", ("text", "mode", "argument", None, "'a  # b'", "")),
    ("0/0: bias is None   # if bias is None", ("none", "bias", "argument", None, "None", "")),
    ("0/1: G['SCALE'] == 1   # SCALE", ("integer", "G['SCALE']", "global", None, "1", "")),
    (
        "0/0: self._modules['norm'].training == True   # if self.training",
        ("training", "self.norm.training", "attribute", None, "True", ""),
    ),
    ("0/0: len(G['H'].values) == 1   # H.values", ("length", "G['H'].values", "global", None, "1", "")),
    ("0/0: not items   # for i in items", ("length", "items", "argument", None, "empty", "")),
    ("0/0: ___stack0 == 0.25", ("float", "___stack0", "intermediate", None, "0.25", "")),
    ("0/0: ___check_obj_id(f, 140709404120688)   # f(x)", ("identity", "f", "argument", None, "", "")),
    ("0/0: ___check_type_id(f, 14070), type=<class 'int'>", ("type", "f", "argument", None, "<class 'int'>", "")),
    ("0/0: something ! unreadable", ("other", "", "", None, "", "")),
    ("", ("other", "", "", None, "", "")),
]


@pytest.mark.parametrize(("reason", "expected"), REASONS)
def test_a_reason_taken_apart(reason, expected):
    guard = guard_from(reason)
    assert (guard.kind, guard.subject, guard.subject_kind, guard.axis, guard.expected, guard.actual) == expected


def test_a_condition_on_a_size_keeps_its_words():
    guard = guard_from("0/1: 2 <= x.size()[0] <= 12  # if x.shape[0] > 12:  # f.py:54 in f (user code shown is ...)")
    assert (guard.kind, guard.subject, guard.axis) == ("shape_condition", "x", 0)
    assert guard.expression == "2 <= x.size()[0] <= 12"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("L['x']", "x"),
        ("L['self'].step", "self.step"),
        ("L['self'].__dict__['_modules']['norm'].training", "self.norm.training"),
        ("G['SCALE']", "G['SCALE']"),
        ("L['items'][0]", "items[0]"),
    ],
)
def test_sources_as_a_user_writes_them(source, expected):
    assert normalised(source) == expected


def test_versions():
    assert version_of("3/12: k == 2") == "3/12"
    assert version_of("no version") == ""
