"""The panels of a `grid.GridView`, for somebody who learns how such a detector works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnn_core.detection.evaluation.grid import GridView, Level
from cnn_core.drawing.boxes import draw_box, enlarged
from cnn_core.drawing.colours import class_colour, ink_on
from cnn_core.drawing.text import drawable

_PANEL, _GAP, _ACROSS = 400, 24, 3  # pixels, pixels, panels in a row
_INK, _FAINT, _LINE = (30, 30, 30), (100, 100, 100), (255, 255, 255)
_TEXT = 15
_LEAST_LINED = 8  # pixels; lines between smaller cells would hide them
_LEAST_NAMED = 17  # pixels; a smaller cell has no room for its class's name


def draw_grid(path: str | Path, view: GridView) -> None:
    """Write one PNG: the input under its grid, a class map of each grid, all boxes, those kept."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _sheet(view).save(path)


def _sheet(view: GridView) -> Image.Image:
    maps = [_class_map(view, level) for level in range(len(view.levels))]
    panels = [_input(view), *maps, _before(view), _after(view)]
    texts = _captions(view)
    font, bold = ImageFont.load_default(_TEXT), ImageFont.load_default(_TEXT + 6)
    wrapped = [_wrapped(text, font) for text in texts]
    text_height = max(text.count("\n") + 1 for text in wrapped) * (_TEXT + 5) + _GAP
    high = max(panel.height for panel in panels)
    rows = -(-len(panels) // _ACROSS)
    top = 104
    width = _ACROSS * (_PANEL + _GAP) + _GAP
    sheet = Image.new("RGB", (width, top + rows * (high + text_height)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 16), "What a YOLO detector sees: one look, a grid of cells, and the best boxes", _INK, bold)
    draw.text((_GAP, 46), "After Redmon et al., You Only Look Once (2016), figure 2", _FAINT, font)
    _legend(draw, view, 76)
    for number, (panel, text) in enumerate(zip(panels, wrapped, strict=True)):
        row, column = divmod(number, _ACROSS)
        at = (_GAP + column * (_PANEL + _GAP), top + row * (high + text_height))
        sheet.paste(panel, at)
        draw.multiline_text((at[0], at[1] + panel.height + 8), text, _INK, font, spacing=5)
    return sheet


def _captions(view: GridView) -> list[str]:
    sizes = [f"{level.scores.shape[0]} x {level.scores.shape[1]}" for level in view.levels]
    main = _main_level(view)
    height, width = view.image.shape[:2]
    maps = []
    for number, (level, size) in enumerate(zip(view.levels, sizes, strict=True)):
        pixels = round(height / level.scores.shape[0])
        kind = {0: " (fine: for small objects)", len(sizes) - 1: " (coarse: for large ones)"}.get(number, "")
        text = f"{number + 2}. The class map of {size} cells of {pixels} pixels{kind}"
        maps.append(f"{text}. Colour: the likeliest class; the stronger, the surer.")
    first = (
        f"1. The input, {width} x {height} pixels, under a grid. The network answers for every cell of "
        f"{_listed(sizes)} at once; shown: {sizes[main]}. A dot: a cell there whose box is kept in the end."
    )
    after = len(sizes) + 2
    dropped = len(view.boxes) - len(view.kept)
    return [
        first,
        *maps,
        f"{after}. Every box with a score of at least {view.conf:g}: {len(view.boxes)}, the thicker the surer. "
        "Neighbouring cells find the same object.",
        f"{after + 1}. After non-maximum suppression: of boxes of one class that overlap by an IoU above {view.iou:g} "
        f"only the best stays. {dropped} gone, {len(view.kept)} kept.",
    ]


def _input(view: GridView) -> Image.Image:
    number = _main_level(view)
    canvas, _ = enlarged(view.image, _PANEL)
    draw = ImageDraw.Draw(canvas)
    shape = view.levels[number].scores.shape
    _lines(draw, canvas.size, shape)
    for index in view.kept:
        level, row, column = view.cells[index]
        if level == number:
            cell = _cell(canvas.size, shape, row, column)
            colour = class_colour(int(view.classes[index]))
            draw.rectangle(cell, outline=colour, width=3)
            x, y = (cell[0] + cell[2]) / 2, (cell[1] + cell[3]) / 2
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour, outline=_LINE)
    return canvas


