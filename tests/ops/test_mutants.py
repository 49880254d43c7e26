"""Every mutant of the kernels is killed by a check of the suite, in Triton's interpreter; see ``mutation``."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutation
import pytest

SCRIPT = Path(__file__).with_name("mutation.py")
OPERATORS = sorted(mutation.MUTATIONS)


def outcomes(*arguments):
    """What became of the mutants, by operator."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", *arguments],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-5_000:]
    found = {}
    for each in json.loads(done.stdout):
        found.setdefault(each["operator"], []).append(each)
    return found


@pytest.fixture(scope="module")
def some():
    """One mutant of each mutation, and the sources as they are."""
    return outcomes("--some")


@pytest.fixture(scope="module")
def rest():
    """All other mutants."""
    return outcomes("--rest")


def judge(found):
    """Every mutant was killed, by a check, and what was not changed by none."""
    for each in found:
        named = f"{each['title']} ({each['place']}: {each['before']!r} -> {each['after']!r})"
        if each["title"] == "unchanged":
            assert each["killed_by"] == "", f"without any change, {each['killed_by']}: {each['how']}"
        else:
            assert each["killed_by"], f"survived: {named}"
            assert each["killed_by"] != mutation.BROKEN, f"cannot be imported: {named}: {each['how']}"


@pytest.mark.slow
@pytest.mark.timeout(1300)  # four minutes on two idle cores, all of it in the fixture
@pytest.mark.parametrize("operator", OPERATORS)
def test_one_mutant_of_each_mutation(some, operator):
    judge(some[operator])
    assert len(some[operator]) > 10
    # By what it computes, not by a crash: that would show nothing of the checks.
    assert Counter(each["killed_by"] == "crash" for each in some[operator])[True] <= 2


@pytest.mark.slow
@pytest.mark.skipif("FUSELAB_ALL_MUTANTS" not in os.environ, reason="takes minutes: set FUSELAB_ALL_MUTANTS=1")
@pytest.mark.timeout(1300)
@pytest.mark.parametrize("operator", OPERATORS)
def test_all_other_mutants(rest, operator):
    judge(rest[operator])


def test_a_pattern_that_is_gone_is_an_error(monkeypatch):
    gone = mutation.Mutation("gone", "silu.py", "no such line", "x")
    monkeypatch.setitem(mutation.MUTATIONS, "silu", [gone])
    with pytest.raises(AssertionError, match=r"silu: gone: no 'no such line' in silu\.py"):
        list(mutation.mutants("silu"))


def test_a_mutant_differs_from_the_source_in_one_place():
    for operator in OPERATORS:
        for mutant in mutation.mutants(operator):
            source = (mutation.sources() / mutant.file).read_text()
            assert mutant.source != source
            assert len(mutant.source) - len(source) == len(mutant.after) - len(mutant.before)
