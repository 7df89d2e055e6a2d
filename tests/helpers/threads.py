"""Tiny tensors are computed fastest by one thread, and on a busy machine by far."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute with one thread in this process."""
    torch.set_num_threads(1)
