"""Model folders with random weights, made without training."""

from __future__ import annotations

from pathlib import Path

import torch

from cnn_core.classification.architectures import registry
from cnn_core.classification.inference.model_folder import ModelCard, save_model

DIGIT_CNN = {"architecture": "digit_cnn", "width": 2, "depth": 1, "channel_dropout": 0.2, "dropout": 0.2}
SCENES = ["buildings", "forest", "glacier", "mountain", "sea", "street"]
DIGITS = list("0123456789")


def photo_model(folder: Path, builder: str, side: int = 64, *, stored: int | None = None) -> Path:
    """A torchvision network for photographs that are kept as squares of ``stored`` pixels (None: its own ``side``)."""
    section = {"architecture": "torchvision_model", "builder": builder, "dropout": 0.0}
    mean, std = [0.45, 0.46, 0.41], [0.27, 0.26, 0.3]
    square = {"shape": [3, side, side], "mean": mean, "std": std, "views": "photo", "side": stored or side}
    return _save(folder, section, square, SCENES)


def digit_model(folder: Path) -> Path:
    square = {"shape": [1, 28, 28], "mean": [0.13], "std": [0.31], "views": "glyph", "side": 28}
    return _save(folder, DIGIT_CNN, square, DIGITS)


def _save(folder: Path, section: dict, preprocessing: dict, classes: list[str]) -> Path:
    torch.manual_seed(0)
    network = registry.build(section, len(classes), tuple(preprocessing["shape"]))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of what it sees; untrained statistics let a deep network fade to nothing
    with torch.no_grad():
        network(torch.randn(8, *preprocessing["shape"]))
    weights = network.state_dict()
    *_, head = (name for name in weights if name.endswith("weight"))
    if not weights[head].any():  # torchvision's vision transformers begin with a head of zeros
        torch.nn.init.normal_(weights[head], std=0.02)
    weights[head] = weights[head] * 5  # probabilities that differ from class to class
    rest = {"metrics": {}, "params": {}, "data_sha256": "00", "git_commit": "", "refit": "none", "epochs": 1}
    card = ModelCard(model=section, classes=classes, preprocessing=preprocessing, **rest)
    save_model(folder, card, shipped=weights, evaluated={})
    return folder
