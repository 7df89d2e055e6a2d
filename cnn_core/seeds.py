"""Random numbers by what they are for (seed, epoch, step, rank), never from a stream that is carried along: so an
interrupted run goes on exactly as it would have gone, and a change in one place changes no number in another.
"""

from __future__ import annotations

import hashlib

import torch


def mixed_seed(*parts: object) -> int:
    """One 63-bit seed from several numbers, so that (1, 2) and (2, 1) are unrelated."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def generator(device: torch.device, *parts: object) -> torch.Generator:
    return torch.Generator(device).manual_seed(mixed_seed(*parts))
