"""A model folder that cannot be used says in a sentence what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_core.classification.inference.model_folder import load_model
from tests.helpers.model_folders import digit_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return digit_model(tmp_path / "digits")


def change(**values: object) -> Callable[[dict], dict]:
    return lambda card: card | values


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            change(schema_version=2),
            r"digits was written by another version of Gridflow \(schema version 2; this one",
        ),
        (
            change(threshold=0.5),
            r"of Gridflow \(threshold in its model\.json is unknown here; .* update",
        ),
        (lambda card: card | {"preprocessing": card["preprocessing"] | {"gamma": 2}}, r"\(preprocessing\.gamma in its"),
        (change(preprocessing={"shape": [1, 28, 28]}), r"model\.json has no preprocessing\.mean: it is no classifier"),
        (change(model={"architecture": "capsules"}), r"digits cannot be built: model\.architecture must be one of"),
        (change(classes=["a", "b"]), r"model\.safetensors does not hold this architecture's weights"),
        (lambda card: {"schema_version": 1, "architecture": "yolo11n.yaml"}, r"has no model: it is no classifier"),
        (lambda card: [1], r"model\.json holds no keys: it is no classifier of this project"),
    ],
)
def test_another_model_json_is_a_sentence(folder: Path, changed: Callable, words: str) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=words):
        load_model(folder)


def test_half_copied_folders_files_and_none_are_sentences(folder: Path) -> None:
    weights, card = folder / "model.safetensors", folder / "model.json"
    content = weights.read_bytes()
    for part in (b"", content[:100], content[:-7]):
        weights.write_bytes(part)
        with pytest.raises(ValueError, match=r"model\.safetensors is cut short or damaged .*: copy it again"):
            load_model(folder)
    for path in (weights, folder / "none"):
        path.touch()
        with pytest.raises(ValueError, match=r"is a file: name a model folder"):
            load_model(path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors does not exist, though model\.json stands beside it"):
        load_model(folder)
    card.write_text(card.read_text()[:40])
    with pytest.raises(ValueError, match=r"model\.json is not valid JSON"):
        load_model(folder)
    card.unlink()
    with pytest.raises(ValueError, match=r"model\.json does not exist"):
        load_model(folder)
