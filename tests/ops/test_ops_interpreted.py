"""Runs ``tests/ops/interpreted`` in processes that have Triton's interpreter, a file each and two at a time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


def run(file):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        # A thread each: their tensors are small, and two processes share the machine.
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=FOLDER.parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


@pytest.fixture(scope="module")
def processes(request):
    """The processes of all files that this session tests, started together."""
    here = [item for item in request.session.items if item.path == request.path]
    wanted = [i.callspec.params["file"] for i in here if "processes" in getattr(i, "fixturenames", ())]
    with ThreadPoolExecutor(2) as pool:
        yield {file: pool.submit(run, file) for file in wanted}


@pytest.mark.slow
@pytest.mark.timeout(900)  # five minutes on two idle cores, for the longest of them
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the files are collected in this process")
@pytest.mark.parametrize("file", sorted(FOLDER.glob("test_*.py")), ids=lambda file: file.stem)
def test_kernels_in_the_interpreter(processes, file):
    done = processes[file].result()
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout, done.stdout[-2_000:]


def test_files_are_found():
    assert len(list(FOLDER.glob("test_*.py"))) >= 5
