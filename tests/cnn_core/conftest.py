"""Fixtures for the tests of ``cnn_core``."""

from __future__ import annotations

from tests.helpers.threads import one_thread  # noqa: F401  (pytest finds the fixture here)
