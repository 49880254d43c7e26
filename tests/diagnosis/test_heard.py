"""What a call says: its own words, and not those of whatever happens beside it."""

from __future__ import annotations

import logging
import sys
import warnings

from fuselab.diagnosis.heard import heard


def test_prints_warnings_and_records_are_heard_sorted():
    with heard() as said:
        warnings.warn("mind this", UserWarning, stacklevel=1)
        print("result 1")
        logging.getLogger("mine").warning("so %d", 2)
    assert said == ["UserWarning: mind this", "WARNING mine: so 2", "result 1"]


def test_what_garbage_and_compilers_say_is_no_answer():
    with heard() as said:
        warnings.warn("unclosed file", ResourceWarning, stacklevel=1)  # comes when garbage is collected, in any frame
        logging.getLogger("torch._dynamo").warning("compiling")
    assert said == []


def test_what_differs_from_process_to_process_is_the_same():
    with heard() as first:
        print(object())
    with heard() as second:
        print([object(), object()][1])
    assert first == second == ["<object object at ...>"]


def test_stdout_comes_back():
    before = sys.stdout
    with heard():
        print("caught")
    assert sys.stdout is before
