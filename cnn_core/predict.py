"""Classify image files with a trained model: ``python -m cnn_core.predict MODEL IMAGES…`` prints what each shows.

MODEL is a folder that the stage train wrote. IMAGES are image files, folders (at any depth) and .zip
archives. The command needs no pipeline around it. It exits with 0 when at least one image was
classified, else with 1 after one sentence.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cnn_core.classification.inference.classifier import Classifier, predictions_table
from cnn_core.classification.inference.looks import Fitter, Look, about_looks, unlike
from cnn_core.data.image_files import describe, read_paths
from cnn_core.data.validation import Refusal
from cnn_core.devices import pick_device
from cnn_core.files import write_csv

_BAR_AFTER_S = 1.0  # a shorter run needs no progress bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifications:
    """What a model made of image files: ``probabilities`` float32 (N, K) of N ``files`` and K ``classes``.

    ``thresholds`` are of a model of several labels an image: a file has the classes whose probability reaches theirs.
    """

    files: list[str]
    classes: list[str]
    probabilities: np.ndarray
    refused: list[Refusal]  # images that cannot be read
    left_out: Mapping[str, int]  # counts of the files that are no images, by what they are
    thresholds: list[float] | None = None
    fitted: int = 0  # files whose sign was cut out and brought into the form of the model's images
    unlike: list[str] = dataclasses.field(default_factory=list)  # files that do not look like the model's images

    def table(self) -> pd.DataFrame:
        """Return file, class (or labels) and a column ``p(CLASS)`` of probabilities for each class."""
        return predictions_table(self.files, self.probabilities, self.classes, self.thresholds)

    def write_csv(self, path: str | Path) -> None:
        """Write the table, like predictions.csv of the stage: safe to open in a spreadsheet."""
        write_csv(path, self.table())

    def lines(self, top: int) -> list[str]:
        """Return aligned lines for a terminal, a heading first: file, class and the ``top`` most probable classes."""
        name = "class" if self.thresholds is None else "labels"
        rows = [["file", name, "most probable"] + [""] * (min(top, len(self.classes)) - 1)]
        for file, answer, probabilities in zip(self.files, self.table()[name], self.probabilities, strict=True):
            best = np.argsort(-probabilities, kind="stable")[:top]
            cells = [f"{_printable(self.classes[index])} {probabilities[index]:.3f}" for index in best]
            rows.append([_printable(file), _printable(answer) or "none", *cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


class Predictor:
    """Classify image files, folders and .zip archives: load a model once, call it many times.

    Args:
        tta: the number of views of each image whose probabilities are averaged.
        device: None takes the GPU when there is one.

    Raises:
        ValueError: the folder is no complete model folder, or ``tta`` exceeds the number of views.

    Examples:
        >>> from cnn_core.predict import Predictor
        >>> predictor = Predictor("data/models/scenes")
        >>> predictor.card.classes
        ['buildings', 'forest', 'glacier', 'mountain', 'sea', 'street']
        >>> classified = predictor(["a.jpg", "holiday", "more.zip"])
        >>> classified.files
        ['a.jpg', 'holiday/b.jpg', 'holiday/deep/c.jpg', 'more.zip/in/d.jpg']
        >>> classified.probabilities.shape
        (4, 6)
        >>> classified.write_csv("predictions.csv")
        >>> [(file.id, file.reason) for file in classified.refused]
        [('holiday/broken.jpg', 'damaged image')]
    """

    def __init__(self, folder: str | Path, *, tta: int = 1, device: torch.device | None = None) -> None:
        self._classifier = Classifier(folder, tta=tta, device=device or pick_device("auto"))
        self.card = self._classifier.card
        self.look = Look.of(self.card.preprocessing)

    def __call__(
        self, paths: str | Path | Iterable[str | Path], *, on_progress: Callable[[int, int], None] = lambda _, __: None
    ) -> Classifications:
        """Classify the images in ``paths``, in their order; a file that is no image is refused.

        ``on_progress`` gets the number of files done since its last call, and the number of all files.

        Raises:
            ValueError: a path does not exist or holds no file.
        """
        fitter = Fitter(self.look, self.card.square[-1]) if self.look else None
        source = read_paths([paths] if isinstance(paths, str | Path) else paths, self.card.square, fitter)
        files, odd = list[str](), list[str]()
        refused: list[Refusal] = []
        probabilities = [np.empty((0, len(self.card.classes)), np.float32)]
        for block in source.blocks:
            probabilities.append(self._classifier(block.images))
            files += block.names
            refused += block.refused
            odd += [block.names[index] for index in unlike(block.images, self.look)]
            on_progress(len(block.names) + len(block.refused), source.count)
        return Classifications(
            files=files,
            classes=self.card.classes,
            probabilities=np.concatenate(probabilities),
            refused=refused,
            left_out=source.left_out,
            thresholds=self.card.thresholds,
            fitted=fitter.fitted if fitter else 0,
            unlike=odd,
        )


def main() -> int:
    """Run the command line and return its exit code."""
    arguments = _arguments()
    try:
        if arguments.csv:  # first, so that a folder that cannot be made is reported before the work
            arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        classified = _classify(arguments)
        if arguments.csv:
            classified.write_csv(arguments.csv)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(classified.lines(arguments.top)))
    return 0


def _arguments() -> argparse.Namespace:
    about = "Classify images with a trained model: a table of classes and probabilities."
    parser = argparse.ArgumentParser(prog="python -m cnn_core.predict", description=about)
    parser.add_argument("model", type=Path, help="a model folder, such as data/models/scenes")
    parser.add_argument("images", nargs="+", help="image files, folders and .zip archives, in any mix")
    parser.add_argument("--tta", type=int, default=1, metavar="N", help="average N views of each image (default 1)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write every class's probability to FILE")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="show the K most probable classes (default 3)")
    arguments = parser.parse_args()
    if arguments.top < 1:
        parser.error(f"--top must be at least 1, not {arguments.top}")
    return arguments


def _classify(arguments: argparse.Namespace) -> Classifications:
    predictor = Predictor(arguments.model, tta=arguments.tta)
    with tqdm(unit=" images", delay=_BAR_AFTER_S, disable=None, leave=False, dynamic_ncols=True) as bar:  # terminals

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        classified = predictor(arguments.images, on_progress=advance)
    for file in classified.refused:
        print(f"refused: {_printable(file.id)}: {file.reason} ({file.detail})", file=sys.stderr)
    if classified.left_out:
        print(f"left out, no images: {describe(classified.left_out)}", file=sys.stderr)
    for sentence in about_looks(classified.fitted, classified.unlike, len(classified.files), predictor.look):
        print(sentence, file=sys.stderr)
    if not classified.files:
        raise ValueError(f"none of the {len(classified.refused):,} files could be read as an image")
    return classified


def _printable(name: str) -> str:
    """Escape a name that holds control characters for a terminal or cannot be encoded."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that stops early, such as `| head`, is no error
    sys.exit(main())
