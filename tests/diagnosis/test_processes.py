"""Processes of their own: code that dies, hangs or leaves, what was seen before, and what the command line says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import torch
from planting import PLANTED, marked_line

from fuselab.cli import main
from fuselab.diagnosis import diagnose, json_schema
from fuselab.errors import ArgumentSpecError, UnknownNameError, UsageError
from fuselab.records import Status

EXAMPLES = Path(__file__).parents[2] / "examples"


def hostile(name, **options):
    return diagnose(f"{PLANTED / 'hostile.py'}:{name}", ["x=f32[4,4]"], **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("segfaults", Status.CRASHED, "SIGSEGV"),
        ("vanishes", Status.EXITED, "exit code 7"),
        ("exits", Status.EXITED, "sys.exit(3)"),
    ],
)
def test_code_that_does_not_come_back_is_a_failure_that_says_how(name, status, words):
    found = hostile(name)
    assert found.failure.status is status
    assert words in found.failure.reason
    assert found.failure.stage == "eager call 0"
    assert not found.clean


@pytest.mark.slow
def test_code_that_never_returns_is_given_up_at_the_deadline():
    started = time.monotonic()
    found = hostile("never_returns", deadline_s=8.0)
    assert found.failure.status is Status.TIMED_OUT
    assert "8 s" in found.failure.reason
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_what_was_found_before_a_crash_is_kept():
    found = hostile("dies_when_compiled", calls=1)
    assert found.failure.status is Status.CRASHED
    assert found.failure.stage == "compiled call 0"
    assert marked_line("hostile", "dies_when_compiled") in [f.place.line for f in found.findings]


def test_code_that_raises_is_a_failure_at_its_line(here):
    found = hostile("raises", observe=here)
    assert found.failure.status is Status.ERROR
    assert found.failure.reason == "ValueError: no good: (4, 4)"
    assert found.failure.place.source.startswith("raise ValueError")
    assert found.counts is None


def test_code_that_raises_later_says_in_which_call(here):
    found = hostile("raises_later", vary=["x.0=4,8,12"], observe=here)
    assert (found.failure.stage, found.failure.place.function) == ("eager call 2", "raises_later")


@pytest.mark.parametrize(
    ("target", "arguments", "vary", "error", "words"),
    [
        ("nowhere.py:f", [], [], UsageError, "there is no file"),
        ("{planted}/hostile.py:raise", ["x=f32[4]"], [], UnknownNameError, "did you mean 'raises'"),
        ("{planted}/hostile.py:raises", [], [], ArgumentSpecError, "needs x"),
        ("{planted}/hostile.py:raises", ["x=f32[4"], [], ArgumentSpecError, "x=f32[4"),
        ("{planted}/hostile.py:raises", ["x=f32[4]"], ["x.0"], ArgumentSpecError, "--vary"),
        ("{planted}/hostile.py:raises", ["x=f32[4]"], ["y.0=3"], UsageError, "there is no argument 'y'"),
        ("{planted}/hostile.py:NOT_CALLABLE", ["x=f32[4]"], [], UsageError, "cannot be called"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_found(target, arguments, vary, error, words, here):
    with pytest.raises(error, match=words.replace("[", r"\[")):
        diagnose(target.format(planted=PLANTED), arguments, vary=vary, observe=here)


@pytest.mark.slow
def test_the_command_line_in_json_strict_and_without_torch(tmp_path):
    """Three graph breaks: the JSON follows its schema, --strict exits with 1, torch is not imported."""
    code = (
        "import sys; from fuselab.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules, 'torch was imported'; sys.exit(code)"
    )
    target = f"{EXAMPLES / 'graph_breaks.py'}:normalised_step"
    finished = subprocess.run(
        [sys.executable, "-c", code, "diagnose", target, "--calls", "2", "--strict", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
        cwd=tmp_path,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 1, finished.stderr
    document = json.loads(finished.stdout)
    jsonschema.validate(document, json_schema())
    assert [f["cause"] for f in document["findings"] if f["kind"] == "graph break"] == ["print", "item", "log"]
    assert document["counts"]["graph_breaks"] == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_exits_with_2_and_the_way_out(capfd):
    assert main(["diagnose", f"{EXAMPLES / 'graph_breaks.py'}:normalised_step", "--device", "cuda"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert "--device cpu runs without a GPU" in said.err


def test_usage_errors_exit_with_2(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["diagnose", "nowhere.py:f"]) == 2
    assert main(["diagnose", f"{EXAMPLES / 'graph_breaks.py'}:normalised_step", "--vary", "x.0=a"]) == 2
    assert "hint" in capfd.readouterr().err
