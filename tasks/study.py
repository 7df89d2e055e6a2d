"""Stage ``study``: measure one experiment -> data/study/<experiment>.csv, .png and .json."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cnn_core.data.augmented import load_arrays, read_dataset
from cnn_core.files import write_csv
from cnn_core.params import load_section
from cnn_core.study import figures
from cnn_core.study.beyond import series, series_rows, spoilt, upsampling_rows
from cnn_core.study.experiments import EXPERIMENTS, ExperimentParams, measure
from cnn_core.study.networks import Digits
from tasks.engine import events
from tasks.engine.runtime import load_runtime

PARAMS = ExperimentParams
SHOWN = 10  # digits in the picture of the upsampling


def main(name: str) -> None:
    params, runtime = load_section(PARAMS, f"study.{name}"), load_runtime()
    torch.set_num_threads(runtime.threads())
    picture = f"data/study/{name}.png"
    with events.progress(f"study {name}", None, "measurements") as bar:
        table = table_of(name, params, picture, lambda: bar.update(1))
    path = Path(f"data/study/{name}.csv")
    write_csv(path, table.round(5))
    if name in figures.DRAWN:
        figures.draw(name, table, picture)
    events.write_metrics(f"data/study/{name}.json", {"measurements": len(table)})


def table_of(name: str, params: ExperimentParams, picture: str, on_row: Callable[[], None]) -> pd.DataFrame:
    """Measure the experiment ``name``, one row a measurement.

    Raises:
        ValueError: there is no such experiment.
    """
    if name in EXPERIMENTS:
        return measure(name, digits(params, "train"), digits(params, "test"), params, on_row)
    if name == "series":
        learned, unseen = series(params.train, params.seed), series(params.test, params.seed + 1)
        rows = series_rows(learned, unseen, draws=params.draws, repeats=params.repeats, seed=params.seed)
        return collected(rows, on_row)
    if name == "upsampling":
        return upsampling(params, picture, on_row)
    raise ValueError(f"there is no experiment {name!r}; there are {', '.join([*EXPERIMENTS, 'series', 'upsampling'])}")


def collected(rows: Iterable[dict[str, object]], on_row: Callable[[], None]) -> pd.DataFrame:
    """Join rows into a table, and call ``on_row`` after each."""
    table = []
    for row in rows:
        table.append(row)
        on_row()
    return pd.DataFrame(table)


def upsampling(params: ExperimentParams, picture: str, on_row: Callable[[], None]) -> pd.DataFrame:
    """Return the table; draw the images that the networks of the first repeat restore."""
    train, test = digits(params, "train"), digits(params, "test")
    shown = test.images[:SHOWN]
    images = {"as they are": shown.numpy(), "spoilt": spoilt(test.images, "test")[:SHOWN].numpy()}
    rows = []
    for row, network in upsampling_rows(train, test, draws=params.draws, repeats=params.repeats, seed=params.seed):
        rows.append(row)
        if network is not None and row["repeat"] == 0:
            with torch.no_grad():
                images[str(row["model"])] = network(torch.from_numpy(images["spoilt"])).sigmoid().numpy()
        on_row()
    figures.draw_upsampling(picture, images)
    return pd.DataFrame(rows)


def digits(params: ExperimentParams, split: str) -> Digits:
    """Return the first images of a split, without augmented copies."""
    arrays, dataset = load_arrays(params.source, split), read_dataset(params.source)
    available = dataset["originals"] if split == "train" else len(arrays.labels)
    count = min({"train": params.train, "test": params.test}[split], available)
    images = torch.from_numpy(np.array(arrays.images[:count])).float() / 255
    return Digits(images=images, labels=torch.from_numpy(np.array(arrays.labels[:count])))


if __name__ == "__main__":
    events.run_stage(main)
