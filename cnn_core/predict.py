"""Image files through a model folder: ``python -m cnn_core.predict MODEL IMAGES…`` prints what each shows.

    from cnn_core.predict import Predictor
    model = Predictor("data/models/scenes")
    table = model(["a.jpg", "holiday", "more.zip"]).table()

MODEL is a folder that the stage train wrote. IMAGES are image files, folders (at any depth) and .zip archives. There
need be no pipeline around it. It ends with 0 when at least one image was classified, else with 1 and one sentence.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from cnn_core.classification.inference.classifier import Classifier
from cnn_core.data.image_files import read_paths
from cnn_core.data.validation import Refusal
from cnn_core.devices import pick_device

_BAR_AFTER_S = 1.0  # what is done sooner needs no bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
    """``probabilities`` float32 (N, K) of N ``files`` and K ``classes``; and the files ``refused``, with the reason."""

    files: list[str]
    classes: list[str]
    probabilities: np.ndarray
    refused: list[Refusal]

    def table(self) -> pd.DataFrame:
        """file, class, and the probability of each class in a column of its name: as predictions.csv of the stage."""
        chosen = np.array(self.classes)[self.probabilities.argmax(1)]
        columns = pd.DataFrame(self.probabilities.astype(float).round(6), columns=self.classes)
        return pd.concat([pd.DataFrame({"file": self.files, "class": chosen}), columns], axis=1)

    def lines(self, top: int) -> list[str]:
        """The same for a terminal, aligned, a heading first: file, class and the ``top`` most probable classes."""
        rows = [["file", "class", "most probable"] + [""] * (min(top, len(self.classes)) - 1)]
        for file, row in zip(self.files, self.probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            seen = [f"{self.classes[index]} {row[index]:.3f}" for index in best]
            rows.append([_printable(file), self.classes[best[0]], *seen])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


class Predictor:
    """``Predictor(folder)(paths)``: image files, folders, .zip archives -> `Predictions`. Load once, call many times.

    Args:
        folder: a model folder.
        tta: how many views of each image are averaged.
        device: None takes the GPU when there is one.

    Raises:
        ValueError: the folder is no whole model folder, or there are fewer views.
    """

    def __init__(self, folder: str | Path, *, tta: int = 1, device: torch.device | None = None) -> None:
        self._classifier = Classifier(folder, tta=tta, device=device or pick_device("auto"))
        self.card = self._classifier.card

    def __call__(
        self, paths: str | Path | Iterable[str | Path], *, on_progress: Callable[[int, int], None] = lambda _, __: None
    ) -> Predictions:
        """
        Args:
            on_progress: called with the files done since the last call and the files in all.

        Raises:
            ValueError: a path does not exist or holds nothing. A file that is no image is among the refused.
        """
        total, blocks = read_paths([paths] if isinstance(paths, str | Path) else paths, self.card.square)
        files: list[str] = []
        refused: list[Refusal] = []
        parts = [np.empty((0, len(self.card.classes)), np.float32)]
        for block in blocks:
            parts.append(self._classifier(block.images))
            files += block.names
            refused += block.refused
            on_progress(len(block.names) + len(block.refused), total)
        return Predictions(files=files, classes=self.card.classes, probabilities=np.concatenate(parts), refused=refused)


def main() -> int:
    """The command line."""
    arguments = _arguments()
    try:
        if arguments.csv:  # a folder that cannot be made is told before the work, not after it
            arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        found = _predict(arguments)
        if arguments.csv:
            found.table().to_csv(arguments.csv, index=False, lineterminator="\n", errors="surrogateescape")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(found.lines(arguments.top)))
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


def _predict(arguments: argparse.Namespace) -> Predictions:
    predictor = Predictor(arguments.model, tta=arguments.tta)
    with tqdm(unit=" images", delay=_BAR_AFTER_S, disable=None, leave=False, dynamic_ncols=True) as bar:  # terminals

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        found = predictor(arguments.images, on_progress=advance)
    for entry in found.refused:
        print(f"refused: {_printable(entry.id)}: {entry.reason} ({entry.detail})", file=sys.stderr)
    if not found.files:
        raise ValueError(f"none of the {len(found.refused):,} files could be read as an image")
    return found


def _printable(name: str) -> str:
    """A file's name without what would steer the terminal or cannot be encoded."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    sys.exit(main())
