"""The catalogue is whole: every cause says what to do, every rewrite exists, nothing is out of reach."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fuselab.diagnosis.causes import BREAKS, CATALOGUE, RECOMPILES, cause_of_break, cause_of_recompile, find
from fuselab.diagnosis.records import Guard
from fuselab.diagnosis.rewrites import REWRITES

WANTED = {
    "print",
    "log",
    "item",
    "data_dependent_branch",
    "numpy",
    "python_function",
    "context_manager",
    "changing_size",
    "changing_integer",
    "changing_float",
    "changing_attribute",
    "grad_mode",
    "changing_dtype",
    "changing_device",
    "changing_stride",
    "recompile_limit",
    "global_state",
}


def test_the_causes_that_have_to_be_there():
    assert {cause.name for cause in CATALOGUE} >= WANTED
    assert len({cause.name for cause in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("cause", CATALOGUE, ids=lambda cause: cause.name)
def test_every_cause_says_what_it_is_and_what_to_do(cause):
    assert cause.title
    assert cause.explanation.endswith(".")
    assert len(cause.advice) > 10
    assert set(cause.rewrites) <= set(REWRITES)
    assert find(cause.name) is cause


def test_every_rewrite_belongs_to_a_cause():
    assert {name for cause in CATALOGUE for name in cause.rewrites} == set(REWRITES)


def test_what_nobody_knows_has_a_cause_all_the_same():
    assert cause_of_break("Something new in torch 3", "", None) is BREAKS[-1]
    assert cause_of_recompile(Guard(expression="?", kind="other")) is RECOMPILES[-1]


def test_a_loop_is_told_from_a_branch_by_the_users_statement():
    loop, branch = ast.parse("while x: pass\nif x: pass").body
    assert cause_of_break("Data-dependent branching", "", loop).name == "data_dependent_loop"
    assert cause_of_break("Data-dependent branching", "", branch).name == "data_dependent_branch"


def test_the_page_in_the_docs_lists_every_cause():
    page = (Path(__file__).parents[2] / "docs" / "graph-breaks.md").read_text(encoding="utf-8")
    assert [cause.name for cause in CATALOGUE if f"`{cause.name}`" not in page] == []
