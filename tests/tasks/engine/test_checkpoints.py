from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_core.classification.architectures import registry
from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.model_folder import ModelCard, load_model, save_model
from cnn_core.classification.inference.views import GLYPH, moved
from cnn_core.classification.training.loop import train
from cnn_core.drawing.contact_sheet import contact_sheet
from tasks.engine.checkpoints import load_checkpoint, save_checkpoint
from tests.helpers.learning import params, stripes, training_setup

MODEL = {"architecture": "digit_cnn", "width": 2, "depth": 1, "channel_dropout": 0.0, "dropout": 0.0}


def network(seed=0):
    torch.manual_seed(seed)
    return registry.build(MODEL, 4, (1, 8, 8))


def card(**changes):
    values = {"model": MODEL, "classes": list("abcd"), "metrics": {"val_accuracy": 0.9}, "params": {"epochs": 3}}
    preprocessing = {"shape": [1, 8, 8], "mean": [0.2], "std": [0.3], "views": "glyph", "side": 8}
    rest = {"preprocessing": preprocessing, "data_sha256": "00", "git_commit": "", "refit": "none", "epochs": 3}
    return ModelCard(**values | rest | changes)


def saved(folder, seed=0, **changes):
    weights = network(seed).state_dict()
    save_model(folder, card(**changes), shipped=weights, evaluated=network(seed + 1).state_dict())
    return weights


def test_a_model_folder_gives_back_what_was_saved(tmp_path):
    weights = saved(tmp_path / "m")
    loaded, found = load_model(tmp_path / "m")
    assert found == card()
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[key], weights[key]) for key in weights)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]
    assert json.loads((tmp_path / "m/model.json").read_text())["architecture"] == "digit_cnn"


def test_after_a_refit_both_networks_are_kept(tmp_path):
    weights = saved(tmp_path / "m", refit="all")
    shipped, evaluated = (load_model(tmp_path / "m", which)[0].state_dict() for which in ("model", "evaluated"))
    assert torch.equal(shipped["head.2.weight"], weights["head.2.weight"])
    assert torch.equal(evaluated["head.2.weight"], network(1).state_dict()["head.2.weight"])


def test_a_failed_save_leaves_the_former_model(tmp_path):
    weights = saved(tmp_path / "m")
    with pytest.raises((AttributeError, ValueError, TypeError)):
        save_model(tmp_path / "m", card(), shipped={"not a tensor": 3}, evaluated={})
    assert torch.equal(load_model(tmp_path / "m")[0].state_dict()["head.2.bias"], weights["head.2.bias"])


def test_what_is_wrong_with_a_model_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"model\.json does not exist; the stage train writes it"):
        load_model(tmp_path / "nothing")
    saved(tmp_path / "m", model={**MODEL, "width": 3})
    with pytest.raises(ValueError, match="does not hold this architecture's weights"):
        load_model(tmp_path / "m")
    content = json.loads((tmp_path / "m/model.json").read_text())
    (tmp_path / "m/model.json").write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(ValueError, match="another version of Gridflow"):
        load_model(tmp_path / "m")


def test_a_checkpoint_comes_back_and_a_pickle_that_would_run_code_does_not(tmp_path):
    kept = []
    train(params(epochs=1), training_setup(), on_epoch=lambda _, make: kept.append(make()))
    save_checkpoint(tmp_path / "c", kept[0])
    back = load_checkpoint(tmp_path / "c")
    assert back["history"] == kept[0]["history"]
    assert torch.equal(back["learner"]["network"]["6.weight"], kept[0]["learner"]["network"]["6.weight"])

    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"history": Harmful()}, tmp_path / "c/checkpoint.pt")
    with pytest.raises(ValueError, match="cannot be read as a training checkpoint"):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match="does not exist"):
        load_checkpoint(tmp_path / "d")


def images(count=7):
    return stripes(count).images.numpy()


def test_a_classifier_gives_the_networks_probabilities(tmp_path):
    saved(tmp_path / "m")
    classifier = Classifier(tmp_path / "m", batch=3)
    found = classifier(images())
    assert found.shape == (7, 4)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    with torch.no_grad():
        pixels = (torch.from_numpy(images()).float() / 255 - 0.2) / 0.3
        expected = network().eval()(pixels).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert classifier(images()[:0]).shape == (0, 4)
    with pytest.raises(ValueError, match=r"takes images of shape \(1, 8, 8\), not \(1, 9, 9\)"):
        classifier(np.zeros((1, 1, 9, 9), np.uint8))


def test_views_are_averaged_and_always_the_same(tmp_path):
    saved(tmp_path / "m")
    classifier = Classifier(tmp_path / "m", tta=len(GLYPH))
    found = classifier(images())
    np.testing.assert_array_equal(found, Classifier(tmp_path / "m", tta=len(GLYPH))(images()))
    assert np.abs(found - Classifier(tmp_path / "m")(images())).max() > 1e-4
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_a_view_moves_the_image_as_it_says():
    dot = torch.zeros(1, 1, 28, 28)
    dot[0, 0, 10, 10] = 1
    right = moved(dot, (0, 1 / 28, 0, 1.0))
    down = moved(dot, (0, 0, 1 / 28, 1.0))
    assert right[0, 0, 10, 11] == pytest.approx(1, abs=1e-4)
    assert down[0, 0, 11, 10] == pytest.approx(1, abs=1e-4)
    bar = torch.zeros(1, 1, 28, 28)
    bar[0, 0, :14, 13:15] = 1  # a hand at twelve; turned by 90 degrees it lies to one side
    turned = moved(bar, (90, 0, 0, 1.0))
    assert turned[0, 0, 13:15].sum() == pytest.approx(28, abs=0.1)
    square = torch.zeros(1, 1, 28, 28)
    square[0, 0, 10:18, 10:18] = 1
    assert moved(square, (0, 0, 0, 1.5)).sum() > 1.8 * 64
    assert moved(square, GLYPH[0]) is square


def test_a_contact_sheet_holds_every_image(tmp_path):
    white = np.full((3, 1, 28, 28), 255, np.uint8)
    colour = np.zeros((2, 3, 40, 20), np.uint8)
    colour[:, 0] = 255
    black = np.zeros((2, 1, 28, 28), np.uint8)
    contact_sheet(
        tmp_path / "new/a.png", [black, colour], title="t", captions=[["x"] * 2] * 2, headings=["1", "2"], side=56
    )
    with Image.open(tmp_path / "new/a.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == (255, 0, 0)).all(-1).sum() == 2 * 56 * 28
    assert (pixels == 0).all(-1).sum() >= 2 * 56 * 56
    contact_sheet(tmp_path / "b.png", [white], title="no caption")
    contact_sheet(tmp_path / "c.png", [], title="nothing to show")
