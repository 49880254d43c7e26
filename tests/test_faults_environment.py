"""Row 30 of the faults, a machine that lacks something: the doctor names it with its remedy, and all else works.

An absence is planted in every process of ``fuselab``, those that it starts included: a ``sitecustomize`` on PYTHONPATH
is the first thing that each of them runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

import fuselab
from fuselab import checks, device, probe
from fuselab.errors import SetupError

pytestmark = pytest.mark.slow

SOURCE = Path(fuselab.__file__).parents[1]
SMALL = ("--shape", "8x64", "--dtype", "f32", "--direction", "forward")

NO_TRITON = """
import importlib.metadata
from importlib.machinery import PathFinder

found, version = PathFinder.find_spec, importlib.metadata.version

def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] == "triton" else found(name, path, target)

def of(name):
    if "triton" in name:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

PathFinder.find_spec, importlib.metadata.version = classmethod(find_spec), of
"""
NOBODY = """
import pwd

def nobody(who):
    raise KeyError(who)

pwd.getpwuid = pwd.getpwnam = nobody
"""
NO_NETWORK = """
import errno, socket

connect = socket.socket.connect

def refused(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")
    return connect(self, address)

socket.socket.connect = refused
"""

Done = subprocess.CompletedProcess[str]


class Machine:
    """Runs ``fuselab`` in a directory of its own with something absent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.planted = directory / "planted"
        self.planted.mkdir(parents=True)
        self.environment = {name: value for name, value in os.environ.items() if name not in checks.CHANGING}
        self.environment |= {"PYTHONPATH": f"{self.planted}{os.pathsep}{SOURCE}", "NO_COLOR": "1", "COLUMNS": "200"}
        self.before: Sequence[str] = ()

    def plant(self, code: str) -> None:
        """Let every process begin with this."""
        (self.planted / "sitecustomize.py").write_text(code)

    def fuselab(self, *arguments: str) -> Done:
        """A command, carried out to its end."""
        return subprocess.run(
            [*self.before, sys.executable, "-m", "fuselab", *arguments],
            cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def doctor(self) -> dict[str, dict[str, str]]:
        """What the doctor says, by line."""
        done = self.fuselab("doctor", "--json")
        assert done.returncode in (0, 1), done.stderr
        assert "itself failed" not in done.stdout
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    def works(self, *variants: str, device: str = "cpu") -> dict[str, str]:
        """Statuses by variant of a small run, which has to come to its end."""
        chosen = [word for variant in variants for word in ("--variant", variant)]
        done = self.fuselab("run", "silu", *SMALL, *chosen, "--device", device, "--json")
        assert done.returncode in (0, 1), done.stderr
        (lines,) = self.directory.glob("runs/silu/*/measurements.jsonl")
        cells = [json.loads(line) for line in lines.read_text().splitlines()]
        assert all(cell["device"].startswith("CPU") for cell in cells)
        return {cell["variant"]: cell["status"] for cell in cells}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_fault_30_no_gpu(machine: Machine) -> None:
    machine.environment["CUDA_VISIBLE_DEVICES"] = ""
    line = machine.doctor()["GPU"]
    assert line["status"] != "ok"
    assert line["remedy"]
    assert machine.works("eager", device="auto") == {"eager": "ok"}
    refused = machine.fuselab("run", "silu", *SMALL, "--device", "cuda")
    assert refused.returncode == 2
    assert "--device cpu" in refused.stderr


def test_fault_30_no_triton(machine: Machine) -> None:
    machine.plant(NO_TRITON)
    line = machine.doctor()["triton"]
    assert (line["status"], line["detail"][:13]) == ("missing", "not installed")
    assert "pip install" in line["remedy"]
    assert machine.works("eager", "compile", "triton") == {"eager": "ok", "compile": "ok", "triton": "unavailable"}


def test_fault_30_no_compiler(machine: Machine) -> None:
    machine.environment |= dict.fromkeys(("CC", "CXX"), str(machine.directory / "no-compiler"))
    said = machine.doctor()
    for name in ("C++ compiler", "Python headers"):
        assert said[name]["status"] == "missing"
        assert said[name]["remedy"]
    assert machine.works("eager") == {"eager": "ok"}
    refused = machine.fuselab("run", "silu", *SMALL, "--device", "cpu", "--variant", "compile")
    assert refused.returncode == 2
    assert "--variant eager" in refused.stderr


def test_fault_30_an_old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted where the driver answers: there is no old one to install."""
    cuda = probe.TorchFacts(
        version="2.15.0+cu132", cuda="13.2", hip=None, reason="CUDA initialization: The NVIDIA driver is too old"
    )
    old = probe.NvmlFacts(driver="470.57.02", cuda="11.4", devices=("NVIDIA H200",))
    ask = probe.ask

    def planted(facts: type[msgspec.Struct], *arguments: str, deadline_s: float = probe.DEADLINE_S) -> msgspec.Struct:
        answers: dict[type[msgspec.Struct], msgspec.Struct] = {probe.TorchFacts: cuda, probe.NvmlFacts: old}
        return answers[facts] if facts in answers else ask(facts, *arguments, deadline_s=deadline_s)

    monkeypatch.setattr(probe, "ask", planted)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = checks.checks()
    (line,) = (check for check in found if check.name == "GPU")
    assert "driver 470.57.02 serves CUDA 11.4, torch is built for CUDA 13.2" in line.detail
    assert "install a driver for CUDA 13.2 or newer" in line.remedy
    assert checks.main_job_can_run(found)
    assert device.resolve("auto") == "cpu"
    with pytest.raises(SetupError) as error:
        device.resolve("cuda")
    assert "driver is too old" in error.value.message


def test_fault_30_an_unsupported_torch(machine: Machine) -> None:
    before = Machine(machine.directory / "before")
    assert before.works("eager") == {"eager": "ok"}
    metadata = machine.planted / "torch-2.4.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.4.0\n")
    (machine.planted / "torch.py").write_text("raise ImportError('an old torch must not be imported')")
    line = machine.doctor()["torch"]
    assert (line["status"], line["detail"]) == ("missing", "2.4.0 is older than torch>=2.11")
    assert "install 'torch>=2.11' --upgrade" in line["remedy"]
    (run,) = (before.directory / "runs" / "silu").iterdir()
    for words in (["list"], ["list-runs"], ["show", str(run)], ["report", str(run)], ["compare", str(run), str(run)]):
        done = machine.fuselab(*words)
        assert done.returncode == 0, done.stderr
        assert "old torch" not in done.stdout + done.stderr
    refused = machine.fuselab("run", "silu", *SMALL)
    assert refused.returncode == 2
    assert "fuselab doctor" in refused.stderr


def test_fault_30_no_passwd_entry(machine: Machine) -> None:
    machine.plant(NOBODY)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
        machine.environment.pop(name, None)
    machine.environment["TMPDIR"] = str(machine.directory)
    said = machine.doctor()
    for name, variable in (("Inductor's cache", "TORCHINDUCTOR_CACHE_DIR"), ("Triton's cache", "TRITON_CACHE_DIR")):
        assert said[name]["status"] == "ok" or variable in said[name]["remedy"]
    assert machine.works("eager", "compile") == {"eager": "ok", "compile": "ok"}
    page = machine.fuselab("report", "latest", "--redact", "--out", "page.html")
    assert page.returncode == 0, page.stderr


def test_fault_30_no_network(machine: Machine) -> None:
    """In a namespace without one where the system allows it, else with every connection refused."""
    machine.before = next((words for words in (["unshare", "-n"], ["unshare", "-rn"]) if _runs([*words, "true"])), ())
    if machine.before:
        line = machine.doctor()["network"]
        assert line["status"] == "warning"
        assert "--no-index --find-links" in line["remedy"]
    else:
        machine.plant(NO_NETWORK)
        machine.doctor()
    assert machine.works("eager", "compile") == {"eager": "ok", "compile": "ok"}
    page = machine.fuselab("report", "latest", "--out", "page.html")
    assert page.returncode == 0, page.stderr


def _runs(command: Sequence[str]) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True, check=False).returncode == 0
