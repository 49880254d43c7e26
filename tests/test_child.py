"""Children of ours: answers over a pipe of their own, deadlines, deaths, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from fuselab import child


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that a child runs."""

    def write(text):
        (tmp_path / "answering.py").write_text("import os, sys, time\nfrom fuselab import child\n" + text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "answering"

    return write


def collect(module, *, deadline_s=60.0, **options):
    with tempfile.TemporaryFile() as log:
        with child.spawned(module, lambda: b"a question\n", {}, log) as (process, pipe):
            heard = list(child.lines(pipe, time.monotonic() + deadline_s, **options))
            code = process.wait(30) if deadline_s > 10 else process.poll()
        return heard, code, child.tail(log), process


def test_answers_come_line_by_line_and_prints_do_not_count(module):
    name = module(
        "pipe = int(sys.argv[1])\nprint('printed')\n"
        "child.write(pipe, sys.stdin.buffer.readline())\nchild.write(pipe, b'second\\nhalf a li')\n"
    )
    heard, code, printed, _ = collect(name)
    assert heard == [b"a question", b"second"]
    assert code == 0
    assert printed == "printed"


def test_a_deadline_ends_the_listening_and_the_process(module):
    heard, code, _, process = collect(module("time.sleep(600)\n"), deadline_s=0.5)
    assert heard == []
    assert code is None
    assert process.returncode == -signal.SIGKILL


def test_what_is_done_meanwhile_is_done_often(module):
    looks = []
    collect(module("time.sleep(600)\n"), deadline_s=1.0, meanwhile=lambda: looks.append(1), every_s=0.1)
    assert len(looks) >= 4


def test_a_death_closes_the_pipe(module):
    heard, code, _, _ = collect(module("os.kill(os.getpid(), 11)\n"))
    assert heard == []
    assert child.how_it_died(code) == "died by SIGSEGV"


def test_helpers_of_a_child_are_killed_with_it(module):
    name = module(
        "import subprocess\nhelper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "child.write(int(sys.argv[1]), f'{helper.pid}\\n'.encode())\n"
    )
    (line,), _, _, _ = collect(name)
    helper = int(line)
    for _ in range(100):
        try:
            state = Path(f"/proc/{helper}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the helper still runs")


def test_a_child_that_closed_its_pipe_and_lives_on_is_killed(module, monkeypatch):
    monkeypatch.setattr(child, "ENDS_WITHIN_S", 0.5)
    with (
        tempfile.TemporaryFile() as log,
        child.spawned(module("os.close(int(sys.argv[1]))\ntime.sleep(600)\n"), lambda: b"", {}, log) as (process, pipe),
    ):
        assert list(child.lines(pipe, time.monotonic() + 60)) == []
        assert not child.ended(process)
        assert process.returncode == -signal.SIGKILL


def test_a_child_whose_parent_is_gone_ends_at_once():
    code = subprocess.run(
        [sys.executable, "-c", "from fuselab import child; child.die_with_parent(); print('alive')"],
        env={**os.environ, "FUSELAB_PARENT": "1"},
        capture_output=True,
        check=False,
    )
    assert code.returncode == 1
    assert code.stdout == b""
