from __future__ import annotations

import argparse
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import AlexNet, VisionTransformer

from cnn_core.classification.architectures import registry
from cnn_core.classification.inference.model_folder import ModelCard, save_model
from cnn_core.classification.training.initial_weights import load_initial
from cnn_core.files import NONE, is_none
from tests.helpers.learning import ROOT

MODEL = {"architecture": "digit_cnn", "width": 2, "depth": 2, "channel_dropout": 0.0, "dropout": 0.0}
ABCD = list("abcd")


def network(seed: int = 0, num_classes: int = 4, **changes: int) -> nn.Module:
    torch.manual_seed(seed)
    made = registry.build(MODEL | changes, num_classes, (1, 8, 8))
    for name, buffer in made.named_buffers():
        if buffer.is_floating_point():
            nn.init.constant_(buffer, seed + 0.5)
        assert name
    return made


def vit(image_size: int, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    made = VisionTransformer(image_size, 8, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=16, num_classes=4)
    nn.init.normal_(made.heads.head.weight)  # torchvision begins with zeros
    return made


def model_folder(path, seed: int = 1, refit: str = "none", **changes: int):
    section = MODEL | changes
    card = ModelCard(
        model=section,
        classes=ABCD,
        preprocessing={"shape": [1, 8, 8], "mean": [0.2], "std": [0.3]},
        metrics={},
        params={},
        data_sha256="",
        git_commit="",
        refit=refit,
        epochs=1,
    )
    shipped, evaluated = (network(s, **changes).state_dict() for s in (seed, seed + 1))
    save_model(path, card, shipped=shipped, evaluated=evaluated)
    return path


def same(one: nn.Module, other: nn.Module) -> set[str]:
    theirs = other.state_dict()
    return {name for name, tensor in one.state_dict().items() if torch.equal(tensor, theirs[name])}


def differing(one: nn.Module, other: nn.Module) -> set[str]:
    return set(one.state_dict()) - same(one, other)


HEAD = {"head.2.weight", "head.2.bias"}


def test_none_is_any_path_that_ends_so_and_its_marker_is_committed():
    assert is_none(NONE)
    assert is_none("none")
    assert is_none("/elsewhere/none")
    assert not is_none("data/weights/none.pth")
    assert (ROOT / NONE).is_file()
    started = network()
    loaded = load_initial(started, NONE, classes=ABCD)
    assert (loaded.copied, loaded.source) == (0, "none")
    assert set(loaded.fresh) == set(started.state_dict())
    assert not differing(started, network())


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": {"model": s}}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_state_dict_is_copied_but_for_the_head(tmp_path, wrap, prefix: str):
    state = {f"{prefix}{name}": tensor for name, tensor in network(1).state_dict().items()}
    torch.save(wrap(state), tmp_path / "a.pth")
    started = network(0)
    loaded = load_initial(started, tmp_path / "a.pth", classes=ABCD)
    assert differing(started, network(1)) == HEAD  # its shape fits, but nobody knows the order of its classes
    assert set(loaded.fresh) == HEAD
    assert loaded.copied == len(state) - 2
    assert str(tmp_path / "a.pth") in loaded.source


def test_a_safetensors_file_is_read_and_half_precision_too(tmp_path):
    state = {name: t.half() if t.is_floating_point() else t for name, t in network(1).state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    started = network(0)
    load_initial(started, tmp_path / "a.safetensors", classes=ABCD)
    found = started.state_dict()["blocks.0.0.weight"]
    assert found.dtype == torch.float32
    assert torch.equal(found, state["blocks.0.0.weight"].float())


def test_a_model_folder_gives_its_head_only_for_the_same_classes_in_the_same_order(tmp_path):
    folder = model_folder(tmp_path / "m")
    started = network(0)
    assert load_initial(started, folder, classes=ABCD).fresh == []
    assert not differing(started, network(1))
    started = network(0)
    assert set(load_initial(started, folder, classes=list("abdc")).fresh) == HEAD
    assert differing(started, network(1)) == HEAD
    started = network(0, num_classes=6)
    assert set(load_initial(started, folder, classes=list("abcdef")).fresh) == HEAD


def test_of_a_refitted_model_the_weights_are_taken_that_have_not_seen_val_and_test(tmp_path):
    started = network(0)
    load_initial(started, model_folder(tmp_path / "m", seed=1, refit="all"), classes=ABCD)
    assert not differing(started, network(2))


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path):
    mine = network(1).state_dict()
    states = {
        "alexnet": AlexNet(num_classes=2).features.state_dict(),
        "shape": mine | {"blocks.0.0.weight": torch.zeros(2, 3, 3, 3)},
        "shallow": network(1, depth=1).state_dict(),
        "deep": network(1, depth=3).state_dict(),
        "body": {name: tensor for name, tensor in mine.items() if name != "blocks.1.1.bias"},
    }
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pth")
    for path, words in [
        ("alexnet.pth", r"alexnet\.pth does not fit the network: 20 of the 20 .* not in it \(blocks.*; 10 .*left over"),
        ("shape.pth", r"1 have another shape \(blocks\.0\.0\.weight is \[2, 3, 3, 3\] there and \[2, 1, 3, 3\] here"),
        ("shallow.pth", r"10 of the 20 tensors before the head are not in it \(blocks\.1\.0\.weight"),
        ("deep.pth", r"network: 12 tensors of it are left over \(blocks\.2\.0\.weight"),
        ("body.pth", r"1 of the 20 tensors before the head are not in it \(blocks\.1\.1\.bias\)"),
        (model_folder(tmp_path / "m", width=3), r"m \(a model folder with the network digit_cnn\) does not fit"),
    ]:
        path = tmp_path / path
        started = network(0)
        with pytest.raises(ValueError, match=words):
            load_initial(started, path, classes=ABCD)
        assert not differing(started, network(0))


def test_position_embeddings_are_interpolated_to_the_image_size(tmp_path):
    torch.save(vit(32, seed=1).state_dict(), tmp_path / "vit.pth")
    started = vit(64)
    loaded = load_initial(started, tmp_path / "vit.pth", classes=ABCD)
    assert set(loaded.fresh) == {"heads.head.weight", "heads.head.bias"}
    before, after = vit(32, seed=1).encoder.pos_embedding, started.encoder.pos_embedding
    assert after.shape == (1, 65, 8)
    assert torch.equal(after[:, 0], before[:, 0])
    corners = [(1, 1), (4, 8), (13, 57), (16, 64)]  # of a grid of 4x4 and of 8x8 places
    assert all(torch.allclose(before[0, small], after[0, large], atol=1e-5) for small, large in corners)


def test_names_of_torchvisions_older_files_are_translated(tmp_path):
    state = vit(32, seed=1).state_dict()
    former = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): state[name] for name in state
    }
    assert former.keys() != state.keys()
    torch.save(former, tmp_path / "vit.pth")
    assert set(load_initial(vit(32), tmp_path / "vit.pth", classes=ABCD).fresh) == {
        "heads.head.weight",
        "heads.head.bias",
    }

    dense = nn.Module()
    dense.denselayer12 = nn.ModuleDict({"norm1": nn.BatchNorm2d(3), "conv2": nn.Conv2d(3, 3, 1)})
    dense.classifier = nn.Linear(3, 4)
    former = {name.replace("norm1", "norm.1").replace("conv2", "conv.2"): t for name, t in dense.state_dict().items()}
    torch.save(former, tmp_path / "densenet.pth")
    fresh = load_initial(dense, tmp_path / "densenet.pth", classes=ABCD).fresh
    assert set(fresh) == {"classifier.weight", "classifier.bias"}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in network(1).state_dict().items()}


