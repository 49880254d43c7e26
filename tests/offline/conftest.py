"""The described device is built once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def described(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for runs; the library is taken from the tests' own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path
