"""The verdict: figures against what is expected of them, warnings, and parts that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnn_core.params import from_mapping, read_yaml
from cnn_core.reporting.headlines import check_expected, headlines, specs
from cnn_core.reporting.numbers import Numbers
from cnn_core.reporting.page import positions
from cnn_core.reporting.verdict import SECTIONS, Limits, Verdict, judge
from tasks.report import PARAMS
from tests.helpers.paths import ROOT

GOOD = {"n": 470, "accuracy": 0.99, "accuracy_low": 0.98, "accuracy_high": 0.995, "ece": 0.05}
MODELS = {
    "SVM": {"accuracy": 0.95, "accuracy_low": 0.93, "accuracy_high": 0.97},
    "CNN (digit_cnn)": {"accuracy": 0.99, "accuracy_low": 0.98, "accuracy_high": 0.995},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run of one classifier and the baselines."""
    (tmp_path / "data/metrics").mkdir(parents=True)
    sections = {"ingest": {"digits": {}}, "evaluate": {"digits": {}}, "baselines": {"digits": {}}}
    expected = {"digits": {"accuracy": 0.985}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**sections, "report": {"expected": expected}}))
    put(tmp_path, "ingest-digits", rows_read=5000, refused=0)
    put(tmp_path, "evaluate-digits", **GOOD)
    put(tmp_path, "baselines-digits", models=MODELS)
    return tmp_path


def put(root: Path, stage: str, **metrics: Any) -> None:
    (root / f"data/metrics/{stage}.json").write_text(json.dumps(metrics))


def add(root: Path, section: str, name: str) -> None:
    """Add an entry to params.yaml."""
    values = read_yaml(root / "params.yaml")
    values.setdefault(section, {})[name] = {}
    (root / "params.yaml").write_text(yaml.safe_dump(values))


def verdict(root: Path) -> Verdict:
    limits = Limits(refused=0.001, calibration=0.15)
    return judge(headlines(root), Numbers(root), read_yaml(root / "params.yaml"), limits)


def said(found: Verdict) -> str:
    return " ".join(reason.text.striptags() for reason in found.reasons)


def test_a_run_that_does_what_is_expected_is_good(root: Path) -> None:
    found = verdict(root)
    assert (found.level, found.title) == ("good", "Good")
    assert said(found) == "Digits recognised: 99.00 %, at least 98.50 % is expected."


@pytest.mark.parametrize(
    ("accuracy", "words"), [(0.98, "its interval still reaches that"), (0.9, "its whole interval lies below")]
)
def test_a_figure_below_what_is_expected_is_to_be_looked_at(root: Path, accuracy: float, words: str) -> None:
    ends = {"accuracy": accuracy, "accuracy_low": accuracy - 0.03, "accuracy_high": accuracy + 0.01}
    put(root, "evaluate-digits", **GOOD | ends)
    found = verdict(root)
    assert found.level == "look"
    assert words in said(found)
    assert f"{accuracy:.2%}".replace("%", " %") in said(found)


def test_refused_rows_count_from_a_limit_on(root: Path) -> None:
    put(root, "ingest-digits", rows_read=5000, refused=5)
    assert verdict(root).level == "good"
    put(root, "ingest-digits", rows_read=5000, refused=6)
    assert verdict(root).level == "look"
    assert "ingest@digits left out 6 rows that cannot be used (of 5,000)." in said(verdict(root))


def test_a_classifier_that_is_surer_than_it_is_right_is_to_be_looked_at(root: Path) -> None:
    put(root, "evaluate-digits", **GOOD | {"ece": 0.151})
    assert verdict(root).level == "look"
    assert "its calibration error is 15.10 %" in said(verdict(root))


def test_a_lead_that_may_be_chance_is_to_be_looked_at(root: Path) -> None:
    put(root, "baselines-digits", models={**MODELS, "SVM": {**MODELS["SVM"], "accuracy_high": 0.981}})
    assert verdict(root).level == "look"
    assert "lead over the best baseline is not certain: 99.00 % against 95.00 % of the SVM; the intervals overlap" in (
        said(verdict(root))
    )


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "words"),
    [
        (
            0.995,
            0.99,
            0.999,
            "The CNN is behind the best baseline: 99.00 % against 99.50 % of the SVM; the intervals overlap",
        ),
        (
            0.999,
            0.998,
            1.0,
            "The CNN is behind the best baseline: 99.00 % against 99.90 % of the SVM; the intervals do not",
        ),
        (0.99, 0.98, 0.995, "The CNN is no better than the best baseline: 99.00 % against 99.00 % of the SVM"),
    ],
    ids=["within luck", "clearly", "equal"],
)
def test_a_cnn_that_is_behind_has_no_lead(root: Path, accuracy: float, low: float, high: float, words: str) -> None:
    svm = {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}
    put(root, "baselines-digits", models={**MODELS, "SVM": svm})
    assert words in said(verdict(root))
    assert "lead" not in said(verdict(root))


