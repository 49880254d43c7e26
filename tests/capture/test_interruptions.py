"""One line for a graph break, a recompilation, a failure."""

from __future__ import annotations

import pytest

from fuselab.capture.interruptions import failure, graph_break, recompile

BUILTIN = """Graph break in user code at model.py:8
Graph Break Reason: Encountered graph break when attempting to trace CALL: a function call, e.g. f(x, y):

Failed to trace builtin operator
  Explanation: Dynamo does not know how to trace builtin operator `print`
  Hint: Avoid calling builtin `print`.

  Developer debug context: builtin print

User code traceback:
  File "run.py", line 15, in <module>
  File "model.py", line 8, in f
    print("hi")

Traceback (most recent call last):
  File "torch/_dynamo/symbolic_convert.py", line 1076, in wrapper
"""
SKIPPED = """Graph break: torch.compile cannot properly resume from this graph break, which results in a skip.
The graph break occurred in the following user code:
  File "model.py", line 21, in g
    with lock:

Traceback (most recent call last):
  File "torch/_dynamo/convert_frame.py", line 1, in wrapper
"""


@pytest.mark.parametrize(
    ("payload", "start", "contains"),
    [
        (BUILTIN, "graph break at model.py:8: Failed to trace builtin operator", "builtin operator `print`"),
        (SKIPPED, "graph break at model.py:21: ", "cannot properly resume"),
        (
            "Graph break in user code at m.py:1\nGraph Break Reason: Data-dependent branching\n",
            "graph break at m.py:1",
            "Data",
        ),
        ("", "graph break at an unknown line: ", "no reason recorded"),
    ],
)
def test_graph_break(payload, start, contains):
    line = graph_break(payload)
    assert line.startswith(start)
    assert contains in line
    assert "\n" not in line


def test_a_long_reason_is_cut():
    assert len(graph_break("Graph break in user code at m.py:1\nGraph Break Reason: " + "x" * 9999 + "\n")) < 500


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (None, ""),
        ("", ""),
        (
            "0/0: tensor 'x' size mismatch at index 0",
            "recompile of f at m.py:3 (0/1): 0/0: tensor 'x' size mismatch at index 0",
        ),
        (
            "2/1: k == 2      # return x * k  # m.py:11 in g\nUser stack trace: ...",
            "recompile of f at m.py:3 (0/1): 2/1: k == 2",
        ),
        ('["2/1: k == 2", "2/0: k == 1"]', "recompile of f at m.py:3 (0/1): 2/1: k == 2"),
    ],
)
def test_recompile(reason, expected):
    metrics = {
        "recompile_reason": reason,
        "co_name": "f",
        "co_filename": "m.py",
        "co_firstlineno": 3,
        "compile_id": "0/1",
    }
    assert recompile(metrics) == expected


def test_failure_names_the_users_line():
    metrics = {
        "fail_type": "TorchRuntimeError",
        "fail_reason": "shapes differ\nmore",
        "fail_user_frame_filename": "m.py",
        "fail_user_frame_lineno": 4,
        "co_name": "f",
    }
    assert failure(metrics) == "compilation of f failed at m.py:4: TorchRuntimeError: shapes differ"
    assert failure({"fail_type": None}) == ""
