"""Refusals to fuse in plain words."""

from __future__ import annotations

import pytest

from fuselab.card.fusion import PLAIN_WORDS, plain_words


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("no shared data", "nothing in common"),
        ("no shared data due to indexing mismatch", "in different orders"),
        ("numel/rnumel mismatch (reduce) (4, 8), (1, 1)", "both reduce"),
        ("numel/rnumel mismatch (non-reduce) (4, 8), (1, 1)", "different numbers of elements"),
        ("nodes numel incompatibility", "another number of elements"),
        ("node1 is extern but not a triton kernel", "call of a library"),
        ("Fusion will increase peak memory", "more memory alive"),
    ],
)
def test_refusals_in_plain_words(reason, words):
    assert words in plain_words(reason)


def test_no_reason_is_shadowed_by_one_before_it():
    for number, (start, words) in enumerate(PLAIN_WORDS):
        assert plain_words(start) == words, f"entry {number} is never reached"
