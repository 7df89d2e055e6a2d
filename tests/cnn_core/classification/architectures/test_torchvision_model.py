from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch.overrides import TorchFunctionMode

from cnn_core.classification.architectures import registry
from cnn_core.classification.architectures.torchvision_model import TorchvisionModelParams, build, builders, construct
from cnn_core.classification.inference.model_folder import ModelCard, load_model, save_model
from cnn_core.classification.training.layer_groups import head_name, layer_groups
from cnn_core.classification.training.learner import ClassifierLearner, LearnerSetup
from cnn_core.classification.training.params import TrainParams
from cnn_core.params import from_mapping, read_yaml
from tests.helpers.learning import CPU, PLAIN, ROOT
from tests.helpers.learning import params as params_of_training

EIGHT = [
    "alexnet",
    "squeezenet1_1",
    "mobilenet_v3_small",
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
]


class OnMeta(TorchFunctionMode):
    """Parameters without values, which nobody initialises: so a large network costs nothing. (`torch.device("meta")`
    would also take the numbers from which regnet computes its widths.)"""

    INITIALISERS = ("normal_", "uniform_", "fill_", "zero_", "mul_", "add_", "erfinv_", "clamp_")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        if func.__name__.endswith(self.INITIALISERS):
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, torch.nn.Parameter):
                return tensor
        return func(*args, **kwargs)


def params(builder: str, dropout: float = 0.0) -> TorchvisionModelParams:
    return TorchvisionModelParams(builder=builder, dropout=dropout)


def on_meta(builder: str, side: int = 224, dropout: float = 0.0) -> torch.nn.Module:
    with OnMeta():
        return construct(params=params(builder, dropout), num_classes=6, shape=(3, side, side))


@pytest.mark.parametrize("builder", EIGHT)
def test_images_of_64_pixels_become_logits(builder: str):
    torch.manual_seed(0)
    section = {"architecture": "torchvision_model", "builder": builder, "dropout": 0.0}
    network = registry.build(section, 6, (3, 64, 64))
    assert network.training
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 6)
    assert logits.isfinite().all()


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_builder_makes_a_head_for_our_classes_and_falls_into_groups(few: bool):
    assert len(builders()) >= 80
    for builder in EIGHT if few else builders():
        network = on_meta(builder)
        groups = layer_groups(network)
        assert 3 <= len(groups) <= 12, builder
        assert network.get_submodule(head_name(network)).weight.shape[0] == 6, builder
        assert sorted(id(p) for group in groups for p in group) == sorted(map(id, network.parameters())), builder


@pytest.mark.parametrize("builder", ["googlenet", "inception_v3"])
def test_in_training_too_there_are_plain_logits(builder: str):
    network = on_meta(builder).train()
    assert network(torch.empty(2, 3, 96, 96, device="meta")).shape == (2, 6)
    assert network.transform_input


def test_only_classification_networks_are_listed():
    assert not {"quantized_resnet18", "fasterrcnn_resnet50_fpn", "fcn_resnet50", "r3d_18", "raft_small"} & set(
        builders()
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"builder": "resnet-18"},
            r"model\.builder must be a classification network of torchvision, not 'resnet-18'; did you mean resnet18",
        ),
        ({"builder": "AlexNet"}, "did you mean alexnet"),
        ({"builder": "zzz"}, "for example alexnet"),
        ({"builder": "quantized_resnet50"}, r"model\.builder must be a classification network of torchvision"),
        ({"builder": "resnet18", "dropout": 0.5}, r"model\.dropout must be 0 for resnet18, which has none, not 0\.5"),
        ({"dropout": 1.0}, r"model\.dropout must be at least 0 and at most 0\.95"),
    ],
)
def test_a_wrong_section_is_one_sentence(change: dict, words: str):
    with pytest.raises(ValueError, match=words):
        registry.model_params({"architecture": "torchvision_model", "builder": "alexnet", "dropout": 0.5, **change})


@pytest.mark.parametrize(
    "builder", ["alexnet", "squeezenet1_1", "vgg11", "mobilenet_v2", "efficientnet_b0", "vit_b_32"]
)
def test_dropout_is_the_builders_own(builder: str):
    dropouts = [m.p for m in on_meta(builder, dropout=0.35).modules() if isinstance(m, torch.nn.Dropout)]
    assert 0.35 in dropouts


@pytest.mark.parametrize(("builder", "smallest"), [("alexnet", 63), ("squeezenet1_1", 17)])
def test_the_smallest_side_that_is_named_works_and_one_less_does_not(builder: str, smallest: int):
    network = build(params=params(builder), num_classes=6, shape=(3, smallest, smallest + 5)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, smallest, smallest)).shape == (1, 6)
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3, smallest - 1, smallest - 1))
    with pytest.raises(ValueError, match=f"{builder} cannot take images .* that works is {smallest}; image_size sets"):
        build(params=params(builder), num_classes=6, shape=(3, smallest - 1, 100))