PLAIN = {name: tensor + 1 for name, tensor in network(2).state_dict().items()}
FILES = {
    "ddp_compiled": lambda: prefixed("_orig_mod.module."),
    "lightning": lambda: {"state_dict": prefixed("model."), "epoch": 3, "hyper_parameters": {"lr": 1e-3}},
    "lightning and a loss": lambda: {"state_dict": prefixed("net.") | {"criterion.weight": torch.ones(3)}},
    "backbone": lambda: {"state_dict": prefixed("encoder.backbone.")},
    "averaged": lambda: {"model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.")}, "model": PLAIN},
    "reference": lambda: {"model": prefixed(""), "optimizer": {"state": {0: {}}}, "args": argparse.Namespace(lr=0.1)},
    "numpy": lambda: {"state_dict": prefixed(""), "best": np.float64(0.9), "at": np.int64(3)},
    "any key": lambda: {"my network": prefixed("module."), "acc": 92.1},
    "numbers inside": lambda: {**prefixed(""), "epoch": 3},
    "deep": lambda: {"a": {"b": {"c": prefixed("")}}},
    "half": lambda: {name: t.half() if t.is_floating_point() else t for name, t in prefixed("").items()},
    "before torch 0.4.1": lambda: {name: t for name, t in prefixed("").items() if "num_batches" not in name},
}


