"""Whether handwritten digits stand upright or are transposed, by what they show."""

from __future__ import annotations

import numpy as np

# The mean image of each digit, 0 to 9: 7 x 7 squares of four pixels, of which the brightest is 9. Of MNIST's training
# part, the 5,000 images of the sample.
_MEANS = (
    "0000000002782001776700471370065265003995100000000",
    "0000000000341000065000009200002800000451000000000",
    "0001000014761001236200025610048973003643200000000",
    "0000000015861001258200049710011272004786100011000",
    "0000000001122001636300395920024761000143000001000",
    "0000000002664101795310199510023472003896100011000",
    "0001200001640000561100186740019883000373000000000",
    "0000000001220003779300122810001650000362000023100",
    "0000000002662001556400049610016641001674100011000",
    "0000000001430001757200276910003650000253000012100",
)
_SQUARES, _SQUARE = 7, 4
SIDE = _SQUARES * _SQUARE
LEAST_IMAGES, LEAST_DIGITS = 3, 6  # of a digit, for its mean to say something; and so many digits with such a mean
# Of 50 of MNIST's digits the means are correlated with these by 0.93 and more, transposed by at least 0.28 less.
# Mirrored or shuffled ones stay below 0.85, as do other things than digits.
LEAST_CORRELATION, LEAST_DIFFERENCE = 0.85, 0.2


def are_transposed(images: np.ndarray, labels: np.ndarray) -> bool | None:
    """Compare the mean image of each digit with that of MNIST's, as it is and transposed.

    Args:
        images: uint8 (N, 28, 28), light ink on dark ground or dark on light.
        labels: int (N,), 0 to 9.

    Returns:
        None where they are too few, or look like neither.
    """
    if not are_enough(labels):
        return None
    digits = np.flatnonzero(np.bincount(labels) >= LEAST_IMAGES)
    coarse = images.reshape(-1, _SQUARES, _SQUARE, _SQUARES, _SQUARE).mean(axis=(2, 4))
    means = np.stack([coarse[labels == digit].mean(axis=0) for digit in digits])
    of_mnist = np.array([list(map(int, _MEANS[digit])) for digit in digits], float)
    upright, transposed = (
        _correlation(each.reshape(len(digits), -1), of_mnist) for each in (means, means.swapaxes(1, 2))
    )
    if max(upright, transposed) < LEAST_CORRELATION or abs(upright - transposed) < LEAST_DIFFERENCE:
        return None
    return transposed > upright


def are_enough(labels: np.ndarray) -> bool:
    return int((np.bincount(labels) >= LEAST_IMAGES).sum()) >= LEAST_DIGITS


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """The mean correlation of the rows; ink on a light ground counts as its negative."""
    one, other = (rows - rows.mean(axis=1, keepdims=True) for rows in (one, other))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return abs(float(np.divide((one * other).sum(axis=1), norms, out=np.zeros(len(one)), where=norms > 0).mean()))
