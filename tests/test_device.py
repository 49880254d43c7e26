"""The device and the environment record: what is asked of torch, what is read off the system, what is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fuselab import device, probe
from fuselab.errors import SetupError, UnknownNameError
from fuselab.records import Environment

H200 = probe.Accelerator(
    name="NVIDIA H200", capability=(9, 0), memory_bytes=150754820096, multiprocessors=132, l2_bytes=62914560
)
WITH_GPU = probe.TorchFacts(version="2.11.0+cu130", cuda="13.0", hip=None, accelerators=(H200,))
CPU_BUILD = probe.TorchFacts(version="2.13.0+cpu", cuda=None, hip=None)
DRIVERLESS = probe.TorchFacts(
    version="2.15.0+cu132", cuda="13.2", hip=None, reason="CUDA initialization: driver too old"
)
NVML = probe.NvmlFacts(driver="580.159.03", cuda="13.0", devices=("NVIDIA H200",))


@pytest.fixture(autouse=True)
def _fresh_answers() -> Iterator[None]:
    probe.forget()
    yield
    probe.forget()


def _answers(monkeypatch: pytest.MonkeyPatch, torch: probe.TorchFacts | None, nvml: probe.NvmlFacts | None) -> None:
    """Give the probe's answers; None for a question that fails."""

    def ask(facts: type[msgspec.Struct], *arguments: str, deadline_s: float = 0) -> msgspec.Struct:
        answer: msgspec.Struct | None = {probe.TorchFacts: torch, probe.NvmlFacts: nvml}[facts]  # type: ignore[index]
        if answer is None:
            raise SetupError("the probe ended with 1: ImportError: libcudart.so.13")
        return answer

    monkeypatch.setattr(probe, "ask", ask)


@pytest.mark.parametrize(
    ("wanted", "facts", "resolved"),
    [
        ("cpu", WITH_GPU, "cpu"),
        ("cpu", None, "cpu"),  # the CPU needs no look at torch
        ("auto", WITH_GPU, "cuda"),
        ("auto", CPU_BUILD, "cpu"),
        ("auto", DRIVERLESS, "cpu"),
        ("cuda", WITH_GPU, "cuda"),
    ],
)
def test_resolve(wanted: str, facts: probe.TorchFacts | None, resolved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, facts, None)
    assert device.resolve(wanted) == resolved


@pytest.mark.parametrize(
    ("wanted", "facts", "message", "hint"),
    [
        ("cuda", CPU_BUILD, "torch 2.13.0[+]cpu is a build without CUDA", "--device cpu"),
        ("cuda", DRIVERLESS, "finds no GPU [(]CUDA initialization: driver too old", "fuselab doctor"),
        ("cuda", None, "torch does not work: .*libcudart", "fuselab doctor"),
        ("auto", None, "torch does not work: .*libcudart", "fuselab doctor"),
    ],
)
def test_a_device_that_cannot_be_used_says_why_and_the_way_out(
    wanted: str, facts: probe.TorchFacts | None, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answers(monkeypatch, facts, None)
    with pytest.raises(SetupError, match=message) as error:
        device.resolve(wanted)
    assert hint in str(error.value.hint)


def test_an_unknown_device_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cuda'"):
        device.resolve("cud")


def test_the_record_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, WITH_GPU, NVML)
    record = device.environment("cuda")
    assert record.device == "NVIDIA H200"
    assert record.device_type == "cuda"
    assert record.compute_capability == "9.0"
    assert record.device_memory_bytes == 150754820096
    assert record.multiprocessors == 132
    assert record.l2_bytes == 62914560
    assert record.driver == "580.159.03"
    assert record.cuda_runtime == "13.0"
    assert record.cpu_cores >= 1
    assert msgspec.json.decode(msgspec.json.encode(record), type=Environment) == record


def test_a_gpu_without_nvml_has_a_record_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, WITH_GPU, None)
    record = device.environment("cuda")
    assert record.driver is None
    assert record.device == "NVIDIA H200"


def test_a_rocm_device_names_its_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = msgspec.structs.replace(WITH_GPU, cuda=None, hip="7.1")
    _answers(monkeypatch, facts, None)
    assert device.environment("cuda").cuda_runtime == "ROCm 7.1"


def test_the_record_of_a_cpu_asks_nothing_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, None, None)
    record = device.environment("cpu")
    assert record.device.startswith("CPU ")
    assert record.device.endswith("core" if record.cpu_cores == 1 else "cores")
    assert record.cpu in record.device
    assert record.compute_capability is None
    assert record.driver is None
    assert record.memory_bytes > 100 << 20
    assert record.python == ".".join(map(str, sys.version_info[:3]))
    assert {"fuselab", "msgspec", "numpy"} <= set(record.versions)


