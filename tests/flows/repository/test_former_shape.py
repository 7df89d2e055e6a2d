"""Parameters and metrics of versions whose detector, segmenter and reader had no names, in today's shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cnn_core.params import flatten
from flows.repository.former_shape import ENTRIES, METRICS, renewed, today
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.xdist_group("models")


def test_former_parameters_get_the_names_of_their_models() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    former = {name: next(iter(section.values())) if name in ENTRIES else section for name, section in values.items()}
    former["report"] = {**values["report"], "expected": {"detector_map50": 0.9, "digits_accuracy": None}}
    again = renewed(former)
    expected = {"detector": {"map50": 0.9}, "digits": {"accuracy": None}}
    assert again == {**values, "report": {**values["report"], "expected": expected}}
    assert renewed(again) == again
    assert "detect.detector.weights" in dict(flatten(again))
    assert renewed({"detect": {}, "read": None}) == {"detect": {}, "read": None}


def test_former_metrics_lie_where_todays_do() -> None:
    assert today(f"{METRICS}/detect.json") == f"{METRICS}/detect-detector.json"
    for path in (f"{METRICS}/detect-detector.json", f"{METRICS}/train-digits.json", "elsewhere/detect.json"):
        assert today(path) == path
    assert all(Path(today(f"{METRICS}/{section}.json")).name.startswith(f"{section}-") for section in ENTRIES)
