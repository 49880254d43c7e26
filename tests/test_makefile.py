"""The commands of a new user: what `make` would do, and what it refuses. Nothing is installed here."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that make reads, in a path with a space."""
    place = tmp_path / "a checkout"
    place.mkdir()
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, place / name)
    return place


def _make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # the make that runs these tests hands its own variables on
    outer = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHON", "PRESET", "ARGS")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        ["make", *arguments], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )


def _python(path: Path, version: str, supported: bool) -> str:
    """A stand-in for an interpreter of some version."""
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit {int(not supported)}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize("target", ["run", "test", "lint"])
def test_an_old_python_is_refused_with_the_way_out(target: str, checkout: Path, tmp_path: Path) -> None:
    finished = _make(checkout, target, f"PYTHON={_python(tmp_path / 'python3.9', '3.9.18', False)}")
    assert finished.returncode != 0
    assert "needs Python 3.11 to 3.13" in finished.stderr
    assert "is Python 3.9.18." in finished.stderr
    assert f"make {target} PYTHON=python3.12" in finished.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_not_there_is_refused(checkout: Path) -> None:
    finished = _make(checkout, "run", "PYTHON=no-such-python")
    assert finished.returncode != 0
    assert "no-such-python is missing." in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "last"),
    [
        (["run"], ".venv/bin/python -m fuselab run --preset quick"),
        (["run", "PRESET=smoke"], ".venv/bin/python -m fuselab run --preset smoke"),
        (["test"], ".venv/bin/python -m pytest"),
        (["test-fast"], '.venv/bin/python -m pytest -m "not slow and not gpu"'),
        (["test-gpu"], ".venv/bin/python -m pytest -m gpu"),
        (["test-newest"], '.venv-newest/bin/python -m pytest -m "not slow and not gpu"'),
    ],
)
def test_what_a_target_ends_with(arguments: list[str], last: str, checkout: Path) -> None:
    plan = _make(checkout, "--dry-run", *arguments).stdout.strip().splitlines()
    assert plan[-1].strip() == last
    assert any("-m venv" in line for line in plan)


def test_the_gpu_tests_run_from_the_source_tree_where_nothing_can_be_installed(checkout: Path) -> None:
    plan = _make(checkout, "--dry-run", "test-gpu", "PYTHON=python3").stdout.strip().splitlines()
    assert len(plan) == 1
    assert plan[0].startswith(f'PYTHONPATH="{checkout}/src')
    assert plan[0].endswith("python3 -m pytest -m gpu")


def test_nothing_is_reinstalled_without_need(checkout: Path) -> None:
    venv = checkout / ".venv"
    venv.mkdir()
    for stamp in ("made", "installed", "installed-test", "installed-dev"):
        (venv / stamp).touch()
    assert "pip install" not in _make(checkout, "--dry-run", "lint").stdout
    newer = (venv / "installed-dev").stat().st_mtime + 10
    os.utime(checkout / "constraints.txt", (newer, newer))
    assert "pip install" in _make(checkout, "--dry-run", "lint").stdout


def test_every_target_has_a_line_of_help(checkout: Path) -> None:
    text = (checkout / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())  # type: ignore[index]
    helped = set(re.findall(r"^  make ([a-z-]+) +\S", _make(checkout, "help").stdout, re.MULTILINE))
    assert helped == phony


def test_the_constraints_are_plain_pins_of_everything_that_is_asked_for() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    pinned = {line.partition("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    asked = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["cuda"]]
    asked += [*project["build-system"]["requires"], *groups["test"], *groups["lint"]]
    names = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-") for line in asked}  # type: ignore[index]
    assert names <= pinned
