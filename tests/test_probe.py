"""Questions asked of a child: whatever the child does, the parent goes on and knows why."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuselab import probe
from fuselab.errors import SetupError
from fuselab.versions import installed, release


@pytest.fixture(autouse=True)
def _fresh_answers() -> Iterator[None]:
    probe.forget()
    yield
    probe.forget()


@pytest.mark.parametrize(
    ("code", "returncode", "problem"),
    [
        ("raise SystemExit(0)", 0, ""),
        ("raise SystemExit(3)", 3, "ended with 3"),
        ("raise ValueError('x')", 1, "ended with 1"),
        ("import os; os.kill(os.getpid(), 11)", -11, "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", -9, "killed by SIGKILL"),
    ],
)
def test_run_says_how_a_program_ended(code: str, returncode: int, problem: str) -> None:
    finished = probe.run([sys.executable, "-c", code])
    assert finished.returncode == returncode
    assert problem in finished.problem
    assert finished.ok is (returncode == 0)


def test_run_ends_a_program_that_does_not_end_with_its_children(tmp_path: Path) -> None:
    marker = tmp_path / "grandchild-lives"
    grandchild = f"import time, pathlib; time.sleep(2); pathlib.Path({str(marker)!r}).touch()"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(60)"
    started = time.monotonic()
    finished = probe.run([sys.executable, "-c", code], deadline_s=0.7)
    assert time.monotonic() - started < 10
    assert "did not end within 0.7 s" in finished.problem
    time.sleep(2.2)
    assert not marker.exists()


def test_run_leaves_no_child_of_a_program_that_ended(tmp_path: Path) -> None:
    marker = tmp_path / "grandchild-lives"
    finished = probe.run(["sh", "-c", f"(sleep 1; touch {marker}) & exit 0"])
    assert finished.ok
    time.sleep(1.5)
    assert not marker.exists()


def test_run_names_a_program_that_is_not_there_or_not_executable(tmp_path: Path) -> None:
    assert probe.run(["no-such-program"]).problem == "no-such-program is not installed or not on PATH"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert "cannot be started" in probe.run([plain]).problem


def _plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str) -> None:
    """Put a module of that name in front of the real one, for children only."""
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    # within pytest torch may have been imported by another test: the child must be asked all the same
    for name in ("torch", "triton"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13: cannot open"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("import os; os._exit(0)", "no answer"),
        ("import time; time.sleep(60)", "did not end within"),
    ],
)
def test_a_broken_torch_is_a_setup_error_with_its_last_words(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _plant(tmp_path, monkeypatch, "torch", code)
    with pytest.raises(SetupError, match=words):
        probe.ask(probe.TorchFacts, deadline_s=1.5)


def test_noise_on_stdout_does_not_hide_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = """
print("a banner without a newline", end="")
class version: cuda = "13.0"; hip = None
class cuda:
    is_available = staticmethod(lambda: __import__("warnings").warn("CUDA initialization: driver too old") or False)
__version__ = "2.13.0"
"""
    _plant(tmp_path, monkeypatch, "torch", fake)
    facts = probe.ask(probe.TorchFacts)
    assert (facts.version, facts.cuda, facts.accelerators) == ("2.13.0", "13.0", ())
    assert facts.reason == "CUDA initialization: driver too old"


def test_a_gpu_is_read_from_its_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = """
class version: cuda = "13.0"; hip = None
class _P: name = "NVIDIA H200"; major = 9; minor = 0; total_memory = 150754820096; multi_processor_count = 132
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    get_device_properties = staticmethod(lambda index: _P)
__version__ = "2.11.0+cu130"
"""
    _plant(tmp_path, monkeypatch, "torch", fake)
    facts = probe.ask(probe.TorchFacts)
    assert len(facts.accelerators) == 2
    assert facts.accelerators[0] == probe.Accelerator(
        name="NVIDIA H200", capability=(9, 0), memory_bytes=150754820096, multiprocessors=132, l2_bytes=None
    )


@pytest.mark.skipif(installed("triton") is None, reason="triton is not installed")
def test_a_file_in_the_working_directory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton.py").write_text("raise SystemExit('the user file was imported')")
    monkeypatch.chdir(tmp_path)
    assert release(probe.ask(probe.TritonFacts).version) == release(installed("triton") or "")


def test_an_answer_is_remembered_until_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _plant(tmp_path, monkeypatch, "torch", "raise ImportError('first')")
    fake = "class version: cuda = None; hip = None\nclass cuda: is_available = staticmethod(lambda: False)\n"
    with pytest.raises(SetupError, match="first"):
        probe.ask(probe.TorchFacts)
    (tmp_path / "torch.py").write_text(f"{fake}__version__ = '2.99.0'")
    assert probe.ask(probe.TorchFacts).version == "2.99.0"
    (tmp_path / "torch.py").write_text(f"{fake}__version__ = '2.98.0'")
    assert probe.ask(probe.TorchFacts).version == "2.99.0"
    probe.forget()
    assert probe.ask(probe.TorchFacts).version == "2.98.0"


@pytest.mark.slow
def test_the_installed_torch_answers() -> None:
    facts = subprocess.run(
        [sys.executable, "-P", "-m", "fuselab.probe", "torch"], capture_output=True, text=True, check=True
    )
    assert '"version":"2.' in facts.stdout
