"""The networks by name: what ``train.<set>.model.architecture`` may be.

An architecture has the name of its module in this folder. ``dvc.yaml`` makes training depend on that module by template
and never on this list, so a new entry makes no trained model stale. A module is imported only when its name is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cnn_core.params import Params, from_mapping

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The dataclass of a network's parameters, and ``build(params=, num_classes=, shape=(C, H, W))``."""

    params: type[Params]
    build: Callable[..., nn.Module]
    check_sides: Callable[..., None] = lambda *_, **__: None  # as `check_sides` here, after the network's parameters


def _digit_cnn() -> Architecture:
    from cnn_core.classification.architectures import digit_cnn

    return Architecture(params=digit_cnn.DigitCNNParams, build=digit_cnn.DigitCNN)


def _torchvision_model() -> Architecture:
    from cnn_core.classification.architectures import torchvision_model

    return Architecture(
        params=torchvision_model.TorchvisionModelParams,
        build=torchvision_model.build,
        check_sides=torchvision_model.check_sides,
    )


ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "digit_cnn": _digit_cnn,
    "torchvision_model": _torchvision_model,
}


def model_params(section: Mapping[str, Any]) -> Params:
    """Check a ``model`` section, which has ``architecture`` and that architecture's own keys.

    Raises:
        ValueError: an unknown architecture, or a value that its parameters refuse; the name starts with ``model.``.
    """
    architecture = _architecture(section)
    return from_mapping(architecture.params, {k: v for k, v in section.items() if k != "architecture"}, "model")


def check_sides(section: Mapping[str, Any], *, image_size: int, start_size: int) -> None:
    """Refuse sides of images that the network cannot take; the message starts with ``image_size`` or ``start_size``."""
    _architecture(section).check_sides(model_params(section), image_size=image_size, start_size=start_size)


def build(section: Mapping[str, Any], num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Build a new network: float (N, C, H, W), normalised -> logits (N, num_classes)."""
    return _architecture(section).build(params=model_params(section), num_classes=num_classes, shape=shape)


def _architecture(section: Mapping[str, Any]) -> Architecture:
    name = section.get("architecture")
    if name not in ARCHITECTURES:
        raise ValueError(f"model.architecture must be one of {', '.join(ARCHITECTURES)}, not {name!r}")
    return ARCHITECTURES[name]()
