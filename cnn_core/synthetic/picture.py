"""One picture of a house number: a wall, clutter, a plate, the digits, light and a camera; and its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from cnn_core.params import Params, bounded
from cnn_core.synthetic.canvas import chance
from cnn_core.synthetic.clutter import clutter, light
from cnn_core.synthetic.digits import LUMA, WIDEST, RowStyle, Stamp, colour_of_luma, digit_colours, lay_row, stamp_row
from cnn_core.synthetic.walls import RowPlace, sign, wall

_BLUR_SIDE = 160  # pixels of the side that ``blur`` refers to
_DARKEST, _BRIGHTEST = 0.02, 0.98  # luma of digits


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComposeParams(Params):
    """The section ``compose.<set>``. Sizes are shares of the side of the square pictures unless a comment says else."""

    source: str  # a RAW set of digits, which the stage ingest writes
    train: int = bounded(1, 999_999)  # pictures
    val: int = bounded(1, 999_999)
    test: int = bounded(1, 999_999)
    side: int = bounded(64, 1280)  # pixels
    digits_min: int = bounded(0, 12)  # digits in a picture; each number is equally frequent
    digits_max: int = bounded(1, 12)
    size_min: float = bounded(0.03, 0.9)  # height of a digit
    size_max: float = bounded(0.03, 0.9)
    smallest: int = bounded(8, 640)  # pixels: no row is reduced below this to fit in
    rotation: float = bounded(0, 45)  # degrees, of each digit, up to +- this
    tilt: float = bounded(0, 45)  # degrees, of the whole row
    jitter: float = bounded(0, 0.5)  # of a digit up or down, in heights
    spacing_min: float = bounded(0, 2)  # between neighbours, in heights
    spacing_max: float = bounded(0, 2)
    overlap: float = bounded(0, 0.4)  # of the narrower neighbour's width, at most
    overlap_rate: float = bounded(0, 1)  # share of neighbours that overlap
    contrast_min: float = bounded(0.05, 0.3)  # luma (0..1) between a digit and its background, before blur and noise
    contrast_max: float = bounded(0.05, 0.9)
    light_on_dark: float = bounded(0, 1)  # share of the numbers
    signs: float = bounded(0, 1)  # share of the numbers that hang on a plate
    shade: float = bounded(0, 1)  # strength of light gradients and shadows
    clutter: int = bounded(0, 30)  # other things in a picture, at most
    blur: float = bounded(0, 5)  # sigma in pixels of a picture of 160, at most
    noise: float = bounded(0, 0.3)  # standard deviation (0..1), at most
    jpeg_quality: int = bounded(0, 100)  # 0 = PNG
    seed: int = bounded(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("digits", "size", "spacing", "contrast"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(f"{name}_min must be at most {name}_max, {high}, not {low}")
        widest = self.digits_max * self.smallest * (WIDEST + self.spacing_max)
        if widest > self.side:
            raise ValueError(
                f"smallest must leave room: {self.digits_max} digits {self.smallest} pixels high can be "
                f"{widest:.0f} pixels wide, more than the side of {self.side}; lower smallest or digits_max"
            )

    def style(self) -> RowStyle:
        same = {name: getattr(self, name) for name in ("smallest", "rotation", "tilt", "jitter", "overlap")}
        height = (self.size_min * self.side, self.size_max * self.side)
        spacing = (self.spacing_min, self.spacing_max)
        return RowStyle(height=height, spacing=spacing, overlap_rate=self.overlap_rate, **same)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComposedPicture:
    """A picture, uint8 (side, side, 3) RGB, and for each digit the mask of what is visible of it, bool (side, side)."""

    image: np.ndarray
    masks: list[np.ndarray]


def draw_picture(rng: np.random.Generator, inks: Sequence[np.ndarray], params: ComposeParams) -> ComposedPicture:
    """Draw a wall, clutter, a plate, digits (float32 (h, w) in 0..1 each, or none), light and a camera."""
    side = params.side
    ground = (wall(rng, side) * 255).astype(np.uint8)
    if len(inks):
        row, matrices = lay_row(rng, inks, side, params.style())
    else:
        row, matrices = RowPlace(x=0.0, y=0.0, width=0.0, height=0.0, tilt=0.0), []
    clutter(rng, ground, row, int(rng.integers(params.clutter + 1)))
    if len(inks) and chance(rng, params.signs):
        sign(rng, ground, row)
    stamps = stamp_row(inks, matrices, side)
    picture = ground.astype(np.float32) / 255
    lit = light(rng, side, params.shade) * np.float32(1 - rng.uniform(0, 0.2 * params.shade))
    if stamps:
        picture = paint(rng, picture, lit, stamps, params)
    image = photograph(rng, picture * lit[..., None], params)
    return ComposedPicture(image=image, masks=[_full_mask(stamp, side) for stamp in stamps])


def paint(
    rng: np.random.Generator, picture: np.ndarray, lit: np.ndarray, stamps: Sequence[Stamp], params: ComposeParams
) -> np.ndarray:
    """Paint the digits on the picture, float32 (side, side, 3), with the parameters' contrast after the light has
    fallen on them. If no colour has it, the wall is first brightened or darkened."""
    luma = picture @ LUMA
    grounds = np.array([_grounds(luma, stamp) for stamp in stamps])  # (n, 2) lowest, highest
    light_digits = chance(rng, params.light_on_dark)
    falls = np.array([float(lit[stamp.area].min()) for stamp in stamps])
    contrast = rng.uniform(params.contrast_min, params.contrast_max)
    needed = np.minimum(contrast / falls, _BRIGHTEST - 2 * _DARKEST)
    if light_digits:
        gain = min(1.0, float(((_BRIGHTEST - needed) / np.maximum(grounds[:, 1], 1e-6)).min()))
        picture, level = picture * np.float32(gain), float((grounds[:, 1] * gain + needed).max())
        lumas = level + rng.uniform(0, 0.05, len(stamps)) * (_BRIGHTEST - level)
    else:
        lift = max(0.0, float(((_DARKEST + needed - grounds[:, 0]) / np.maximum(1 - grounds[:, 0], 1e-6)).max()))
        picture = picture + (1 - picture) * np.float32(lift)
        level = float((grounds[:, 0] + (1 - grounds[:, 0]) * lift - needed).min())
        lumas = level * (1 - rng.uniform(0, 0.2, len(stamps)))
    colours = digit_colours(rng, len(stamps))
    if light_digits and chance(rng, 0.3):
        _cast(picture, stamps, max(1, round(0.05 * np.mean([len(stamp.alpha) for stamp in stamps]))))
    for stamp, colour, luma_ in zip(stamps, colours, lumas, strict=True):
        spot = picture[stamp.area]
        spot += (colour_of_luma(colour, luma_) - spot) * stamp.alpha[..., None]
    return picture


def _grounds(luma: np.ndarray, stamp: Stamp) -> tuple[float, float]:
    """The mean luma behind a digit and of its surroundings, the lower one first."""
    spot = luma[stamp.area]
    below, around = float(spot[stamp.visible].mean()), float(spot.mean())
    return min(below, around), max(below, around)


def _cast(picture: np.ndarray, stamps: Sequence[Stamp], shift: int) -> None:
    side = len(picture)
    cover = np.zeros((side + shift, side + shift), np.float32)
    for stamp in stamps:
        rows, columns = stamp.area
        spot = cover[rows.start + shift : rows.stop + shift, columns.start + shift : columns.stop + shift]
        np.maximum(spot, stamp.alpha, out=spot)
    picture *= 1 - 0.5 * cv2.GaussianBlur(cover[:side, :side], (0, 0), 0.5 * shift)[..., None]


def photograph(rng: np.random.Generator, picture: np.ndarray, params: ComposeParams) -> np.ndarray:
    """Photograph a picture, float32 (side, side, 3) in 0..1, as uint8: colour cast, lens, grain."""
    cast = np.exp(0.05 * rng.standard_normal(3, np.float32))
    picture = picture * (cast / (cast @ LUMA))  # the luma of grey stays the same
    sigma = rng.uniform(0, params.blur) * params.side / _BLUR_SIDE
    if sigma > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    grain = rng.uniform(0, params.noise)
    if grain:
        picture = picture + np.float32(grain) * rng.standard_normal(picture.shape, np.float32)
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _full_mask(stamp: Stamp, side: int) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[stamp.area] = stamp.visible
    return mask
