"""Fixtures for the tests of ``tasks``."""

from __future__ import annotations

from tests.helpers.threads import one_thread  # noqa: F401  (pytest finds the fixture here)