def test_what_a_stage_left_out_is_to_be_looked_at(root: Path) -> None:
    add(root, "detect", "one")
    put(root, "detect-one", bad=3)
    assert verdict(root).level == "look"
    assert "detect@one left out 3 files that could not be read." in said(verdict(root))


def test_annotations_and_images_without_masks_that_were_left_out_are_looked_at_too(root: Path) -> None:
    put(
        root,
        "ingest-digits",
        rows_read=50,
        refused=0,
        left_out=0,
        annotations={"listed": 100, "refused": 30, "left_out": 0},
    )
    assert "ingest@digits left out 30 annotations that cannot be used (of 100)." in said(verdict(root))
    put(root, "ingest-digits", rows_read=50, refused=0, left_out=0)
    add(root, "read", "one")
    put(root, "read-one", digits=9, dropped=3, listed=20, bad=0, left_out=0, unsegmented=5)
    assert "read@one left out 5 images that the segmenter has not seen (of 20)." in said(verdict(root))


def test_a_prompt_dropped_of_thousands_is_no_reason_to_look(root: Path) -> None:
    for section in ("segment", "read", "evaluate_detector"):
        add(root, section, "one")
    put(root, "segment-one", images=500, objects=1712, bad=0, dropped=1)
    put(root, "read-one", digits=1712, dropped=300)  # two masks of one digit: one of them is left out by design
    put(root, "ingest-digits", rows_read=5000, refused=0, left_out=3, duplicates={"same_label": 900})  # three notes
    put(root, "evaluate_detector-one", images=500, objects=1712, left_out=0, left_out_annotations=1)
    assert verdict(root).level == "good"
    put(root, "segment-one", images=500, objects=1712, bad=0, dropped=2)
    assert verdict(root).level == "look"
    assert "segment@one left out 2 prompts that gave no mask (of 1,712)." in said(verdict(root))


def test_a_part_that_is_missing_outweighs_the_rest(root: Path) -> None:
    put(root, "ingest-digits", rows_read=5000, refused=600)
    (root / "data/metrics/evaluate-digits.json").unlink()
    found = verdict(root)
    assert found.level == "missing"
    assert found.reasons[0].text.striptags() == "Failed, or not run: evaluate@digits."
    assert [reason.level for reason in found.reasons] == ["missing", "look"]


def test_without_expectations_a_run_is_not_judged(root: Path) -> None:
    values = read_yaml(root / "params.yaml")
    values["report"]["expected"]["digits"]["accuracy"] = None
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    assert verdict(root).level == "open"
    assert "No expectation is set" in said(verdict(root))
    add(root, "detect", "one")
    put(root, "detect-one", bad=3)
    assert verdict(root).level == "look"


def test_a_figure_that_was_not_measured_is_no_headline(root: Path) -> None:
    add(root, "read", "one")
    put(root, "read-one", images=5, digits=8)  # without a truth
    assert [one.key for one in headlines(root)] == ["evaluate-digits:accuracy"]


def test_every_expectation_belongs_to_a_figure_and_every_part_is_a_stage() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    made = from_mapping(PARAMS, content["report"], "report")
    figures = specs(content)
    expected = {(model, metric) for model, metrics in made.expected.items() for metric in metrics}
    assert {(figure.model, figure.measure.metric) for figure in figures} == expected
    assert set(SECTIONS) <= set(content)


def test_an_expectation_of_what_is_not_there_is_said(root: Path) -> None:
    values = read_yaml(root / "params.yaml")
    values["report"]["expected"]["digist"] = {"accuracy": 0.5}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    assert verdict(root).level == "look"
    assert "There is no model of the name of report.expected.digist" in said(verdict(root))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [({"acuracy": 0.9}, "expected.digits.acuracy is no figure"), ({"accuracy": 1.5}, "must be at least 0 and at most")],
)
def test_an_expectation_is_a_share_of_a_known_figure(metrics: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_expected({"digits": metrics})


def test_value_interval_and_expectation_stand_in_order_on_the_scale(root: Path) -> None:
    at = positions(headlines(root)[0])
    assert 0 <= at["low"] < at["expected"] < at["value"] < at["low"] + at["width"] <= 100
