"""Makes ``operator_cases`` importable from the folder below as well, and the GPU tests skip where there is none."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    """Skip tests marked ``gpu`` in this folder without a GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu") and "tests/ops" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
