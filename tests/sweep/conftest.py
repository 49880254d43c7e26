"""The place where a test's sweep lies."""

from __future__ import annotations

import pytest
from sweep_place import Place


@pytest.fixture
def place(tmp_path):
    """A directory with its plan and processes, which end with the test."""
    here = Place(tmp_path)
    yield here
    here.close()
