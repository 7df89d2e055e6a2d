"""The study's page: each of the lecture's claims with its experiment, figure, numbers and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.reporting.images import data_uri

TEMPLATE = "study.html.j2"


def _learning_curves(table: pd.DataFrame) -> str:
    most = table["images"].max()
    means = table[table["images"] == most].groupby(["model", "pixels"])["accuracy"].mean()
    cnn, mlp = means["CNN"], means["MLP"]
    return (
        f"With {most:,} images the CNN reads {cnn['in their places']:.1%} and the MLP {mlp['in their places']:.1%}. "
        f"With "
        f"the pixels permuted the CNN falls to {cnn['permuted']:.1%}; the MLP, to which the order means nothing, has "
        f"{mlp['permuted']:.1%}."
    )


def _depth(table: pd.DataFrame) -> str:
    means = table.groupby("convolutions")["accuracy"].mean()
    return (
        f"One convolution reads {means.iloc[0]:.1%}, {means.idxmax()} convolutions, the best of these, read "
        f"{means.max():.1%}, "
        "at equal parameters and in the same short training."
    )


def _dropout(table: pd.DataFrame) -> str:
    means = table.groupby("kind")[["accuracy", "seconds"]].mean()
    none, dropped, bagged = (means.loc[kind] for kind in ("none", "dropout", "bagging, 5 networks"))
    return (
        f"Dropout changes {none['accuracy']:.1%} to {dropped['accuracy']:.1%} at no cost; five bagged networks read "
        f"{bagged['accuracy']:.1%} and took {bagged['seconds'] / none['seconds']:.1f} times as long."
    )


def _activations(table: pd.DataFrame) -> str:
    last = table[table["tenth"] == table["tenth"].max()].groupby("activation")[["loss", "accuracy"]].mean()
    said = [f"{name} ends at a loss of {row.loss:.2f} and reads {row.accuracy:.1%}" for name, row in last.iterrows()]
    return f"{_sentence(said)}."


def _maxout(table: pd.DataFrame) -> str:
    means = table.groupby("kind")["accuracy"].mean()
    return ", ".join(f"{name} reads {value:.1%}" for name, value in means.items()) + ", on average over all angles."


def _invariance(table: pd.DataFrame) -> str:
    far = (
        table[(table["change"] == "translation") & (table["strength"] == 3)]
        .groupby(["model", "augmented"])["accuracy"]
        .mean()
    )
    turned = (
        table[(table["change"] == "rotation") & (table["strength"] == 30)]
        .groupby(["model", "augmented"])["accuracy"]
        .mean()
    )
    return (
        f"Moved by 3 pixels, the CNN still reads {far['CNN', False]:.1%}, the MLP {far['MLP', False]:.1%} and the "
        f"linear model "
        f"{far['linear', False]:.1%}. Turned by 30 degrees the CNN has {turned['CNN', False]:.1%}: convolution and "
        f"pooling give no "
        f"tolerance of turns. Learned with distortions it has {far['CNN', True]:.1%} and {turned['CNN', True]:.1%}."
    )


def _series(table: pd.DataFrame) -> str:
    means = table.groupby("model")[["accuracy", "error_periods"]].mean()
    said = [
        f"the {name} tells {row.accuracy:.1%} and is off by {row.error_periods:.2f} periods"
        for name, row in means.iterrows()
    ]
    return f"{_sentence(said)}; always saying the mean is off by {table['error_of_the_mean'].iloc[0]:.2f}."


def _upsampling(table: pd.DataFrame) -> str:
    means = table.groupby("model", sort=False)["error"].mean()
    said = [f"{name}: root mean square error {value:.3f}" for name, value in means.items()]
    return f"{_sentence(said)}."


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


# Title, the lecture's claim, and what the numbers say.
SECTIONS: Mapping[str, tuple[str, str, Callable[[pd.DataFrame], str]]] = {
    "learning_curves": (
        "Why the inductive bias pays, and when it does not",
        "A CNN presumes that neighbouring pixels belong together and that what is worth seeing here is worth seeing "
        "there. "
        "Where that is true it needs fewer images. Exchange all pixels by one permutation, and it is no longer true: "
        "no model is "
        "best for every problem.",
        _learning_curves,
    ),
    "depth": (
        "The deeper the better?",
        "Networks of one to eight convolutions, each as wide as the same number of parameters allows.",
        _depth,
    ),
    "dropout": (
        "Dropout, a cheap stand-in for many networks",
        "Each mini-batch trains another thinned network; all share their weights. Bagging trains whole networks on "
        "resampled "
        "images and averages what they say.",
        _dropout,
    ),
    "activations": (
        "ReLU against sigmoid and tanh",
        "The gradient of a sigmoid is at most a quarter, that of ReLU is one where it is active: through several "
        "layers the "
        "first vanishes.",
        _activations,
    ),
    "maxout": (
        "Pooling over kernels",
        "The greatest of several kernels' outputs may answer to the same stroke in several directions: tolerance of "
        "turns that "
        "is learned, not built in.",
        _maxout,
    ),
    "invariance": (
        "What is built in, and what augmentation buys",
        "Convolution and pooling tolerate small shifts. Turns, other sizes, blur and noise have to be learned from "
        "examples.",
        _invariance,
    ),
    "series": (
        "More than images: time series with two heads",
        "The same operations along one axis: a 1-D CNN tells which of four generated waves it sees, and how many "
        "periods. The "
        "MLP beside it has as many parameters.",
        _series,
    ),
    "upsampling": (
        "Upsampling by transposed convolutions",
        "Two strided convolutions down, two transposed ones back up. The autoencoder has to put all into 32 numbers; "
        "the U-Net's "
        "way up also sees what the way down saw.",
        _upsampling,
    ),
}


def write_study(root: str | Path, output: str | Path, *, names: Mapping[str, Any] | None = None) -> None:
    """Write the page from ``data/study/*.csv`` and ``*.png`` below ``root``.

    Raises:
        ValueError: an experiment's table is missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    root, sections = Path(root), []
    for name, (title, claim, verdict) in SECTIONS.items():
        if names is not None and name not in names:
            continue
        path = root / f"data/study/{name}.csv"
        if not path.is_file():
            raise ValueError(f"{path} does not exist: run `make study`")
        table = pd.read_csv(path)
        values = [c for c in table.columns if table[c].dtype == float and c not in ("strength",)]
        by = [c for c in table.columns if c not in (*values, "repeat", "tenth", "seed")]
        shown = table.groupby(by, sort=False)[values].mean().reset_index() if by and values else table
        sections.append(
            {
                "name": name,
                "title": title,
                "claim": claim,
                "verdict": verdict(table),
                "figure": picture(root / f"data/study/{name}.png"),
                "columns": [column.replace("_", " ") for column in shown.columns],
                "rows": [[_text(value) for value in row] for row in shown.itertuples(index=False)],
                "repeats": int(table["repeat"].max()) + 1 if "repeat" in table else 1,
            }
        )
    environment = Environment(loader=PackageLoader("cnn_core.study", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(TEMPLATE).render(sections=sections)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(page, encoding="utf-8")


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def picture(path: Path) -> str | None:
    """A PNG as a data URI; None where it is missing."""
    return data_uri(path.read_bytes(), "png") if path.is_file() else None
