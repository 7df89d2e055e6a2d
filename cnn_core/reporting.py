"""The report: one self-contained HTML page made of a run's metrics, plots and parameters, and of nothing else."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cnn_core import report_parts
from cnn_core.params import Params, read_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "report.html.j2"
STAGES = ("ingest", "augment", "pretrain", "train", "evaluate", "predict")  # of a data set, in the order of the page
SAMPLES = {
    "digits": "The images are the sample: 5,000 real handwritten digits of MNIST.",
    "scenes": "The images are the sample: generated, drawn by a program. They are no photographs.",
}
DETECTION = ("compose", "train_detector", "evaluate_detector", "detect")
BACKGROUND = "background"  # in the confusion: a box on nothing, or an object that was missed
MOST_NAMED = 21  # curves that a legend names
COMPOSED = "The pictures are composed: real handwritten digits on walls drawn by a program, so every box is exact."
BLUE, ORANGE, GREY = "#2563eb", "#d97706", "#6b7280"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportParams(Params):
    """The section ``report``."""

    title: str


def write_report(params: ReportParams, *, root: str | Path, output: str | Path) -> None:
    """Write the page to the file ``output``: a pure function of ``data/metrics``, ``data/plots`` and ``params.yaml``
    below ``root``, so it bears no date, commit or host name.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    root = Path(root)
    values = read_yaml(root / "params.yaml")
    sets = [section(root, name, values) for name in values.get("train", {})]
    environment = Environment(loader=PackageLoader("cnn_core", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "count": count, "words": words}
    parameters = dict(flatten({key: value for key, value in values.items() if key != "report"}))
    page = environment.get_template(TEMPLATE).render(
        title=params.title,
        sets=sets,
        detection=detection(root, values),
        segmentation=report_parts.segmentation(root),
        anatomy=report_parts.anatomy(root, list(values.get("anatomy", {}))),
        baselines=report_parts.baselines(root),
        parameters=parameters,
    )
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(page, encoding="utf-8")


def section(root: Path, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of one data set; a part that is missing is None, and the page says so."""
    metrics = {stage: read_metrics(root / f"data/metrics/{stage}-{name}.json") for stage in STAGES}
    plots = root / "data/plots"
    seconds = {stage: found["seconds"] for stage, found in metrics.items() if found and "seconds" in found}
    return {
        "name": name,
        "origin": origin(name, values),
        "metrics": metrics,
        "curves": curves(plots / f"train-{name}.csv", (metrics["train"] or {}).get("best_epoch")),
        "confusion": confusion(plots / f"evaluate-{name}-confusion.csv"),
        "mistakes": picture(plots / f"evaluate-{name}-mistakes.png"),
        "copies": picture(plots / f"augment-{name}.png"),
        "seen": picture(plots / f"train-{name}-seen.png"),
        "seconds": seconds,
    }


def detection(root: Path, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page shows of the detector; None in a run that has none, and then the page has no such section."""
    metrics = {stage: read_metrics(root / f"data/metrics/{stage}.json") for stage in DETECTION}
    plots = root / "data/plots"
    if not any(metrics.values()):
        return None
    source = values.get("evaluate_detector", {}).get("source", "")
    return {
        "metrics": metrics,
        "origin": COMPOSED if source == "data/composed/numbers" else f"The images come from {source}.",
        "composed": picture(plots / "compose.png"),
        "seen": picture(plots / "train_detector-seen.png"),
        "training": detector_curves(plots / "train_detector.csv"),
        "curves": precision_recall(plots / "evaluate_detector-pr.csv"),
        "confusion": confusion(plots / "evaluate_detector-confusion.csv", last=BACKGROUND),
        "grid": picture(plots / "evaluate_detector-grid.png"),
        "examples": picture(plots / "evaluate_detector-examples.png"),
        "seconds": {stage: found["seconds"] for stage, found in metrics.items() if found and "seconds" in found},
    }


def origin(name: str, values: Mapping[str, Any]) -> str:
    """Where the images come from, in one sentence: a sample is called so."""
    source = values.get("ingest", {}).get(name, {}).get("source", "")
    return SAMPLES.get(name, "") if source == f"data/sources/{name}" else f"The images come from {source}."


def read_metrics(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def picture(path: Path) -> str | None:
    """A PNG as a data URI."""
    if not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def confusion(path: Path, last: str | None = None) -> dict[str, Any] | None:
    """The counts of ``actual, predicted`` rows: ``{"classes": [...], "rows": [[n, ...], ...], "most": n}``.

    ``most`` is the largest count off the diagonal: what the shade of a mistake is relative to. The class ``last`` comes
    after the others.
    """
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype=str)
    classes = sorted(set(table["actual"]) | set(table["predicted"]), key=lambda name: (name == last, name))
    counts = pd.crosstab(table["actual"], table["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    rows = counts.to_numpy()
    off = [int(n) for i, row in enumerate(rows) for j, n in enumerate(row) if i != j]
    return {"classes": classes, "rows": rows.tolist(), "most": max(off, default=0)}


def curves(path: Path, kept: int | None) -> str | None:
    """Loss and accuracy over the epochs, the epoch that was kept marked, as an inline SVG without a declaration."""
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    with drawing(9, 3) as (figure, text):
        loss, accuracy = figure.subplots(1, 2)
        loss.plot(table["epoch"], table["train_loss"], color=GREY, label="training")
        loss.plot(table["epoch"], table["val_loss"], color=BLUE, label="validation")
        loss.set(title="loss", xlabel="epoch")
        loss.legend(frameon=False)
        accuracy.plot(table["epoch"], 100 * table["val_accuracy"], color=BLUE)
        marked = table[table["epoch"] == kept]
        accuracy.plot(marked["epoch"], 100 * marked["val_accuracy"], "o", color=ORANGE)
        accuracy.set(title="validation accuracy, % (dot: the epoch kept)", xlabel="epoch")
        for axes in (loss, accuracy):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            axes.xaxis.get_major_locator().set_params(integer=True)
    return text()


def detector_curves(path: Path) -> str | None:
    """A detector's loss (its parts summed) and mAP over the epochs; not every epoch was measured. An inline SVG."""
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    with drawing(9, 3) as (figure, text):
        loss, measured = figure.subplots(1, 2)
        for part, colour, label in (("train", GREY, "training"), ("val", BLUE, "validation")):
            summed = table.filter(regex=f"^{part}_.*loss$").sum(axis=1, min_count=1).dropna()
            loss.plot(table["epoch"][summed.index], summed, color=colour, marker=".", label=label)
        loss.set(xlabel="epoch", ylabel="loss")
        for name, colour in (("mAP50", ORANGE), ("mAP50-95", BLUE)):
            rows = table.dropna(subset=[name]) if name in table else table.iloc[:0]
            measured.plot(rows["epoch"], rows.get(name, []), color=colour, marker=".", label=f"{name}, validation")
        measured.set(xlabel="epoch", ylabel="mAP", ylim=(0, 1.02))
        for axes in (loss, measured):
            axes.set_xlim(0, table["epoch"].max() + 0.5)
            axes.legend(frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
            axes.xaxis.get_major_locator().set_params(integer=True)
    return text()


def precision_recall(path: Path) -> str | None:
    """Precision over recall at IoU 0.5: each class thin, their mean thick; an inline SVG."""
    if not path.is_file() or (table := pd.read_csv(path, dtype={"class": str})).empty:
        return None
    with drawing(6.5, 4) as (figure, text):
        axes = figure.subplots()
        names = list(dict.fromkeys(table["class"]))
        few = len(names) <= MOST_NAMED
        for number, name in enumerate(names[1:]):
            rows = table[table["class"] == name]
            style = {"color": f"C{number}", "label": name} if few else {"color": GREY, "alpha": 0.4}
            axes.plot(rows["recall"], rows["precision"], linewidth=1, **style)
        rows = table[table["class"] == names[0]]  # the mean
        axes.plot(rows["recall"], rows["precision"], color="black", linewidth=2.5, label=names[0])
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return text()


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """A matplotlib figure (inches), and what gives it as an SVG without a declaration once the block has ended."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    # a fixed salt: the same curve gives the same bytes; text as text: small, and it can be searched
    with mpl.rc_context(
        {"svg.hashsalt": "gridflow", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, lambda: buffer.getvalue()[buffer.getvalue().index("<svg") :]
        figure.savefig(buffer, format="svg", metadata={"Date": None})


def flatten(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``[("train.digits.epochs", 16), ...]``."""
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        pairs += flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def percent(value: float) -> str:
    """0.9912 -> 99.12 %."""
    return f"{100 * value:.2f} %"


def count(value: float) -> str:
    """4500 -> 4,500."""
    return f"{value:,.0f}"


def words(value: str) -> str:
    """val_accuracy -> val accuracy."""
    return value.replace("_", " ")
