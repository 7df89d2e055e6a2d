"""Random numbers that follow from their purpose (seed, epoch, step, rank), never from a stream that is carried along.

So an interrupted run goes on exactly as it would have gone, and a change in one place changes no number in another.
"""

from __future__ import annotations

import hashlib

import torch


def mixed_seed(*parts: object) -> int:
    """Mix several values into one 63-bit seed, so that (1, 2) and (2, 1) give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(device: torch.device, *parts: object) -> torch.Generator:
    """A generator on ``device``, seeded by `mixed_seed`."""
    return torch.Generator(device).manual_seed(mixed_seed(*parts))
