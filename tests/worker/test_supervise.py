"""Processes of our own: answers, deaths, deadlines, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from fuselab import child
from fuselab.plan import select
from fuselab.records import Direction, Status
from fuselab.worker.messages import CheckRequest, CheckResult, DescribeRequest, DescribeResult, Failure
from fuselab.worker.supervise import Crew

pytestmark = pytest.mark.slow

FUNCTIONS = """
    import ctypes, os, signal, sys, time
    import torch

    def right(x):
        return x.sin() * 2

    def raises(x):
        raise ValueError("this is the user's own mistake")

    def exits(x):
        sys.exit(3)

    def exits_hard(x):
        print("last words of the user's function", flush=True)
        os._exit(7)

    def segfaults(x):
        ctypes.string_at(0)

    def hangs(x):
        while True:
            time.sleep(0.1)

    def closes_its_pipe(x):
        os.closerange(3, 4096)
        hangs(x)

    def is_killed(x):
        os.kill(os.getpid(), signal.SIGKILL)

    def runs_out_of_memory(x):
        return torch.empty(1 << 50)

    def speaks(x):
        print('{"kind": "checked", "status": "ok"}')
        sys.stderr.write("noise\\n")
        return x + 1

    def leaves_a_thread(x):
        import threading
        threading.Thread(target=time.sleep, args=(3600,)).start()
        return x + 1
"""


@pytest.fixture
def ask(tmp_path):
    """Ask for the check of one of the functions above."""
    path = tmp_path / "own.py"
    path.write_text(textwrap.dedent(FUNCTIONS))

    def request(name, deadline_s=120.0, on_progress=None):
        (plan,) = select([f"{path}:{name}"], {}, arguments=["x=f32[4,8]:requires_grad"]).plans("cpu")
        (tmp_path / "staging").mkdir(exist_ok=True)
        message = CheckRequest(
            experiment=plan.reference,
            workload=plan.workloads[0],
            variant="eager",
            baseline="eager",
            device_type="cpu",
            directions=[Direction.FORWARD],
            staging=str(tmp_path / "staging"),
            caches=str(tmp_path / "caches"),
        )
        with Crew() as crew:
            watch = (lambda p: on_progress(crew, p)) if on_progress else (lambda _: None)
            return crew.call(message, deadline_s=deadline_s, on_progress=watch)

    return request


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("raises", Status.ERROR, "ValueError: this is the user's own mistake"),
        ("exits", Status.EXITED, "sys.exit(3)"),
        ("exits_hard", Status.EXITED, "exit code 7"),
        ("segfaults", Status.CRASHED, "SIGSEGV"),
        ("is_killed", Status.CRASHED, "SIGKILL"),
        ("runs_out_of_memory", Status.OUT_OF_MEMORY, "memory"),
    ],
)
def test_what_a_users_function_does_becomes_the_status(ask, name, status, reason):
    answer = ask(name)
    assert answer.status is status, answer
    assert reason in answer.reason


def test_the_last_words_of_a_dead_process_are_kept(ask):
    answer = ask("exits_hard")
    assert isinstance(answer, Failure)
    assert "last words of the user's function" in answer.traceback


@pytest.mark.parametrize("name", ["right", "speaks", "leaves_a_thread"])
def test_a_right_function_passes_whatever_it_prints_or_leaves(ask, name):
    answer = ask(name)
    assert isinstance(answer, CheckResult), answer
    assert answer.status is Status.OK, answer.reason
    assert answer.correctness[Direction.FORWARD].correct


def test_a_function_that_never_returns_meets_the_deadline(ask):
    start = time.monotonic()
    answer = ask("hangs", deadline_s=15.0)
    assert isinstance(answer, Failure)
    assert answer.status is Status.TIMED_OUT
    assert "15 s" in answer.reason
    assert time.monotonic() - start < 25


def test_a_function_that_closes_the_pipe_and_never_returns_is_ended_and_named(ask, monkeypatch):
    monkeypatch.setattr(child, "ENDS_WITHIN_S", 1.0)
    answer = ask("closes_its_pipe")
    assert isinstance(answer, Failure)
    assert answer.status is Status.TIMED_OUT
    assert "closed its pipe and did not end" in answer.reason


def test_stopping_ends_calls_in_flight(ask):
    def stop_once_it_hangs(crew, progress):
        if progress.text == "first call":
            threading.Timer(0.2, crew.stop).start()

    with pytest.raises(KeyboardInterrupt):
        ask("hangs", on_progress=stop_once_it_hangs)


def test_describe():
    with Crew() as crew:
        answer = crew.call(DescribeRequest(device="cpu"), deadline_s=120)
    assert isinstance(answer, DescribeResult), answer
    assert answer.environment.device_type == "cpu"
    assert answer.environment.device.startswith("CPU")
    assert "torch" in answer.environment.versions


def test_workers_die_with_their_parent(tmp_path):
    """A parent that is killed leaves no process behind."""
    path = tmp_path / "own.py"
    path.write_text("import time\ndef hangs(x):\n    time.sleep(3600)\n")
    script = textwrap.dedent(f"""
        import sys
        from fuselab.plan import select
        from fuselab.records import Direction
        from fuselab.worker.messages import CheckRequest
        from fuselab.worker.supervise import Crew
        (plan,) = select(["{path}:hangs"], {{}}, arguments=["x=f32[2,2]"]).plans("cpu")
        crew = Crew()
        crew.call(CheckRequest(experiment=plan.reference, workload=plan.workloads[0], variant="eager", baseline="eager",
            device_type="cpu", directions=[Direction.FORWARD], staging="{tmp_path}", caches="{tmp_path}"),
            deadline_s=600, on_progress=lambda p: print(p.text, flush=True))
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in parent.stdout:
        if "first call" in line:
            break
    children = children_of(parent.pid)
    assert children
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in children if alive(pid)]


def children_of(pid):
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in listing.stdout.split()]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
