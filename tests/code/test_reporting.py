"""The report is a self-contained, pure function of the run's metrics, plots and parameters."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from cnn_core.reporting import ReportParams, confusion, origin, write_report

INGEST = {
    "images": {"train": 80, "test": 20},
    "rows_read": 101,
    "refused": 1,
    "duplicates": {"kept": 0},
    "seconds": 2.0,
}
EVALUATE = {
    "n": 20, "accuracy": 0.95, "accuracy_low": 0.7639, "accuracy_high": 0.9911, "ece": 0.031, "seconds": 3.5,
    "precision": {"<0>": 1.0}, "recall": {"<0>": 0.5}, "f1": {"<0>": 0.67}, "evaluated_model": "shipped",
}  # fmt: skip


DETECTOR = {
    "images": 500, "objects": 1503, "map50": 0.9123, "map50_95": 0.6789, "map75": 0.7, "map50_low": 0.9011,
    "map50_high": 0.9222, "map50_95_by_size": {"small": 0.5}, "map50_95_by_coco_area": {"small": 0.6, "medium": 0.7},
    "ap50": {"<7>": 0.9}, "ap50_95": {"<7>": 0.6}, "objects_by_class": {"<7>": 151}, "precision": 0.951,
    "recall": 0.902, "f1": 0.92, "seconds": 9.5, "weights_sha256": "0",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for folder in ("metrics", "plots"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("train:\n  digits:\n    epochs: 7\nreport:\n  title: A & B\n")
    (tmp_path / "data/metrics/ingest-digits.json").write_text(json.dumps(INGEST))
    (tmp_path / "data/metrics/evaluate-digits.json").write_text(json.dumps(EVALUATE))
    (tmp_path / "data/plots/evaluate-digits-confusion.csv").write_text("actual,predicted\n0,0\n1,0\n1,1\n")
    (tmp_path / "data/plots/train-digits.csv").write_text(
        "epoch,train_loss,val_loss,val_accuracy\n1,2,1,.5\n2,1,.5,.9\n"
    )
    Image.new("L", (4, 4)).save(tmp_path / "data/plots/augment-digits.png")
    return tmp_path


def page(root: Path) -> str:
    write_report(ReportParams(title="A & B"), root=root, output=root / "data/reports/index.html")
    return (root / "data/reports/index.html").read_text()


def test_the_page_shows_the_figures_and_loads_nothing(run: Path) -> None:
    html = page(run)
    for words in ("95.00 %", "76.39 %", "99.11 %", "A &amp; B", "&lt;0&gt;", "train.digits.epochs", "<svg", "101 rows"):
        assert words in html
    links = [link for link in re.findall(r"""(?:src|href)=["']([^"'#]+)""", html) if not link.startswith("data:")]
    assert links == []


def test_the_same_inputs_give_the_same_bytes(run: Path) -> None:
    assert page(run) == page(run)


def test_a_missing_part_is_said(run: Path) -> None:
    (run / "data/metrics/evaluate-digits.json").unlink()
    (run / "data/plots/train-digits.csv").unlink()
    html = page(run)
    assert "no evaluation of digits" in html
    assert "no learning curve" in html


def test_after_a_refit_the_page_says_which_model_was_measured(run: Path) -> None:
    assert "refit: all" not in page(run)
    path = run / "data/metrics/evaluate-digits.json"
    path.write_text(json.dumps({**EVALUATE, "evaluated_model": "without held-out images"}))
    assert "refit: all" in page(run)


def test_a_sample_is_called_so_and_a_source_by_its_path(run: Path) -> None:
    assert origin("scenes", {"ingest": {"scenes": {"source": "data/sources/scenes"}}}).count("generated") == 1
    assert "my/photos.zip" in origin("scenes", {"ingest": {"scenes": {"source": "my/photos.zip"}}})


def test_the_confusion_counts_every_row(run: Path) -> None:
    table = confusion(run / "data/plots/evaluate-digits-confusion.csv")
    assert table == {"classes": ["0", "1"], "rows": [[1, 0], [1, 1]], "most": 1}


@pytest.fixture
def with_detector(run: Path) -> Path:
    with (run / "params.yaml").open("a") as file:
        file.write("evaluate_detector:\n  source: data/composed/numbers\n")
    (run / "data/metrics/evaluate_detector.json").write_text(json.dumps(DETECTOR))
    (run / "data/metrics/compose.json").write_text(json.dumps({"seconds": 4.0}))
    plots = run / "data/plots"
    curves = "recall,precision,class\n0,1,mean of 1 classes\n1,.5,mean of 1 classes\n0,1,7\n1,.5,7\n"
    (plots / "evaluate_detector-pr.csv").write_text(curves)
    learning = "epoch,train_box_loss,val_box_loss,mAP50,mAP50-95\n1,3.5,,,\n2,2.5,2.25,0.75,0.5\n"
    (plots / "train_detector.csv").write_text(learning)
    (plots / "evaluate_detector-confusion.csv").write_text("actual,predicted\n7,7\n7,background\nbackground,cat\n")
    for name in ("compose", "evaluate_detector-grid", "evaluate_detector-examples"):
        Image.new("L", (4, 4)).save(plots / f"{name}.png")
    return run


def test_without_a_detector_there_is_no_such_section(run: Path) -> None:
    assert "Detection" not in page(run)


def test_the_detectors_figures_are_shown(with_detector: Path) -> None:
    html = page(with_detector)
    figures = ("mAP50 0.912", "0.901 to\n0.922", "mAP50-95 0.679", "95.10 %", "small 0.500")
    for words in (*figures, "&lt;7&gt;", "composed: real"):
        assert words in html, words
    assert "mean of 1 classes" in html  # the legend of the curves, as text
    assert "mAP50-95, validation" in html
    assert "This run has no" not in html[html.index("Detection</h2>") :]
    assert html == page(with_detector)
    links = [link for link in re.findall(r"""(?:src|href)=["']([^"'#]+)""", html) if not link.startswith("data:")]
    assert links == []


def test_the_background_comes_last(with_detector: Path) -> None:
    path = with_detector / "data/plots/evaluate_detector-confusion.csv"
    table = confusion(path, last="background")
    assert table == {"classes": ["7", "cat", "background"], "rows": [[1, 0, 1], [0, 0, 0], [0, 1, 0]], "most": 1}


def test_what_a_detector_lacks_is_said(with_detector: Path) -> None:
    (with_detector / "data/metrics/evaluate_detector.json").unlink()
    for name in ("pr.csv", "confusion.csv", "grid.png", "examples.png"):
        (with_detector / f"data/plots/evaluate_detector-{name}").unlink()
    (with_detector / "data/plots/train_detector.csv").unlink()
    (with_detector / "data/plots/compose.png").unlink()
    html = page(with_detector)
    part = html[html.index("Detection</h2>") :]
    assert part.count("This run has no") == 7