def _class_map(view: GridView, number: int) -> Image.Image:
    level = view.levels[number]
    canvas, _ = enlarged(_pale(view.image), _PANEL)
    colours = np.array([class_colour(int(name)) for name in level.classes.ravel()], np.uint8).reshape(
        *level.classes.shape, 3
    )
    strength = np.round(255 * 0.9 * level.scores).astype(np.uint8)
    cells = Image.fromarray(colours).resize(canvas.size, Image.Resampling.NEAREST)
    alpha = Image.fromarray(strength).resize(canvas.size, Image.Resampling.NEAREST)
    canvas.paste(cells, (0, 0), alpha)
    draw = ImageDraw.Draw(canvas)
    _lines(draw, canvas.size, level.scores.shape)
    _names(draw, canvas.size, view, level)
    return canvas


def _names(draw: ImageDraw.ImageDraw, size: tuple[int, int], view: GridView, level: Level) -> None:
    """Write the class into every cell that is sure of it, where there is room."""
    rows, columns = level.scores.shape
    side = min(size[0] / columns, size[1] / rows)
    if side < _LEAST_NAMED:
        return
    font = ImageFont.load_default(min(22, side * 0.55))
    for row, column in zip(*np.nonzero(level.scores >= view.conf), strict=True):
        name = drawable(view.names[int(level.classes[row, column])])
        if font.getlength(name) > side - 2:
            continue
        left, top, right, bottom = _cell(size, level.scores.shape, row, column)
        colour = class_colour(int(level.classes[row, column]))
        ink = ink_on(colour) if level.scores[row, column] > 0.5 else (0, 0, 0)
        draw.text(((left + right) / 2, (top + bottom) / 2), name, ink, font, anchor="mm")


def _before(view: GridView) -> Image.Image:
    canvas, scale = enlarged(_pale(view.image), _PANEL)
    draw = ImageDraw.Draw(canvas)
    for index in np.argsort(view.scores, kind="stable"):  # the surest on top
        width = 1 + round(3 * float(view.scores[index]))
        draw_box(draw, scale * view.boxes[index], class_colour(int(view.classes[index])), width=width)
    return canvas


def _after(view: GridView) -> Image.Image:
    canvas, scale = enlarged(view.image, _PANEL)
    draw = ImageDraw.Draw(canvas)
    for index in view.kept[::-1]:
        number = int(view.classes[index])
        text = f"{view.names[number]} {view.scores[index]:.0%}"
        draw_box(draw, scale * view.boxes[index], class_colour(number), text=text, width=3)
    return canvas


def _main_level(view: GridView) -> int:
    """The grid that most of the kept boxes come from; without any box, the middle one."""
    if not len(view.kept):
        return len(view.levels) // 2
    return int(np.bincount(view.cells[view.kept, 0], minlength=len(view.levels)).argmax())


def _legend(draw: ImageDraw.ImageDraw, view: GridView, top: int) -> None:
    """Draw the legend: the classes that any sure cell predicts, in their colours."""
    font, x = ImageFont.load_default(_TEXT), float(_GAP)
    for number in np.unique(view.classes):
        name = drawable(view.names[int(number)])
        if x + font.getlength(name) + 40 > _ACROSS * (_PANEL + _GAP):
            draw.text((x, top + 8), "…", _FAINT, font, anchor="lm")
            return
        draw.rectangle((x, top, x + 16, top + 16), fill=class_colour(int(number)))
        draw.text((x + 22, top + 8), name, _INK, font, anchor="lm")
        x += font.getlength(name) + 44


def _lines(draw: ImageDraw.ImageDraw, size: tuple[int, int], shape: Sequence[int]) -> None:
    if min(size[0] / shape[1], size[1] / shape[0]) < _LEAST_LINED:
        return
    for row in range(1, shape[0]):
        y = round(size[1] * row / shape[0])
        draw.line((0, y, size[0], y), fill=_LINE)
    for column in range(1, shape[1]):
        x = round(size[0] * column / shape[1])
        draw.line((x, 0, x, size[1]), fill=_LINE)


def _cell(size: tuple[int, int], shape: Sequence[int], row: int, column: int) -> tuple[float, float, float, float]:
    high, wide = size[1] / shape[0], size[0] / shape[1]
    return column * wide, row * high, (column + 1) * wide, (row + 1) * high


def _pale(image: np.ndarray) -> np.ndarray:
    """The image in light grey, so that colours on it stand out."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    return np.repeat((135 + grey * 0.4).astype(np.uint8)[..., None], 3, axis=2)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _PANEL:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
