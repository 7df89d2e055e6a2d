"""Tiny tensors are computed fastest by one thread, and on a busy machine by far."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
