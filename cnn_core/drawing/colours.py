"""Colours of classes and objects, and of text on them: the same in every picture."""

from __future__ import annotations

import colorsys

import numpy as np

Colour = tuple[int, int, int]
# Ten colours that are easy to tell apart; more come from around the circle of hues.
_TEN = ("1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "5b6470", "bcbd22", "17becf")


def class_colour(number: int) -> Colour:
    if number < len(_TEN):
        red, green, blue = bytes.fromhex(_TEN[number])
        return red, green, blue
    share = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.75, 0.85 if number % 2 else 0.65)
    return round(255 * share[0]), round(255 * share[1]), round(255 * share[2])


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on this colour."""
    return (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 150 else (255, 255, 255)
