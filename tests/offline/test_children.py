"""Processes of an inspection end with their parent and with their time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from fuselab.offline.children import run_process


@pytest.mark.parametrize("module", ["fuselab.offline", "fuselab.offline.interpreter"])
def test_one_whose_parent_is_gone_ends_at_once(module):
    ended = subprocess.run(
        [sys.executable, "-m", module],
        env={**os.environ, "FUSELAB_PARENT": "1"},
        input=b"no request",
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1
    assert b"Traceback" not in ended.stderr  # it never came to read the request, which is none


@pytest.mark.parametrize(
    ("text", "deadline_s", "ending"),
    [
        ("import sys; sys.exit(3)", 60, "the process ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", 60, "the process died by SIGSEGV"),
        ("import time; time.sleep(600)", 0.5, "no answer within 0 s"),
        ("import sys; sys.stdin.read()", 60, ""),
    ],
)
def test_how_one_ended_is_put_in_words(text, deadline_s, ending, tmp_path, monkeypatch):
    (tmp_path / "ending.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with tempfile.TemporaryFile() as log:
        assert run_process("ending", b"", log, deadline_s) == ending
