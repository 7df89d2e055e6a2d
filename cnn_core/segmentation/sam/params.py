"""The sizes of SAM networks, without torch, so that a process that only reads parameters starts fast."""

from __future__ import annotations

import dataclasses

from cnn_core.params import Params, bounded

INPUT_STRIDE = 32  # the sides of a network's input are multiples of it, in pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallSamParams(Params):
    """The sizes of a small SAM, `cnn_core.segmentation.sam.small`."""

    widths: tuple[int, int, int, int]  # of TinyViT's stages, at strides 4, 8, 16, 16
    depths: tuple[int, int, int, int]  # their blocks: convolutions in the first, windowed attention in the others
    windows: tuple[int, int, int]  # side of the attention's windows in the last three, in places
    head_width: int = bounded(8, 128)  # channels of an attention head of the encoder
    dim: int = bounded(16, 256)  # width of prompts and mask decoder; 256 in the official ones
    layers: int = bounded(1, 8)  # of the decoder's transformer; 2 in the official ones
    heads: int = bounded(1, 16)  # 8
    mlp_dim: int = bounded(16, 4096)  # 2048
    frequency: float = bounded(above=0)  # of the random waves that encode positions; 1 in the official ones

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(width % self.head_width for width in self.widths[1:]):
            raise ValueError(f"widths must be multiples of head_width ({self.head_width}) but for the first")
        if self.dim % 8 or self.dim // 2 % self.heads:
            raise ValueError(f"dim must be a multiple of 8 and of 2 x heads ({self.heads}), not {self.dim}")
        if min(self.depths) < 0 or min(self.widths) < 2 or min(self.windows) < 1:
            raise ValueError("widths, depths and windows must be positive")