CANARIES = {
    "FUSELAB_TOKEN": "canary00",
    "FUSELAB_SCHEDULER": "tcp://me:canary01@host:8786",
    "FUSELAB_API_KEY": "canary02",
    "TORCHINDUCTOR_REMOTE_CACHE": "redis://canary03@cache.example:6379",
    "TORCH_LOGS_PASSWORD": "canary04",
    "TRITON_REDIS_KEY_FORMAT": "canary05",
    "TRITON_REMOTE": "https://bucket.example/x?X-Amz-Signature=canary06",
    "TORCHINDUCTOR_X": "hf_canary07AbCdEf0123456789",
    "TORCH_COMPILE_X": "ghp_canary08AbCdEf0123456789abcdef",
    "TRITON_X": "sk-proj-canary09AbCdEf0123456789",
    "OMP_X": "AKIACANARY10ABCDEF01",
    "KMP_X": "canary11deadbeefdeadbeefdeadbeefdead",
    "FUSELAB_X": "eyJhbGciOiJcanary12.eyJzdWIiOiIx.c2ln",
    "FUSELAB_PASSWD": "canary13",
    "FUSELAB_AUTH": "canary14",
    "TORCHINDUCTOR_COOKIE": "canary15",
    "AWS_SECRET_ACCESS_KEY": "canary16",
    "HF_TOKEN": "canary17",
    "HOME": "/home/canary18",
    "PATH": "/opt/canary19/bin",
    "HTTPS_PROXY": "http://canary20:pw@proxy:3128",
    "TRITON_Y": "-----BEGIN PRIVATE KEY-----\ncanary21\n-----END PRIVATE KEY-----",
}


def test_no_planted_canary_reaches_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        if name != "PATH":  # the compiler is looked up on it
            monkeypatch.setenv(name, value)
    written = msgspec.json.encode(device.environment("cpu")).decode()
    assert "canary" not in written.lower()
    assert "canary" not in str(device.variables(CANARIES)).lower()
    assert '"OMP_X":"<withheld>"' in written


SETTINGS = {
    "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor_me/fxgraph",
    "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_BACKENDS": "ATEN,TRITON,CUTLASS",
    "TORCH_LOGS": "+dynamo,output_code,graph_breaks",
    "TORCH_COMPILE_DISABLE": "0",
    "TRITON_INTERPRET": "1",
    "TRITON_OVERRIDE_ARCH": "sm_90a",
    "TRITON_CACHE_DIR": "runs/rms_norm/20261122T201500Z-1f2e3d4c/caches",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "OMP_NUM_THREADS": "2",
    "FUSELAB_OUT": "/data/runs",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "GOMP_CPU_AFFINITY": "0-3 8",
    "CXX": "/usr/bin/g++-12",
}


def test_settings_are_recorded_as_they_are() -> None:
    noise = {"HOME": "/root", "TERM": "xterm", "EDITOR": "vi", "AWS_PROFILE": "x"}
    assert device.variables({**SETTINGS, **noise}) == dict(sorted(SETTINGS.items()))


@pytest.mark.parametrize(
    ("caches", "size"),
    [
        (
            {"index0": (1, "48K", "Data"), "index1": (1, "32K", "Instruction"), "index2": (2, "1024K", "Unified")},
            1 << 20,
        ),
        ({"index0": (1, "48K", "Data"), "index3": (3, "32768K", "Unified")}, 32 << 20),
        ({"index0": (1, "32K", "Data"), "index9": (9, "64K", "Instruction")}, 32 << 10),
    ],
)
def test_the_last_level_cache_is_read_from_sys(
    caches: dict[str, tuple[int, str, str]], size: int, tmp_path: Path
) -> None:
    core = min(os.sched_getaffinity(0))
    for index, (level, text, kind) in caches.items():
        place = tmp_path / f"cpu{core}" / "cache" / index
        place.mkdir(parents=True)
        for name, value in (("level", level), ("size", text), ("type", kind)):
            (place / name).write_text(f"{value}\n")
    assert device.last_level_cache_bytes(tmp_path) == size


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("model name\t: AMD EPYC 9654 96-Core Processor\n", "AMD EPYC 9654"),
        ("model name\t: Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz\n", "Intel Xeon Platinum 8480C"),
        ("Model\t\t: Raspberry Pi 5 Model B\n", "Raspberry Pi 5 Model B"),
        ("processor\t: 0\n", os.uname().machine),
    ],
)
def test_the_processor_is_named_as_people_name_it(cpuinfo: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_text", lambda path: cpuinfo)
    assert device.cpu_model.__wrapped__() == model


NOBODY = """
import pwd
def nobody(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
"""


def test_the_record_needs_neither_home_nor_a_passwd_entry() -> None:
    code = f"""{NOBODY}
import sys, msgspec
from fuselab import device
print(msgspec.json.encode(device.environment('cpu')).decode())
sys.exit(any(m in sys.modules for m in ('torch', 'triton')))
"""
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(device.__file__).parents[1])}
    finished = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert msgspec.json.decode(finished.stdout, type=Environment).device_type == "cpu"


@pytest.mark.gpu
def test_the_gpu_that_is_here() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    assert device.resolve("auto") == "cuda"
    record = device.environment("cuda")
    assert record.device == torch.cuda.get_device_name(0)
    assert record.compute_capability == "{}.{}".format(*torch.cuda.get_device_capability(0))
    assert record.l2_bytes
    assert record.l2_bytes > 1 << 20
    assert record.driver
