"""A device's lock: checks share it, a timing has it alone, whoever waits is told and can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fuselab.errors import StoreError
from fuselab.store.device_lock import HostDeviceLock

HOLD = """
import sys, time
from pathlib import Path
from fuselab.store.device_lock import HostDeviceLock
lock = HostDeviceLock("GPU-1", directory=Path(sys.argv[1]))
with getattr(lock, sys.argv[2])():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def another_process(tmp_path):
    """Hold the device in another process until the test ends."""
    processes = []

    def hold(how):
        process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path, how], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def free(directory, how, device="GPU-1"):
    """Whether the device can be had within a moment."""
    asked = time.monotonic()
    lock = HostDeviceLock(device, directory=directory, stopped=lambda: time.monotonic() - asked > 0.2)
    try:
        with getattr(lock, how)():
            return True
    except KeyboardInterrupt:
        return False


def test_checks_share_a_device_and_keep_a_timing_away(tmp_path, another_process):
    another_process("shared")
    assert free(tmp_path, "shared")
    assert not free(tmp_path, "alone")
    assert free(tmp_path, "alone", device="GPU-2")


def test_a_timing_keeps_everybody_away_until_its_process_is_dead(tmp_path, another_process):
    holder = another_process("alone")
    assert not free(tmp_path, "shared")
    assert not free(tmp_path, "alone")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert free(tmp_path, "alone")


def test_whoever_waits_to_be_alone_is_not_starved(tmp_path, another_process):
    another_process("shared")
    waiting, stop = threading.Event(), threading.Event()
    heard = []

    def wait():
        lock = HostDeviceLock(
            "GPU-1", directory=tmp_path, waiting=lambda text: (heard.append(text), waiting.set()), stopped=stop.is_set
        )
        with pytest.raises(KeyboardInterrupt), lock.alone():
            pass

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(60)
    assert not free(tmp_path, "shared"), "a newcomer passed somebody who waits to be alone"
    stop.set()
    thread.join(60)
    assert "GPU-1" in heard[0]
    assert free(tmp_path, "shared")


def test_a_directory_that_others_can_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="written by everybody"):
        HostDeviceLock("cpu", directory=tmp_path)


def test_the_lock_files_are_the_users_own(tmp_path):
    with HostDeviceLock("cpu", directory=tmp_path / "run").alone():
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
        assert all(file.stat().st_uid == os.getuid() for file in (tmp_path / "run").iterdir())