@pytest.mark.parametrize("kind", FILES)
def test_people_s_files_give_the_same_tensors(tmp_path, kind: str):
    torch.save(FILES[kind](), tmp_path / "a.pth")
    started = network(0)
    loaded = load_initial(started, tmp_path / "a.pth", classes=ABCD)
    assert set(loaded.fresh) >= HEAD
    for name, tensor in network(1).state_dict().items():
        if name not in loaded.fresh:
            torch.testing.assert_close(started.state_dict()[name], tensor, atol=2e-3 if kind == "half" else 0, rtol=0)
    if kind == "averaged":
        assert loaded.source.endswith("a.pth (its 'model_ema', names behind 'module.')")


def test_a_torchscript_program_says_how_to_get_its_weights(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "a.pt"))
    with pytest.raises(ValueError, match=r"a\.pt is a TorchScript program.*torch\.jit\.load\('a\.pt'\)"):
        load_initial(network(), tmp_path / "a.pt", classes=ABCD)


def test_auxiliary_classifiers_of_a_file_are_left_over_and_named(tmp_path):
    torch.save(prefixed("") | {"aux.fc.weight": torch.ones(2)}, tmp_path / "a.pth")
    assert load_initial(network(0), tmp_path / "a.pth", classes=ABCD).left_over == ["aux.fc.weight"]


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"state_dict": Harmful()}, tmp_path / "a.pth")
    torch.save(network(), tmp_path / "b.pth")  # a whole network is code too
    for name in ("a.pth", "b.pth"):
        with pytest.raises(ValueError, match=r"holds pickled Python code besides tensors \([\w.]+\) and is not read"):
            load_initial(network(), tmp_path / name, classes=ABCD)
    assert not (tmp_path / "executed").exists()


def test_what_is_no_state_dict_is_told(tmp_path):
    torch.save(network().state_dict(), tmp_path / "whole.pth")
    contents = {
        "empty.pth": b"",
        "text.pth": b"<html>404</html>",
        "cut.pth": (tmp_path / "whole.pth").read_bytes()[:-2000],
        "text.safetensors": b"<html>404 not found</html>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a state dict"):
            load_initial(network(), tmp_path / name, classes=ABCD)
    for value in ({}, {"epoch": 3}, [torch.zeros(3)], {"a": {"b": 2}}):
        torch.save(value, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="is no state dict"):
            load_initial(network(), tmp_path / "other.pth", classes=ABCD)


def test_what_is_absent_is_told_with_what_to_put_where(tmp_path):
    words = r"mine\.pth does not exist: `gridflow fetch alexnet`.*data/weights/alexnet\.pth.*/none starts"
    with pytest.raises(ValueError, match=words):
        load_initial(network(), tmp_path / "mine.pth", classes=ABCD)
    (tmp_path / "mine.pth.dvc").write_text("")
    with pytest.raises(ValueError, match=r"dvc pull .*mine\.pth\.dvc"):
        load_initial(network(), tmp_path / "mine.pth", classes=ABCD)
    (tmp_path / "m").mkdir()
    with pytest.raises(ValueError, match=r"model\.json does not exist"):
        load_initial(network(), tmp_path / "m", classes=ABCD)
