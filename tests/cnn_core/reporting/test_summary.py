"""The report in short: the verdict, every figure as the metrics files have it, what was refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from markupsafe import Markup

from cnn_core.reporting.headlines import headlines, specs
from cnn_core.reporting.summary import markdown, summary

EXPECTED = {"digits": {"accuracy": 0.95, "found_and_read": None}, "detector": {"map50": 0.9}}
DIGITS = {"n": 1470, "accuracy": 0.9936, "accuracy_low": 0.9814, "accuracy_high": 0.9978, "ece": 0.05}
DETECTOR = {"images": 500, "map50": 0.9547, "map50_low": 0.9469, "map50_high": 0.9648}


def run_of(root: Path, *, metrics: dict[str, dict], **sections: dict) -> Path:
    """A run's folder with these metrics; ``sections`` of params.yaml are the stages that it should have."""
    (root / "data/metrics").mkdir(parents=True)
    for stage, content in metrics.items():
        (root / f"data/metrics/{stage}.json").write_text(json.dumps(content))
    report = {"expected": EXPECTED, "limits": {"refused": 0.001, "calibration": 0.15}}
    (root / "params.yaml").write_text(yaml.safe_dump({"report": report, **sections}))
    return root


def rows(text: str) -> dict[str, list[str]]:
    """The table's rows by their first cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells}


def test_a_good_run(tmp_path: Path) -> None:
    metrics = {"evaluate-digits": DIGITS, "evaluate_detector-detector": DETECTOR}
    text = summary(run_of(tmp_path, metrics=metrics, evaluate={"digits": {}}, evaluate_detector={"detector": {}}))
    assert text.startswith("## ✅ Good\n")
    found = rows(text)
    assert found["digits recognised"] == ["**99.36 %**", "98.14 % to 99.78 %", "1,470", "≥ 95.00 % ✓"]
    assert found["detector mAP50"] == ["**0.955**", "0.947 to 0.965", "500", "≥ 0.900 ✓"]
    assert "Refused" not in text
    assert "<" not in text


def test_what_falls_short_is_missing_or_was_refused_is_told(tmp_path: Path) -> None:
    metrics = {
        "evaluate-digits": DIGITS | {"accuracy": 0.5, "accuracy_low": 0.45, "accuracy_high": 0.55},
        "ingest-digits": {"rows_read": 5000, "refused": 21, "duplicates": {"same_label": 1200, "near": 0}},
        "segment-segmenter": {"bad": 0, "dropped": 7},
    }
    sections = {
        "ingest": {"digits": {}},
        "evaluate": {"digits": {}, "scenes": {}},
        "evaluate_detector": {"detector": {}},
        "segment": {"segmenter": {}},
    }
    text = summary(run_of(tmp_path, metrics=metrics, **sections))
    assert text.startswith("## ❌ Parts are missing\n")
    assert rows(text)["digits recognised"][-1] == "≥ 95.00 % ✗"
    assert "detector mAP50" not in rows(text)
    for words in ("`evaluate@scenes`", "`evaluate_detector@detector`", "**Digits recognised: 50.00 %**",
                  "- `ingest@digits`: 21 rows that cannot be used (of 5,000)\n",
                  "- `ingest@digits`: 1,200 copies with the same label (of 5,000)\n",
                  "- `segment@segmenter`: 7 prompts that gave no mask"):  # fmt: skip
        assert words in text, words


def test_a_figure_of_generated_images_says_so(tmp_path: Path) -> None:
    metrics = {"evaluate-scenes": DIGITS | {"generated": True}, "evaluate-digits": DIGITS | {"generated": False}}
    table = rows(summary(run_of(tmp_path, metrics=metrics, evaluate={"digits": {}, "scenes": {}})))
    assert {"scenes recognised (generated images)", "digits recognised"} <= table.keys()


def test_every_figure_is_the_metrics_files(tmp_path: Path) -> None:
    """All headlines there are, with odd numbers, so that none can stand there by chance."""
    metrics = {}
    sections: dict[str, dict] = {"evaluate": {"digits": {}, "scenes": {}}, "read": {"digits": {}}}
    sections |= {"evaluate_detector": {"one": {}}, "evaluate_segmenter": {"two": {}}}
    for number, figure in enumerate(specs(sections)):
        value, metric = 0.31237 + number / 10, figure.measure.metric
        bounds = {f"{metric}_low": value - 0.0123, f"{metric}_high": value + 0.0234}
        metrics[figure.stage] = {metric: value, figure.measure.n: 1000 + number, **bounds}
    root = run_of(tmp_path, metrics=metrics, **sections)
    found = rows(summary(root))
    assert len(headlines(root)) == len(specs(sections)) == 5
    for one in headlines(root):
        value, interval, measured, _ = found[one.label]
        scale = 100 if one.unit == "%" else 1
        digits = 2 if one.unit == "%" else 3
        shown = [float(text.strip("*% ")) for text in (value, *interval.split(" to "))]
        assert shown == [round(scale * exact, digits) for exact in (one.value, one.low, one.high)]
        assert int(measured.replace(",", "")) == metrics[one.key.partition(":")[0]][next(
            figure.measure.n for figure in specs(sections) if figure.key == one.key)]  # fmt: skip


def test_without_a_run_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no metrics in data/metrics: no run has left any there"):
        summary(tmp_path)


def test_the_html_of_a_reason_becomes_markdown() -> None:
    text = Markup('<strong>A: <span data-metric="x">1 %</span></strong> &amp; <code>b</code>')
    assert markdown(text) == "**A: 1 %** & `b`"