@pytest.mark.parametrize(
    ("builder", "shape", "words"),
    [
        ("alexnet", (1, 64, 64), "alexnet takes images of 3 channels"),
        ("vit_b_16", (3, 64, 60), "square images with a side that is a multiple of 16 pixels, not 64x60"),
        ("vit_b_16", (3, 8, 8), "the smallest side that works is 16"),
        ("vit_h_14", (3, 64, 64), "a multiple of 14 pixels"),
        ("maxvit_t", (3, 128, 128), "multiples of 224 pixels, not 128x128"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(builder: str, shape: tuple, words: str):
    with pytest.raises(ValueError, match=words):
        build(params=params(builder), num_classes=6, shape=shape)


def test_a_trial_of_the_size_changes_neither_weights_nor_random_numbers():
    def made(trial: bool) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(3)
        make = build if trial else construct
        network = make(params=params("resnet18"), num_classes=6, shape=(3, 32, 32))
        assert int(network.bn1.num_batches_tracked) == 0
        return network.fc.weight.detach(), torch.rand(3)

    for tried, plain in zip(made(True), made(False), strict=True):
        assert torch.equal(tried, plain)


def test_torchvision_is_imported_only_when_it_is_asked_for(tmp_path: Path):
    code = (
        "import sys; from cnn_core.classification.architectures import registry, torchvision_model; "
        "print(*{'torch', 'torchvision'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True
    )
    assert done.stdout == b"\n"


@pytest.mark.parametrize(
    ("builder", "image_size", "start_size", "words"),
    [
        ("vit_b_16", 128, 80, r"start_size must be 0 for vit_b_16, whose images have one size, not 80$"),
        ("maxvit_t", 224, 112, r"start_size must be 0 for maxvit_t, whose images have one size, not 112$"),
        ("vit_b_32", 112, 0, r"image_size must be a multiple of 32 for vit_b_32, not 112$"),
        ("inception_v3", 96, 64, r"start_size must be at least 75 for inception_v3, not 64$"),
        ("alexnet", 96, 48, r"start_size must be at least 63 for alexnet, not 48$"),
        ("alexnet", 48, 0, r"image_size must be at least 63 for alexnet, not 48$"),
    ],
)
def test_sizes_that_a_network_cannot_take_are_told_before_anything_runs(
    builder: str, image_size: int, start_size: int, words: str
):
    section = read_yaml(ROOT / "params.yaml")["train"]["scenes"]
    section |= {"image_size": image_size, "start_size": start_size}
    section["model"] = {"architecture": "torchvision_model", "builder": builder, "dropout": 0.0}
    with pytest.raises(ValueError, match=rf"^train\.scenes\.{words}"):
        from_mapping(TrainParams, section, "train.scenes")


@pytest.mark.parametrize(
    ("builder", "image_size", "start_size"),
    [
        ("vit_b_16", 128, 0),
        ("vit_b_16", 128, 128),
        ("alexnet", 112, 64),
        ("swin_t", 112, 64),
        ("regnet_y_400mf", 64, 32),
    ],
)
def test_sizes_that_a_network_takes_are_let_through(builder: str, image_size: int, start_size: int):
    section = {"architecture": "torchvision_model", "builder": builder, "dropout": 0.0}
    registry.check_sides(section, image_size=image_size, start_size=start_size)


def learn_save_and_load(builder: str, folder: Path, side: int) -> None:
    """A step of training with averaged weights; what is saved and loaded again answers as the trained network does."""
    section = {"architecture": "torchvision_model", "builder": builder, "dropout": 0.0}
    torch.manual_seed(0)
    setup = LearnerSetup(mean=(0.5,) * 3, std=(0.25,) * 3, transform=PLAIN, device=CPU)
    network = registry.build(section, 6, (3, side, side))
    learner = ClassifierLearner(network, params_of_training(ema_decay=0.9, batch_size=2), setup, steps=2)
    images = torch.rand(2, 3, side, side)
    learner.step(images, torch.tensor([1, 4]), global_batch_size=2)
    facts = {"metrics": {}, "params": {}, "data_sha256": "", "git_commit": "", "refit": "none", "epochs": 1}
    square = {"shape": [3, side, side], "mean": [0.5] * 3, "std": [0.25] * 3, "views": "photo", "side": side}
    card = ModelCard(model=section, classes=list("abcdef"), preprocessing=square, **facts)
    save_model(folder / builder, card, shipped=learner.weights(), evaluated={})
    loaded, _ = load_model(folder / builder)
    torch.testing.assert_close(dict(loaded.state_dict()), learner.weights(), rtol=0, atol=0)
    with torch.no_grad():
        expected = learner.averaged.eval()(images)
        # Its weights lie in memory in another order, so sums round differently, in proportion to the logits.
        torch.testing.assert_close(loaded(images), expected, rtol=0, atol=2e-5 * max(1, float(expected.abs().max())))


@pytest.mark.parametrize("builder", ["mnasnet0_5", "swin_t"])
def test_a_network_that_was_trained_can_be_loaded(tmp_path: Path, builder: str):
    learn_save_and_load(builder, tmp_path, 32)


@pytest.mark.nightly
@pytest.mark.parametrize("builder", builders())
def test_every_builder_learns_is_saved_and_loaded(tmp_path: Path, builder: str):
    parameters = sum(parameter.numel() for parameter in on_meta(builder).parameters())
    if (needed := 24 * parameters) > psutil.virtual_memory().available:  # weights, average, gradients, AdamW, the file
        pytest.skip(f"{builder} needs {needed >> 30} GiB of memory")
    learn_save_and_load(builder, tmp_path, 224 if builder in ("maxvit_t", "vit_h_14") else 96)
