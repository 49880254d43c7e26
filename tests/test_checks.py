"""Doctor: planted absences, each named with the command that mends it, none of them in the way of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fuselab import checks, compiler, device, probe
from fuselab.errors import SetupError
from fuselab.records import Check, CheckStatus

H200 = probe.Accelerator(
    name="NVIDIA H200", capability=(9, 0), memory_bytes=150754820096, multiprocessors=132, l2_bytes=62914560
)
WITH_GPU = probe.TorchFacts(version="2.11.0+cu130", cuda="13.0", hip=None, accelerators=(H200,))
CPU_BUILD = probe.TorchFacts(version="2.13.0+cpu", cuda=None, hip=None)
CUDA_BUILD = probe.TorchFacts(version="2.15.0+cu132", cuda="13.2", hip=None)
TOO_OLD_DRIVER = msgspec.structs.replace(CUDA_BUILD, reason="CUDA initialization: The NVIDIA driver is too old")
NVML = probe.NvmlFacts(driver="580.159.03", cuda="13.0", devices=("NVIDIA H200",))
OLD_NVML = probe.NvmlFacts(driver="470.57.02", cuda="11.4", devices=("NVIDIA H200",))
TRITON = probe.TritonFacts(version="3.7.1", backends=("amd", "nvidia"))
WORKS = compiler.Trial(program="g++", works=True, detail="g++ 12.2.0: compiled and ran a toy kernel")
BROKEN = compiler.Trial(
    program="g++", works=False, detail="no C++ compiler: g++ is not on PATH", remedy="apt-get install g++"
)


class Machine:
    """A described machine: what the probe, the metadata and the compilers say."""

    def __init__(self) -> None:
        self.torch: probe.TorchFacts | None = CPU_BUILD
        self.triton: probe.TritonFacts | None = TRITON
        self.nvml: probe.NvmlFacts | None = None
        self.installed: dict[str, str] = {"torch": "2.13.0+cpu", "triton": "3.7.1", "nvidia-ml-py": "13.0"}
        self.requires: list[str] = []
        self.cpp = self.c = WORKS

    def ask(self, facts: type[msgspec.Struct], *arguments: str, deadline_s: float = 0) -> msgspec.Struct:
        answers: dict[type[msgspec.Struct], msgspec.Struct | None] = {
            probe.TorchFacts: self.torch,
            probe.TritonFacts: self.triton,
            probe.NvmlFacts: self.nvml,
        }
        answer = answers[facts]
        if answer is None:
            raise SetupError("the probe was killed by SIGSEGV")
        return answer


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A healthy machine without a GPU, on which a test plants absences."""
    described = Machine()
    monkeypatch.setattr(probe, "ask", described.ask)
    monkeypatch.setattr(checks, "installed", lambda name: described.installed.get(name))  # noqa: PLW0108 - tests replace it
    monkeypatch.setattr(checks.importlib.metadata, "requires", lambda name: described.requires)
    monkeypatch.setattr(compiler, "try_cpp", lambda: described.cpp)
    monkeypatch.setattr(compiler, "try_headers", lambda: described.c)
    monkeypatch.setattr(checks.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(checks, "_ROUTES", tmp_path / "no-such-list")
    for name in [*checks.CHANGING, "CUDA_VISIBLE_DEVICES"]:
        monkeypatch.delenv(name, raising=False)
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    return described


def _line(found: list[Check], name: str) -> Check:
    (line,) = (check for check in found if check.name == name)
    return line


def test_a_healthy_machine_without_a_gpu(machine: Machine) -> None:
    found = checks.checks()
    assert checks.main_job_can_run(found)
    assert {c.name for c in found if c.status is not CheckStatus.OK} == {"GPU"}
    assert "labelled CPU" in _line(found, "GPU").detail
    names = [check.name for check in found]
    assert len(names) == len(set(names)), "a line is found by its name"
    assert all(check.remedy == "" for check in found if check.status is CheckStatus.OK)


def test_every_line_that_is_not_ok_has_a_remedy(machine: Machine) -> None:
    machine.torch = machine.triton = None
    machine.cpp = machine.c = BROKEN
    machine.installed = {}
    found = checks.checks()
    assert not checks.main_job_can_run(found)
    assert [c.name for c in found if c.status is not CheckStatus.OK and not c.remedy] == []


GPU = {"torch": WITH_GPU, "nvml": NVML}
BARE_GPU = {**GPU, "installed": {"torch": "2.11.0"}}
OLD_GPU = msgspec.structs.replace(WITH_GPU, accelerators=(msgspec.structs.replace(H200, capability=(6, 1)),))
OLD_COMPILER = msgspec.structs.replace(WORKS, old=True, remedy="apt-get install g++ (GCC 10)")
PINNED = {"installed": {"torch": "2.13.0", "triton": "3.6.0"}, "requires": ["triton==3.7.1; platform_system=='Linux'"]}
COMPATIBLE = {"installed": {"torch": "2.15.0", "triton": "3.10.0"}, "requires": ["triton~=3.9.0"]}

ABSENCES = [
    # planted, line, status, in its detail, in its remedy, whether the main job still runs
    ({"installed": {}}, "torch", "missing", "not installed", "install 'torch>=2.11'", False),
    ({"installed": {"torch": "2.9.1"}}, "torch", "missing", "2.9.1 is older than torch>=2.11", "--upgrade", False),
    ({"torch": None}, "torch", "missing", "the probe was killed by SIGSEGV", "torch==2.13.0", False),
    ({"installed": {"torch": "2.13.0+cpu"}}, "triton", "missing", "not installed", "'triton==3.7.1'", True),
    ({"triton": None}, "triton", "missing", "cannot be imported", "triton==3.7.1", True),
    (PINNED, "triton", "warning", "3.6.0, and torch 2.13.0 asks for triton==3.7.1", "'triton==3.7.1'", True),
    (COMPATIBLE, "triton", "warning", "3.10.0, and torch 2.15.0 asks for triton~=3.9.0", "triton~=3.9.0", True),
    ({"cpp": BROKEN}, "C++ compiler", "missing", "g++ is not on PATH", "apt-get install g++", False),
    ({"c": BROKEN}, "Python headers", "missing", "not on PATH", "apt-get", True),
    ({"cpp": OLD_COMPILER}, "C++ compiler", "warning", "g++", "GCC 10", True),
    ({"nvml": NVML}, "GPU", "missing", "NVIDIA H200: this torch", "install torch --force", True),
    ({"torch": TOO_OLD_DRIVER, "nvml": OLD_NVML}, "GPU", "missing", "470.57.02 serves CUDA 11.4", "driver", True),
    ({"torch": TOO_OLD_DRIVER, "nvml": NVML}, "GPU", "missing", "driver is too old", "CUDA 13.2 or newer", True),
    ({**GPU, "c": BROKEN}, "Python headers", "missing", "not on PATH", "apt-get", False),
    ({**GPU, "cpp": BROKEN}, "C++ compiler", "missing", "not on PATH", "apt-get", True),
    (BARE_GPU, "triton", "missing", "not installed", "==3.6.0", False),
    (BARE_GPU, "NVML", "missing", "without nvidia-ml-py", "install nvidia-ml-py", False),
    (GPU, "peer liger-kernel", "missing", "left out", "install liger-kernel", True),
    (GPU, "peer quack-kernels", "missing", "left out", "install quack-kernels", True),
    ({"torch": OLD_GPU}, "compute capability", "missing", "6.1: Triton generates", "--device cpu", True),
]


@pytest.mark.parametrize(("planted", "name", "status", "detail", "remedy", "runs"), ABSENCES)
def test_a_planted_absence_is_named_with_its_remedy(
    planted: dict[str, object], name: str, status: str, detail: str, remedy: str, runs: bool, machine: Machine
) -> None:
    for field, value in planted.items():
        assert hasattr(machine, field)
        setattr(machine, field, value)
    found = checks.checks()
    line = _line(found, name)
    assert line.status.value == status
    assert detail in line.detail
    assert remedy in line.remedy
    assert checks.main_job_can_run(found) is runs
    assert _line(found, "Python").status is CheckStatus.OK, "the other checks go on"


def test_a_gpu_is_described_with_the_source_of_its_peaks(machine: Machine) -> None:
    machine.torch, machine.nvml = WITH_GPU, NVML
    machine.installed |= {"torch": "2.11.0+cu130", "triton": "3.6.0"}
    found = checks.checks()
    assert checks.main_job_can_run(found)
    assert "NVIDIA H200, 132 multiprocessors, 140.4 GiB" in _line(found, "GPU 0").detail
    assert "580.159.03" in _line(found, "GPU driver").detail
    assert "CUDA 13.0" in _line(found, "CUDA runtime").detail
    assert _line(found, "compute capability").detail == "9.0"
    peaks = _line(found, "GPU peaks").detail
    assert "4.8 TB/s" in peaks
    assert "datasheet" in peaks


def test_an_undescribed_gpu_shows_no_peaks(machine: Machine) -> None:
    gpu = msgspec.structs.replace(H200, name="NVIDIA H200 MIG 1g.18gb")
    machine.torch, machine.nvml = msgspec.structs.replace(WITH_GPU, accelerators=(gpu,)), NVML
    line = _line(checks.checks(), "GPU peaks")
    assert "not among the described devices" in line.detail
    assert "TB/s" not in line.detail


def test_a_hidden_gpu_is_told_from_a_missing_one(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.torch, machine.nvml = CUDA_BUILD, NVML
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = _line(checks.checks(), "GPU")
    assert "hidden by CUDA_VISIBLE_DEVICES" in line.detail
    assert line.remedy == "unset CUDA_VISIBLE_DEVICES"


def test_one_broken_check_leaves_the_others(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> compiler.Trial:
        raise RuntimeError("planted")

    monkeypatch.setattr(compiler, "try_cpp", explode)
    found = checks.checks()
    line = _line(found, "C++ compiler")
    assert line.status is CheckStatus.WARNING
    assert "RuntimeError: planted" in line.detail
    assert {"Python", "torch", "runs directory", "peer quack-kernels"} <= {check.name for check in found}


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("Inductor's cache", "TORCHINDUCTOR_CACHE_DIR"),
        ("Triton's cache", "TRITON_CACHE_DIR"),
        ("fuselab's cache", "XDG_CACHE_HOME"),
    ],
)
def test_a_cache_that_cannot_be_written_is_named(
    name: str, variable: str, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # a file in the way stops everyone; permissions would not stop root
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "cache"))
    line = _line(checks.checks(), name)
    assert line.status is CheckStatus.MISSING
    assert str(tmp_path / "file") in line.detail
    assert f"export {variable}=" in line.remedy
    assert not line.required


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs /proc")
def test_a_read_only_runs_directory_stops_the_main_job(machine: Machine) -> None:
    found = checks.checks(Path("/proc/sys/runs"))
    line = _line(found, "runs directory")
    assert line.status is CheckStatus.MISSING
    assert "/proc/sys" in line.detail
    assert "--out DIR" in line.remedy
    assert not checks.main_job_can_run(found)


