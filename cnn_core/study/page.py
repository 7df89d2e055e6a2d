"""The study's page: each of the lecture's claims with its experiment, its figure, its numbers and what they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.reporting.images import data_uri

TEMPLATE = "page.html.j2"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page: the lecture's ``claim``, and the ``verdict`` that the experiment's table gives."""

    title: str
    claim: str
    verdict: Callable[[pd.DataFrame], str]


def _learning_curves(table: pd.DataFrame) -> str:
    images = table["images"].max()
    means = table[table["images"] == images].groupby(["model", "pixels"])["accuracy"].mean()
    cnn, mlp = means["CNN"], means["MLP"]
    return (
        f"With {images:,} images the CNN reads {cnn['in their places']:.1%} and the MLP {mlp['in their places']:.1%}. "
        f"With the pixels permuted the CNN falls to {cnn['permuted']:.1%}; the MLP, to which the order means nothing, "
        f"has {mlp['permuted']:.1%}."
    )


def _depth(table: pd.DataFrame) -> str:
    means = table.groupby("convolutions")["accuracy"].mean()
    return (
        f"One convolution reads {means.iloc[0]:.1%}. {means.idxmax()} convolutions, the best of these, read "
        f"{means.max():.1%}, at equal parameters and in the same short training."
    )


def _dropout(table: pd.DataFrame) -> str:
    means = table.groupby("kind")[["accuracy", "seconds"]].mean()
    none, dropout, bagging = (means.loc[kind] for kind in ("none", "dropout", "bagging, 5 networks"))
    return (
        f"Dropout changes {none['accuracy']:.1%} to {dropout['accuracy']:.1%} at no cost; five bagged networks read "
        f"{bagging['accuracy']:.1%} and took {bagging['seconds'] / none['seconds']:.1f} times as long."
    )


def _activations(table: pd.DataFrame) -> str:
    means = table[table["tenth"] == table["tenth"].max()].groupby("activation")[["loss", "accuracy"]].mean()
    clauses = [
        f"{name} ends at a loss of {loss:.2f} and reads {accuracy:.1%}"
        for name, loss, accuracy in zip(means.index, means["loss"], means["accuracy"], strict=True)
    ]
    return f"{_sentence(clauses)}."


def _maxout(table: pd.DataFrame) -> str:
    means = table.groupby("kind")["accuracy"].mean()
    return ", ".join(f"{name} reads {value:.1%}" for name, value in means.items()) + ", on average over all angles."


def _invariance(table: pd.DataFrame) -> str:
    def means(change: str, strength: float) -> pd.Series:
        rows = table[(table["change"] == change) & (table["strength"] == strength)]
        return rows.groupby(["model", "augmented"])["accuracy"].mean()

    moved, turned = means("translation", 3), means("rotation", 30)
    return (
        f"Moved by 3 pixels, the CNN still reads {moved['CNN', False]:.1%}, the MLP {moved['MLP', False]:.1%} and the "
        f"linear model {moved['linear', False]:.1%}. Turned by 30 degrees, the CNN reads {turned['CNN', False]:.1%}: "
        f"convolution and pooling do not tolerate turns. Trained with distortions it reads {moved['CNN', True]:.1%} "
        f"and {turned['CNN', True]:.1%}."
    )


def _series(table: pd.DataFrame) -> str:
    means = table.groupby("model")[["accuracy", "error_periods"]].mean()
    clauses = [
        f"the {name} recognises {accuracy:.1%} and is off by {error:.2f} periods"
        for name, accuracy, error in zip(means.index, means["accuracy"], means["error_periods"], strict=True)
    ]
    return f"{_sentence(clauses)}; always predicting the mean is off by {table['error_of_the_mean'].iloc[0]:.2f}."


def _upsampling(table: pd.DataFrame) -> str:
    means = table.groupby("model", sort=False)["error"].mean()
    return f"{_sentence([f'{name}: root mean square error {value:.3f}' for name, value in means.items()])}."


def _sentence(clauses: list[str]) -> str:
    text = "; ".join(clauses)
    return text[:1].upper() + text[1:]


SECTIONS = {
    "learning_curves": Section(
        title="When the inductive bias pays, and when it does not",
        claim="A CNN assumes that neighbouring pixels belong together and that a pattern means the same everywhere. "
        "Where that is true it needs fewer images. One permutation of all pixels makes it untrue: no model is best "
        "for every problem.",
        verdict=_learning_curves,
    ),
    "depth": Section(
        title="The deeper the better?",
        claim="Networks of one to eight convolutions, each as wide as the same number of parameters allows.",
        verdict=_depth,
    ),
    "dropout": Section(
        title="Dropout, a cheap stand-in for many networks",
        claim="Each mini-batch trains another thinned network, and all of them share their weights. Bagging trains "
        "complete networks on resampled images and averages their predictions.",
        verdict=_dropout,
    ),
    "activations": Section(
        title="ReLU against sigmoid and tanh",
        claim="The gradient of a sigmoid is at most a quarter, that of ReLU is one where it is active. Through several "
        "layers the sigmoid's gradient vanishes.",
        verdict=_activations,
    ),
    "maxout": Section(
        title="Pooling over kernels",
        claim="The greatest output of several kernels may respond to the same stroke in several directions: tolerance "
        "of turns that is learned, not built in.",
        verdict=_maxout,
    ),
    "invariance": Section(
        title="What is built in, and what augmentation buys",
        claim="Convolution and pooling tolerate small shifts. Turns, other sizes, blur and noise have to be learned "
        "from examples.",
        verdict=_invariance,
    ),
    "series": Section(
        title="More than images: time series with two heads",
        claim="The same operations along one axis: a 1-D CNN recognises which of four generated waves it sees, and how "
        "many periods. The MLP beside it has as many parameters.",
        verdict=_series,
    ),
    "upsampling": Section(
        title="Upsampling by transposed convolutions",
        claim="Two strided convolutions down, two transposed ones back up. The autoencoder has to compress everything "
        "into 32 numbers; the U-Net's way up also sees what the way down saw.",
        verdict=_upsampling,
    ),
}


def write_study(root: str | Path, output: str | Path, *, names: Collection[str] | None = None) -> None:
    """Write the page from ``data/study/*.csv`` and ``*.png`` below ``root``; a ValueError if a table is missing.

    Args:
        names: the experiments to show; None shows all.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    chosen = {name: section for name, section in SECTIONS.items() if names is None or name in names}
    sections = [_content(Path(root), name, section) for name, section in chosen.items()]
    environment = Environment(loader=PackageLoader("cnn_core.study", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(TEMPLATE).render(sections=sections)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(page, encoding="utf-8")


def _content(root: Path, name: str, section: Section) -> dict[str, Any]:
    """What the template shows of one experiment; its numbers are means over the repeats."""
    path, figure = (root / f"data/study/{name}.{ending}" for ending in ("csv", "png"))
    if not path.is_file():
        raise ValueError(f"{path} does not exist: run `make study`")
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    values = [column for column in table.columns if table[column].dtype == float and column != "strength"]
    by = [column for column in table.columns if column not in (*values, "repeat", "tenth", "seed")]
    means = table.groupby(by, sort=False)[values].mean().reset_index() if by and values else table
    return {
        "name": name,
        "title": section.title,
        "claim": section.claim,
        "verdict": section.verdict(table),
        "figure": data_uri(figure.read_bytes(), "png") if figure.is_file() else None,
        "columns": [column.replace("_", " ") for column in means.columns],
        "rows": [[_text(value) for value in row] for row in means.itertuples(index=False)],
        "repeats": int(table["repeat"].max()) + 1 if "repeat" in table else 1,
    }


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
