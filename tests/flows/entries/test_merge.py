"""A newer Gridflow is taken in without work by hand: own entries, values and drops stay, new parameters come."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cnn_core.params import flatten
from flows.entries import document
from flows.entries.drop import DEMO_MODELS, DEMO_SETS, plan
from flows.entries.merge import merge_graph, merge_params
from flows.entries.new import filled
from flows.repository.former_shape import ENTRIES, reshaped
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.xdist_group("entries")

BASE = (ROOT / "params.yaml").read_text()
FILL = {
    "set": "birds",
    "source": "/birds",
    "model": "birds",
    "size": 96,
    "stored": 108,
    "epochs": 20,
    "batch": 32,
    "smoothing": 0.1,
}
FILL |= {"multilabel": ""}


def newer(text: str) -> str:
    """The same of a later version: another comment, another value, and a parameter more in `train`."""
    text = text.replace("# how many of the 5,000 images go into test.csv", "# images of test.csv")
    text = text.replace("    worst: 24               # number of mistakes shown\n  scenes:", "    worst: 30\n  scenes:")
    return re.sub(
        r"(?m)^    patience: 0 .*without a better val.*\n", lambda match: f"{match[0]}    warmth: 0.5\n", text
    )


def with_birds(text: str) -> str:
    for template in ("images", "image_classifier"):
        for section, entry in filled(template, FILL).items():
            text = document.insert(text, (section,), entry)
    return text


def test_own_entries_values_and_drops_survive() -> None:
    ours = with_birds(plan(ROOT, DEMO_MODELS, DEMO_SETS).texts["params.yaml"]).replace(
        "max_train: 5000", "max_train: 9"
    )
    merged = merge_params(BASE, ours, newer(BASE))
    assert merged.notes == []
    assert yaml.safe_load(merged.text) == yaml.safe_load(ours)
    assert "number of first images" not in merged.text  # a comment of an entry that was dropped


def test_what_a_person_changed_goes_over_what_is_new() -> None:
    ours = BASE.replace("    epochs: 30\n", "    epochs: 7\n", 1).replace("title: Gridflow", "title: Ours")
    merged = merge_params(BASE, with_birds(ours), newer(BASE))
    was, now = (dict(flatten(yaml.safe_load(text))) for text in (BASE, merged.text))
    assert {key: value for key, value in now.items() if was.get(key) != value and ".birds." not in key} == {
        "train.digits.epochs": 7, "report.title": "Ours", "evaluate.digits.worst": 30, "train.digits.warmth": 0.5,
    }  # fmt: skip
    assert "# images of test.csv" in merged.text
    assert "train.birds.epochs" in now


def test_another_network_comes_with_its_own_parameters_alone() -> None:
    content = yaml.safe_load(BASE)["train"]["digits"]["model"]
    assert content["architecture"] == "digit_cnn"
    lines = document.block(BASE, ("train", "digits", "model"))
    mine = "    model:\n      architecture: torchvision_model  # mine\n      builder: resnet18\n      dropout: 0.1\n"
    merged = merge_params(BASE, BASE.replace(lines, mine, 1), newer(BASE))
    entry = yaml.safe_load(merged.text)["train"]["digits"]
    assert entry["model"] == {"architecture": "torchvision_model", "builder": "resnet18", "dropout": 0.1}
    assert "torchvision_model  # mine" in merged.text
    assert merged.notes == []
    assert {**entry, "model": content} == yaml.safe_load(newer(BASE))["train"]["digits"]


def test_a_parameter_that_is_gone_is_said() -> None:
    newer_text = re.sub(r"(?m)^    max_train: .*\n", "", BASE)
    merged = merge_params(BASE, BASE.replace("max_train: 5000", "max_train: 9"), newer_text)
    assert merged.notes == ["baselines.digits.max_train is no longer a parameter: your value 9 is left out"]
    assert merged.text == newer_text


def test_an_entry_that_a_person_has_changed_stays() -> None:
    newer_text = re.sub(r"(?m)^anatomy:.*\n(?:  .*\n)+", "", BASE)
    merged = merge_params(BASE, BASE.replace("    networks: 30 ", "    networks: 31 "), newer_text)
    assert "networks: 31" in merged.text


def test_the_graph_keeps_own_models_and_takes_new_stages() -> None:
    base = (ROOT / "dvc.yaml").read_text()
    ours = document.insert(
        plan(ROOT, DEMO_MODELS, DEMO_SETS).texts["dvc.yaml"], ("artifacts",), "  birds:\n    path: x\n"
    )
    plot = "- birds-loss:\n    template: linear\n"
    newer_text = base.replace("desc: Train the classifier", "desc: Fit the classifier")
    merged = merge_graph(base, f"{ours}plots:\n{plot}", newer_text)
    content = yaml.safe_load(merged.text)
    assert (content["artifacts"], content["plots"]) == (
        {"birds": {"path": "x"}},
        [{"birds-loss": {"template": "linear"}}],
    )
    assert content["stages"] == yaml.safe_load(newer_text)["stages"]
    assert merged.notes == []


def test_a_file_of_the_former_shape_becomes_todays() -> None:
    lines, section = [], ""
    for line in BASE.splitlines():
        if head := re.match(r"^([a-z_]+):", line):
            section = head[1]
        if section in ENTRIES and line == f"  {ENTRIES[section]}:":
            continue
        lines.append(line[2:] if section in ENTRIES and line.startswith("    ") else line)
    former = "\n".join(lines) + "\n"
    assert "\ndetect:                     # names" in former
    assert "\n  conf: 0.25" in former
    assert reshaped(former) == BASE
    assert reshaped(BASE) == BASE
    old = former.replace(document.block(BASE, ("report", "expected")), "  expected:\n    detector_map50: 0.9\n")
    assert yaml.safe_load(reshaped(old))["report"]["expected"] == {"detector": {"map50": 0.9}}
    merged = merge_params(former, former.replace("  conf: 0.25 ", "  conf: 0.5 ", 1), BASE)
    assert yaml.safe_load(merged.text)["detect"]["detector"]["conf"] == 0.5
    assert Path(ROOT, "params.yaml").read_text() == BASE
