"""A package for another machine is refused by name: what differs, both values, the way out."""

from __future__ import annotations

import msgspec
import pytest
from package_factory import MACHINE

from fuselab.deploy.machine import ForeignPackageError, cpu_features, differences, machine_here, require_same_machine

GPU = msgspec.structs.replace(MACHINE, device_type="cuda", device="NVIDIA H200", capability="9.0", cuda="13.0")


@pytest.mark.parametrize(
    ("package", "change", "what", "package_value", "here_value", "remedy"),
    [
        (MACHINE, {"torch": "2.15.0+cpu"}, "torch", "2.13.0+cpu", "2.15.0+cpu", "pip install torch==2.13.0+cpu"),
        (MACHINE, {"triton": None}, "triton", "3.7.1", "none", "pip install triton==3.7.1"),
        (MACHINE, {"python": "cpython-312"}, "Python", "cpython-311", "cpython-312", "pack again with Python"),
        (MACHINE, {"python": "cpython-311t"}, "Python", "cpython-311", "cpython-311t", "pack again with Python"),
        (MACHINE, {"architecture": "aarch64"}, "architecture", "x86_64", "aarch64", "pack again"),
        (MACHINE, {"libc": "glibc 2.9"}, "C library", "glibc 2.36", "glibc 2.9", "or older"),
        (MACHINE, {"libc": "musl 1.2"}, "C library", "glibc 2.36", "musl 1.2", "or older"),
        (MACHINE, {"cpu_features": ["avx", "sse4_2"]}, "CPU features", "avx2, fma", "without", "oldest processor"),
        (MACHINE, {"cpu_isa": "AVX512"}, "CPU instruction set", "AVX2", "AVX512", "ATEN_CPU_CAPABILITY"),
        (MACHINE, {"cpu_threads": 8}, "CPU threads", "2", "8", "OMP_NUM_THREADS=2"),
        (MACHINE, {"device_type": "cuda"}, "device type", "cpu", "cuda", "pack again"),
        (GPU, {"device": "NVIDIA H100"}, "GPU", "NVIDIA H200", "NVIDIA H100", "pack again on NVIDIA H100"),
        (GPU, {"capability": "10.0"}, "compute capability", "9.0", "10.0", "pack again"),
        (GPU, {"cuda": "12.8"}, "CUDA of torch", "13.0", "12.8", "same build"),
    ],
)
def test_what_differs_is_named_with_both_values(package, change, what, package_value, here_value, remedy):
    here = msgspec.structs.replace(package, **change)
    (found,) = differences(package, here)
    assert (found.what, found.package) == (what, package_value)
    assert here_value in found.here
    assert remedy in found.remedy
    with pytest.raises(ForeignPackageError) as caught:
        require_same_machine(package, here, "model.pack")
    assert f"{what}: the package has {package_value}" in caught.value.message
    assert remedy in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("package", "change"),
    [
        (MACHINE, {}),
        (MACHINE, {"libc": "glibc 2.41"}),
        (MACHINE, {"device": "AMD EPYC 9654"}),
        (MACHINE, {"cpu_features": ["avx", "avx2", "avx512f", "fma", "sse4_2"]}),
        (MACHINE, {"variables": {"TORCHINDUCTOR_MAX_AUTOTUNE": "1"}}),
        (GPU, {"cpu_threads": 64}),
    ],
)
def test_what_does_no_harm_is_no_difference(package, change):
    assert differences(package, msgspec.structs.replace(package, **change)) == []


def test_features_that_no_compiler_uses_do_not_matter():
    package = msgspec.structs.replace(MACHINE, cpu_features=["avx", "hypervisor", "tsc_adjust"])
    assert differences(package, msgspec.structs.replace(MACHINE, cpu_features=["avx"])) == []


def test_all_differences_are_named_at_once():
    here = msgspec.structs.replace(MACHINE, torch="2.11.0", triton="3.6.0", python="cpython-312")
    with pytest.raises(ForeignPackageError) as caught:
        require_same_machine(MACHINE, here, "model.pack")
    assert [d.what for d in caught.value.differences] == ["torch", "triton", "Python"]


def test_this_machine_is_its_own():
    here = machine_here("cpu")
    assert differences(here, machine_here("cpu")) == []
    assert here.torch
    assert here.cpu_threads > 0


def test_features_are_read_from_what_the_kernel_lists(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: sse avx2 avx\nprocessor\t: 1\nflags\t\t: sse avx2 avx\n")
    assert cpu_features(cpuinfo) == ["avx", "avx2", "sse"]
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd sve\n")
    assert cpu_features(cpuinfo) == ["asimd", "fp", "sve"]
    assert cpu_features(tmp_path / "missing") == []
