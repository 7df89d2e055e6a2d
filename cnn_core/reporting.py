"""The report: one self-contained HTML page made of a run's metrics, plots and parameters, and of nothing else."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cnn_core.params import Params, read_yaml

TEMPLATE = "report.html.j2"
STAGES = ("ingest", "augment", "pretrain", "train", "evaluate", "predict")  # of a data set, in the order of the page
SAMPLES = {
    "digits": "The images are the sample: 5,000 real handwritten digits of MNIST.",
    "scenes": "The images are the sample: generated, drawn by a program. They are no photographs.",
}
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
    page = environment.get_template(TEMPLATE).render(title=params.title, sets=sets, parameters=parameters)
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


def confusion(path: Path) -> dict[str, Any] | None:
    """The counts of ``actual, predicted`` rows: ``{"classes": [...], "rows": [[n, ...], ...], "most": n}``.

    ``most`` is the largest count off the diagonal: what the shade of a mistake is relative to.
    """
    if not path.is_file():
        return None
    table = pd.read_csv(path, dtype=str)
    classes = sorted(set(table["actual"]) | set(table["predicted"]))
    counts = pd.crosstab(table["actual"], table["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    rows = counts.to_numpy()
    off = [int(n) for i, row in enumerate(rows) for j, n in enumerate(row) if i != j]
    return {"classes": classes, "rows": rows.tolist(), "most": max(off, default=0)}


def curves(path: Path, kept: int | None) -> str | None:
    """Loss and accuracy over the epochs, the epoch that was kept marked, as an inline SVG without a declaration."""
    if not path.is_file():
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure

    table = pd.read_csv(path)
    # a fixed salt: the same curve gives the same bytes; text as text: small, and it can be searched
    with mpl.rc_context(
        {"svg.hashsalt": "gridflow", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(9, 3), layout="constrained")
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
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


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