@pytest.mark.parametrize(("free", "status"), [(1 << 40, "ok"), (500 << 20, "warning"), (1 << 20, "missing")])
def test_disk_space(free: int, status: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    assert _line(checks.checks(), "runs directory").status.value == status


@pytest.mark.parametrize(
    ("four", "six", "told"),
    [
        ("", None, True),
        ("", "00 00 00 00 00 00 00 00 00 lo\n", True),
        ("eth0\t00000000\t010200C0\n", None, False),
        ("", "00 00 00 00 00 00 00 00 00 lo\n00 00 00 00 00 00 00 00 00 eth0\n", False),
    ],
)
def test_a_machine_without_a_network_is_told_how_to_install(
    four: str, six: str | None, told: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "route").write_text(f"Iface\tDestination\tGateway\n{four}")
    if six is not None:
        (tmp_path / "ipv6_route").write_text(six)
    monkeypatch.setattr(checks, "_ROUTES", tmp_path / "route")
    monkeypatch.setattr(checks, "_ROUTES_6", tmp_path / "ipv6_route")
    found = [check for check in checks.checks() if check.name == "network"]
    assert [(check.status, "--no-index" in check.remedy) for check in found] == [(CheckStatus.WARNING, True)] * told


def test_checking_leaves_nothing_behind(machine: Machine, tmp_path: Path) -> None:
    checks.checks(tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_every_variable_that_is_warned_of_is_in_the_record_too() -> None:
    assert set(device.variables(dict.fromkeys(checks.CHANGING, "1"))) == set(checks.CHANGING)


@pytest.mark.parametrize(
    ("name", "value", "warned"),
    [
        ("TORCH_COMPILE_DISABLE", "1", "nothing is compiled"),
        ("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1", "starts from nothing"),
        ("TRITON_INTERPRET", "1", "thousands of times slower"),
        ("CUDA_LAUNCH_BLOCKING", "1", "waits for its kernel"),
        ("NVIDIA_TF32_OVERRIDE", "0", "precision"),
        ("TRITON_INTERPRET", "0", None),
        ("CUDA_LAUNCH_BLOCKING", "", None),
    ],
)
def test_variables_that_change_results_are_warned_of(
    name: str, value: str, warned: str | None, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    lines = [check for check in checks.checks() if check.name == f"variable {name}"]
    if warned is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.status is CheckStatus.WARNING
        assert warned in line.detail
        assert line.remedy == f"unset {name}"


def test_no_line_shows_a_planted_secret(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSELAB_TOKEN", "canary0")
    monkeypatch.setenv("TORCHINDUCTOR_REMOTE", "redis://me:canary1@host")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "hf_canary2AbCdEf0123456789")
    assert "canary" not in str(checks.checks())


@pytest.mark.parametrize(("device_type", "field"), [("cpu", "cpp"), ("cuda", "c")])
def test_a_missing_compiler_stops_before_work_starts(device_type: str, field: str, machine: Machine) -> None:
    checks.require_compiler(device_type)
    setattr(machine, field, BROKEN)
    with pytest.raises(SetupError, match=f"cannot compile for {device_type}") as error:
        checks.require_compiler(device_type)
    assert "apt-get install g++" in str(error.value.hint)
    assert error.value.exit_code == 2


def test_runs_below_a_space_stop_before_work_starts(machine: Machine, tmp_path: Path) -> None:
    checks.require_compiler("cpu", tmp_path)
    checks.require_compiler("cuda", tmp_path / "my runs")
    with pytest.raises(SetupError, match=r"my runs: the path has a space") as error:
        checks.require_compiler("cpu", tmp_path / "my runs")
    assert "--out" in str(error.value.hint)
    assert "--variant eager" in str(error.value.hint)
    with pytest.raises(SetupError, match="my runs") as error:
        checks.require_compiler("cpu", tmp_path / "my runs", instead="")
    assert "--variant" not in str(error.value.hint)


def test_a_missing_device_stops_before_work_starts(machine: Machine) -> None:
    checks.require_device("auto")
    checks.require_device("cpu")
    with pytest.raises(SetupError, match=r"build without CUDA \(the worker said so\)"):
        checks.require_device("cuda", "the worker said so")
    with pytest.raises(SetupError) as error:
        checks.require_device("cuda")
    with pytest.raises(SetupError) as once:
        checks.require_device("cuda", str(error.value))
    assert str(once.value) == str(error.value), "what the worker said is said once"


@pytest.fixture
def _fresh_answers() -> Iterator[None]:
    probe.forget()
    yield
    probe.forget()


def _doctor_in_a_child(code: str, **variables: str) -> list[Check]:
    """Run the real checks in a process whose whole environment is given."""
    program = f"{code}\nimport sys, msgspec\nfrom fuselab.checks import checks\n" + (
        "sys.stdout.write(msgspec.json.encode(checks()).decode())\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'triton')))"
    )
    environment = {"PYTHONPATH": str(Path(probe.__file__).parents[1]), **variables}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return msgspec.json.decode(finished.stdout, type=list[Check])


@pytest.mark.slow
def test_the_real_checks_on_a_machine_with_nothing(tmp_path: Path) -> None:
    """No PATH, no HOME, no passwd entry: everything is said, nothing raised, torch stays out of the process."""
    nobody = "import pwd\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\n"
    found = _doctor_in_a_child(nobody, PATH=str(tmp_path), TMPDIR=str(tmp_path))
    assert _line(found, "C++ compiler").status is CheckStatus.MISSING
    assert "install g++" in _line(found, "C++ compiler").remedy
    assert _line(found, "Python headers").status is CheckStatus.MISSING
    assert str(tmp_path) in _line(found, "Inductor's cache").detail
    assert f"uid_{os.getuid()}" in _line(found, "Inductor's cache").detail
    assert f"{tmp_path}/fuselab_uid_{os.getuid()}" in _line(found, "fuselab's cache").detail
    assert "itself failed" not in str(found)
    assert not checks.main_job_can_run(found)


@pytest.mark.slow
def test_the_real_checks_see_a_torch_that_is_too_old(tmp_path: Path) -> None:
    planted = tmp_path / "torch-2.4.0.dist-info"
    planted.mkdir()
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.4.0\n")
    (tmp_path / "torch.py").write_text("raise SystemExit('an old torch must not be imported')")
    found = _doctor_in_a_child(f"import sys; sys.path.insert(0, {str(tmp_path)!r})", PATH=os.environ["PATH"])
    assert "2.4.0 is older than torch>=2.11" in _line(found, "torch").detail
    assert _line(found, "torch").required


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_answers")
def test_the_real_checks_here() -> None:
    found = checks.checks()
    assert _line(found, "torch").status is CheckStatus.OK
    assert "itself failed" not in str(found)
    assert checks.main_job_can_run(found)
