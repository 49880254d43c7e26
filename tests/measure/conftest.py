"""Fixtures of the tests of measuring."""

from __future__ import annotations

import gc

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors on a busy machine: threads that wait for each other take longer than the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_memory_kept(request):
    """Of a GPU, which tests in other processes share: torch keeps what a test freed, and 18 GB of it were seen."""
    yield
    if request.node.get_closest_marker("gpu") and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
