"""Versions are compared as numbers."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from fuselab.versions import TRITON_OF_TORCH, installed, release, satisfies, wanted_triton


@pytest.mark.parametrize(
    ("older", "newer"),
    [("2.9.1", "2.11.0"), ("2.13.0+cpu", "2.13.1"), ("3.6", "3.10.0"), ("2.12.0.dev20260101", "2.12.1"), ("9", "10")],
)
def test_releases_compare_as_numbers(older: str, newer: str) -> None:
    assert release(older) < release(newer)


@pytest.mark.parametrize(
    ("version", "specifier", "kept"),
    [
        ("3.7.1", "==3.7.1", True),
        ("3.7.1+git1", "==3.7.1", True),
        ("3.7", "==3.7.0", True),
        ("3.7.0", "==3.7.1", False),
        ("3.10.0", ">=3.6", True),
        ("3.6.0", ">=3.10", False),
        ("3.9.4", "~=3.9.0", True),
        ("3.10.0", "~=3.9.0", False),
        ("3.8.9", "~=3.9.0", False),
        ("3.9.4", ">=3.9,<3.10", True),
        ("3.10.0", ">=3.9,<3.10", False),
        ("3.9.4", "==3.9.*", True),
        ("3.9.4", "!=3.9.4", False),
        ("1.0", "", True),
    ],
)
def test_satisfies(version: str, specifier: str, kept: bool) -> None:
    assert satisfies(version, specifier) is kept


@pytest.mark.parametrize(
    ("torch", "requirements", "wanted"),
    [
        # A CUDA build says it itself, in the words of its own release ...
        ("2.13.0", ['triton==3.7.1; platform_system == "Linux"'], "==3.7.1"),
        (
            "2.15.0",
            ["sympy>=1.13.3", 'triton~=3.9.0; platform_system == "Linux" and python_version < "4"'],
            "~=3.9.0",
        ),
        ("2.13.0+rocm7.1", ["pytorch-triton-rocm (==3.7.1)"], "==3.7.1"),
        ("2.99.0", ["triton==4.0.0"], "==4.0.0"),
        # ... a CPU build does not, and the table does.
        ("2.11.0+cpu", ["sympy"], "==3.6.0"),
        ("2.13.0+cpu", [], "==3.7.1"),
        ("2.99.0+cpu", [], ""),
    ],
)
def test_which_triton_a_torch_asks_for(torch: str, requirements: list[str], wanted: str) -> None:
    assert wanted_triton(torch, requirements) == wanted


def test_the_constraints_pin_the_triton_that_their_torch_asks_for() -> None:
    lines = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    assert satisfies(pins["triton"], TRITON_OF_TORCH[release(pins["torch"])[:2]])


def test_installed_reads_metadata_and_not_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "planted_package-1.2.3.dist-info"
    planted.mkdir()
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-package\nVersion: 1.2.3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed("planted-package") == "1.2.3"
    assert installed("no-such-package") is None
    assert installed("pytest") == importlib.metadata.version("pytest")
