"""Changes of lines: made, combined, shown, and followed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuselab.diagnosis.records import SourceChange
from fuselab.diagnosis.source import Source, applied, changes_between, combined, diff_of, moved_to, patch_of

LINES = st.lists(st.sampled_from(["a\n", "b\n", "c\n", "d = 1\n", "\n"]), max_size=12)


def change(first, last, text, file="m.py"):
    return SourceChange(file=file, first_line=first, last_line=last, text=text)


@settings(deadline=None)
@given(LINES, LINES)
def test_the_changes_between_two_texts_turn_one_into_the_other(old, new):
    before, after = "".join(old), "".join(new)
    assert applied(before, changes_between("m.py", before, after)) == after


@settings(deadline=None)
@given(LINES, st.integers(1, 12), st.integers(0, 3))
def test_a_line_that_is_not_changed_is_found_again(lines, line, put_in):
    text = "".join(lines)
    if line > len(lines):
        return
    changes = [change(1, 0, "new\n" * put_in)] if put_in else []
    first, last = moved_to(line, changes)
    assert first == last == line + put_in
    assert applied(text, changes).splitlines()[first - 1] == text.splitlines()[line - 1]


def test_a_changed_line_is_followed_to_all_of_its_new_lines():
    assert moved_to(5, [change(2, 2, "x\ny\n"), change(5, 6, "p\nq\nr\n")]) == (6, 8)
    assert moved_to(9, [change(2, 4, "x\n")]) == (7, 7)


def test_changes_that_meet_are_not_combined_and_one_line_put_in_twice_is_put_in_once():
    setup = change(2, 1, "setting\n")
    one, same_lines, other = change(4, 5, "one\n"), change(5, 5, "two\n"), change(7, 7, "three\n")
    changes, accepted = combined([[setup, one], [setup, other], [same_lines]])
    assert accepted == [0, 1]
    assert changes == [setup, one, other]
    text = "".join(f"{n}\n" for n in range(1, 9))
    assert applied(text, changes) == "1\nsetting\n2\n3\none\n6\nthree\n8\n"


def test_two_settings_at_one_place_keep_their_order():
    changes, accepted = combined([[change(2, 1, "first\n")], [change(2, 1, "second\n")]])
    assert accepted == [0, 1]
    assert applied("a\nb\n", changes) == "a\nfirst\nsecond\nb\n"


def test_a_diff_shows_the_changed_lines_alone_and_a_patch_their_surroundings():
    text = "a\nb\nc\n"
    changes = changes_between("m.py", text, "a\nB\nc\n")
    assert diff_of(text, changes) == "@@ -2 +2 @@\n-b\n+B"
    assert patch_of("m.py", text, changes) == "--- m.py\n+++ m.py\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"


SETUP = [
    ("import torch\n\nx = 1\n", [], "import torch\nSET\n\nx = 1\n"),
    ("x = 1\n", [], "import torch\nSET\nx = 1\n"),
    ('"""Doc."""\nx = 1\n', [], '"""Doc."""\nimport torch\nSET\nx = 1\n'),
    ("import torch\nlog = get()\nx = 1\n", ["log"], "import torch\nlog = get()\nSET\nx = 1\n"),
    ("import torch as th\nx = 1", [], "import torch as th\nimport torch\nSET\nx = 1"),
    ("import torch", [], "import torch\nSET\n"),
]


@pytest.mark.parametrize(("text", "names", "expected"), SETUP)
def test_a_setting_stands_behind_the_imports_and_what_it_names(text, names, expected):
    assert Source("m.py", text).with_setup("SET", names) == expected


def test_statements_are_found_by_line_and_columns_count_characters():
    text = "def f(x):\n    try:\n        ä = 'ö'; y = x.item()\n    except ValueError:\n        y = 0\n    return y\n"
    source = Source("m.py", text)
    assert source.function(3).name == "f"
    assert source.segment(source.siblings(source.statement(3))[1]) == "y = x.item()"
    assert source.segment(source.statement(5)) == "y = 0"
    assert source.statement(99) is None


def test_a_text_that_is_no_python_has_no_statements():
    source = Source("m.py", "def f(:\n")
    assert source.statement(1) is None
    assert source.function(1) is None
