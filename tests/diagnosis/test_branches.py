"""Branches as selections: what each form becomes, and which forms are left alone."""

from __future__ import annotations

import ast

import pytest

from fuselab.diagnosis.branches import conditional_as_where, if_as_where, without_item
from fuselab.diagnosis.source import Source

KNOWN = [
    ("if x.sum() > 0:\n    y = a\nelse:\n    y = b\n", "y = torch.where(x.sum() > 0, a, b)\n"),
    ("if x.sum().item() > 0:\n    y = y + 1\n", "y = torch.where(x.sum() > 0, y + 1, y)\n"),
    ("if float(x.mean()) > c:\n    y *= 2\n", "y = torch.where(x.mean() > c, y * (2), y)\n"),
    ("if x.any():\n    y = a\n", "y = torch.where((x.any()) != 0, a, y)\n"),
    ("if not x.any():\n    y = a\n", "y = torch.where(torch.logical_not((x.any()) != 0), a, y)\n"),
    (
        "if x.sum() > 0 and y.sum() > 0:\n    z = a\n",
        "z = torch.where((x.sum() > 0) & (y.sum() > 0), a, z)\n",
    ),
    (
        "if x.sum() > 0:\n    p = a\n    q = b\nelse:\n    p = c\n",
        "p = torch.where(x.sum() > 0, a, c)\nq = torch.where(x.sum() > 0, b, q)\n",
    ),
]

LEFT_ALONE = [
    "if x.sum() > 0:\n    x.add_(1)\n",  # a side effect
    "if x.sum() > 0:\n    items[0] = a\n",  # not a name
    "if x.sum() > 0:\n    p = a\n    p = b\n",  # twice
    "if x.sum() > 0:\n    p = a\n    q = p\n",  # the second reads the first
    "if p.sum() > 0:\n    p = a\n    q = b\n",  # the condition of the second selection would read the new p
    "if x.sum() > 0:\n    pass\n",
    "if x.sum() > 0:\n    return\n",
    "if x.sum() > 0:\n    for i in y:\n        z = i\n",
]


def first(text):
    source = Source("m.py", f"import torch\n{text}")
    return source, source.tree.body[1]


@pytest.mark.parametrize(("text", "expected"), KNOWN)
def test_an_if_as_selections(text, expected):
    source, statement = first(text)
    new = if_as_where(source, statement)
    assert new == f"import torch\n{expected}"
    ast.parse(new)


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_does_more_than_give_names_values_is_left_alone(text):
    source, statement = first(text)
    assert if_as_where(source, statement) is None


def test_returns_on_both_sides():
    text = "import torch\ndef f(x):\n    if x.sum() > 0:\n        return x.sin()\n    return x.cos()\n"
    source = Source("m.py", text)
    new = if_as_where(source, source.statement(3))
    assert new == "import torch\ndef f(x):\n    return torch.where(x.sum() > 0, x.sin(), x.cos())\n"


def test_a_conditional_expression():
    source, statement = first("y = a if x.mean().item() > 0 else b\n")
    assert conditional_as_where(source, statement) == "import torch\ny = torch.where(x.mean() > 0, a, b)\n"
    assert conditional_as_where(source, statement, "other") is None


def test_torch_is_imported_where_it_was_not():
    source = Source("m.py", "if x.sum() > 0:\n    y = a\n")
    assert if_as_where(source, source.tree.body[0]) == "import torch\ny = torch.where(x.sum() > 0, a, y)\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = x / x.max().item()", "y = x / x.max()"),
        ("y = float(a - b) * x", "y = (a - b) * x"),
        ("y = float(x.max().item())", "y = x.max()"),
        ("y = x.item(0)", "y = x.item(0)"),  # another element of it: not the same
        ("y = int(x.sum())", "y = int(x.sum())"),  # int() cuts off
    ],
)
def test_values_stay_in_tensors(text, expected):
    source = Source("m.py", text)
    assert source.replaced(without_item(source, ast.walk(source.tree))) == expected
