"""Recorded output of the compiler, what is expected of it, and kernels compiled for a GPU that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden",
        action="store_true",
        default=False,
        help="rewrite the golden files of the capture tests",
    )


@pytest.fixture
def recorded() -> Callable[[str], str]:
    """Text of a file in ``recorded/``: output code of torch 2.13 for a CPU, or for a described H200."""
    return lambda name: (HERE / "recorded" / f"{name}.txt").read_text()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compare a value with ``golden/<name>.json``; ``pytest tests/capture --regenerate-golden`` rewrites it."""

    def compare(name: str, value: Any) -> None:
        path = HERE / "golden" / f"{name}.json"
        text = json.dumps(value, indent=1) + "\n"
        if request.config.getoption("--regenerate-golden", default=False):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert json.loads(text) == json.loads(path.read_text())

    return compare


def _clean_environment(**changes: str) -> dict[str, str]:
    """This process's variables without those that steer a compiler."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("TRITON_", "TORCHINDUCTOR_", "INDUCTOR_", "TORCH_"))
    }
    return {**kept, **changes}


@pytest.fixture
def clean_environment() -> Callable[..., dict[str, str]]:
    """The variables to start a process with that compiles: none that steer a compiler, and the changes given."""
    return _clean_environment


@pytest.fixture(scope="session")
def hopper_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory in which the recorded backward's Triton kernels were compiled for an H200, by Triton itself."""
    pytest.importorskip("triton")
    caches = tmp_path_factory.mktemp("hopper")
    module = HERE / "recorded" / "layer_norm_gelu_backward.h200.txt"
    places = {"TRITON_CACHE_DIR": str(caches / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
    command = [sys.executable, str(HERE / "compile_recorded.py"), str(module), str(caches)]
    subprocess.run(command, check=True, env=_clean_environment(**places), timeout=240)
    return caches
