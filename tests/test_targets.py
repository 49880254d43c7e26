"""Described devices: names, matching, and the arithmetic that any true figure obeys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fuselab import targets
from fuselab.errors import UnknownNameError, UsageError


@pytest.mark.parametrize(
    ("written", "name"),
    [("h200", "h200"), ("H200", "h200"), ("RTX 4090", "rtx4090"), ("rtx-5090", "rtx5090"), ("A100_40GB", "a100-40gb")],
)
def test_find_reads_the_ways_people_write_a_name(written: str, name: str) -> None:
    assert targets.find(written).name == name


def test_an_unknown_target_answers_with_the_nearest_and_the_list() -> None:
    with pytest.raises(UnknownNameError, match="unknown target 'h20'; did you mean 'h200'") as error:
        targets.find("h20")
    assert "mi300x" in str(error.value.hint)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("device_name", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("AMD Instinct MI300X", "mi300x"),
        # Namesakes with other figures have no target.
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA L40", None),
        ("CPU AMD EPYC, 2 cores", None),
        ("", None),
    ],
)
def test_match_maps_whole_device_names(device_name: str, name: str | None) -> None:
    target = targets.match(device_name)
    assert (target.name if target else None) == name


def test_the_devices_that_the_project_promises_are_described() -> None:
    promised = {"a100", "a100-40gb", "h100", "h100-pcie", "h200", "b200", "l4", "l40s", "rtx3090", "rtx4090"}
    assert promised | {"rtx5090", "mi300x", "mi355x"} <= set(targets.TARGETS)


@pytest.mark.parametrize("target", targets.TARGETS.values(), ids=lambda target: target.name)
def test_figures_are_consistent(target: targets.Target) -> None:
    assert target.source
    assert target.name == target.name.lower()
    assert targets.match(target.device_name) is target
    assert targets.find(target.name) is target
    amd = target.arch.startswith("gfx")
    if amd:
        assert target.compute_capability is None
    else:
        assert target.compute_capability is not None
        assert target.arch == "sm_{}{}".format(*target.compute_capability)
    assert target.warp_size == (64 if amd else 32)
    assert target.shared_bytes_per_block <= target.shared_bytes_per_multiprocessor
    assert target.l2_bytes <= target.last_level_bytes < target.memory_bytes
    assert target.max_threads_per_multiprocessor % target.warp_size == 0
    assert 0.2e12 < target.bandwidth_bytes_per_s < 10e12
    # A multiprocessor issues 128 f32 multiply-adds a clock (A100: 64; CDNA: 256 with dual issue) at 1.0 to 3.0 GHz.
    if target.f32_flops is not None:
        lanes = 256 if amd else 64 if target.arch == "sm_80" else 128
        clock_hz = target.f32_flops / (2 * lanes * target.multiprocessors)
        assert 0.9e9 < clock_hz < 3.0e9
    assert target.bf16_flops is not None
    assert target.bf16_flops > (target.f32_flops or 0)
    assert target.f16_flops == target.bf16_flops


def test_a_target_is_frozen_and_survives_json() -> None:
    target = targets.find("b200")
    assert msgspec.json.decode(msgspec.json.encode(target), type=targets.Target) == target
    with pytest.raises(AttributeError):
        target.multiprocessors = 1  # type: ignore[misc]


def test_importing_targets_imports_no_torch() -> None:
    code = "import sys, fuselab.targets; sys.exit(any(m in sys.modules for m in ('torch', 'triton', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


OWN = """
[target.h20]
device_name = "NVIDIA H20"
arch = "sm_90"
multiprocessors = 78
bandwidth_tb_per_s = 4.0
memory_gib = 96
l2_mib = 60
bf16_tflops = 148
[target.h20.sources]
multiprocessors = "driver"
bandwidth = "datasheet"
memory = "datasheet"
l2 = "driver"
rates = "datasheet"
"""


def test_a_file_adds_a_device(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    known = targets.read(path)
    found = targets.find("H20", known)
    assert (found.multiprocessors, found.warp_size, found.compute_capability) == (78, 32, (9, 0))
    assert found.bandwidth_bytes_per_s == 4.0e12
    assert found.f32_flops is None
    assert found.sources["bandwidth"] == "datasheet"
    assert set(targets.TARGETS) < set(known)
    assert "h20" not in targets.TARGETS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("sm_90", "sm_42"), "limits are not known"),
        (('rates = "datasheet"\n', ""), "does not say where rates"),
        (("multiprocessors = 78", 'multiprocessors = "78"'), "does not describe devices"),
        (("l2_mib", "l2_mb"), "does not describe devices"),
        (("[target.h20]\n", "[target.h20\n"), "does not describe devices"),
    ],
)
def test_a_file_that_does_not_describe_a_device_is_named(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(UsageError, match=words) as error:
        targets.read(path)
    assert str(path) in str(error.value)


def test_bytes_that_are_no_text_are_no_devices(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"mine\.toml does not describe devices"):
        targets.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        targets.read(tmp_path / "none.toml")


@pytest.mark.parametrize("target", targets.TARGETS.values(), ids=lambda target: target.name)
def test_each_figure_names_its_document(target: targets.Target) -> None:
    assert set(target.sources) >= {"multiprocessors", "bandwidth", "memory", "l2", "rates", "limits"}
    assert all(target.sources.values())
