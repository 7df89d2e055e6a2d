"""Any classification network of torchvision, by the name of its builder: alexnet, resnet18, vit_b_16 ...

The builder makes its own head for our classes. What a builder needs beyond that is read from the arguments of the
network's class, so a builder of a later torchvision works without a change here.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from typing import TYPE_CHECKING, Any

from cnn_core.params import Params, bounded

if TYPE_CHECKING:
    from torch import nn

_LARGEST_SIDE = 512  # in the search for the smallest side that works
_WHERE = "image_size sets it, and 0 takes the side that augment stores"
_MAXVIT_STEP = 224  # 5 halvings (32) of windows of 7 pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchvisionModelParams(Params):
    """Which network, and how much of it is dropped in training.

    ``dropout`` is the argument of the network's class: before the classifier's layers, in vit and swin within every
    block. Families without one (resnet, resnext, convnext, densenet, regnet, shufflenet, maxvit) take 0 only.
    """

    builder: str
    dropout: float = bounded(0, 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.builder not in builders():
            raise ValueError(f"builder {unknown_builder(self.builder)}")
        if self.dropout and "dropout" not in _arguments(self.builder):
            raise ValueError(f"dropout must be 0 for {self.builder}, which has none, not {self.dropout:g}")


def builders() -> list[str]:
    """The names of torchvision's classification networks, without quantized, detection, segmentation and video ones."""
    from torchvision import models

    return models.list_models(module=models)


def unknown_builder(name: str) -> str:
    """The end of a message: what a builder must be, and which names are near to ``name``."""
    near = difflib.get_close_matches(name.lower(), builders(), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; for example alexnet, resnet18 or convnext_tiny"
    return f"must be a classification network of torchvision, not {name!r}{hint}"


def build(*, params: TorchvisionModelParams, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Build a new network: float (N, 3, H, W), normalised -> logits (N, num_classes), without auxiliary outputs.

    Raises:
        ValueError: the images do not have 3 channels, or they have a size that the network cannot take.
    """
    channels, height, width = shape
    if channels != 3:
        raise ValueError(f"{params.builder} takes images of 3 channels (RGB), not {channels}; for those, use digit_cnn")
    _check_rule(params.builder, height, width)
    network = construct(params=params, num_classes=num_classes, shape=shape)
    if not _takes(network, height, width):
        raise ValueError(
            f"{params.builder} cannot take images of {height}x{width} pixels: "
            f"the smallest side that works is {_smallest_side(network)}; {_WHERE}"
        )
    return network


def check_sides(params: TorchvisionModelParams, *, image_size: int, start_size: int) -> None:
    """Refuse sides of training images that the network cannot take; ``start_size`` 0 = they do not grow.

    Raises:
        ValueError: the message starts with the parameter's name.
    """
    import torch

    step = _step(params.builder)
    if step > 1 and start_size not in (0, image_size):
        raise ValueError(f"start_size must be 0 for {params.builder}, whose images have one size, not {start_size}")
    if image_size % step:
        raise ValueError(f"image_size must be a multiple of {step} for {params.builder}, not {image_size}")
    try:
        with torch.device("meta"):  # no memory, no random numbers
            network = construct(params=params, num_classes=2, shape=(3, image_size, image_size))
    except (NotImplementedError, RuntimeError):  # regnet computes with tensors; it takes images of any size
        return
    for name, side in (("image_size", image_size), ("start_size", start_size or image_size)):
        if not _takes(network, side, side):
            raise ValueError(f"{name} must be at least {_smallest_side(network)} for {params.builder}, not {side}")


def construct(*, params: TorchvisionModelParams, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Build the network, whether or not it can take images of ``shape``."""
    from torchvision import models

    _, height, width = shape
    options: dict[str, Any] = {
        "dropout": params.dropout,
        "image_size": height,  # vit: it learns one embedding for each patch
        "input_size": (height, width),  # maxvit
        "aux_logits": False,  # googlenet, inception: in training they would give tuples
        "transform_input": True,  # the same two: torchvision's weights expect it, and random ones do not mind
        "init_weights": True,  # the same two warn without it; vgg does it anyway
    }
    accepted = options.keys() & _arguments(params.builder)
    return models.get_model(params.builder, num_classes=num_classes, **{key: options[key] for key in accepted})


def _arguments(builder: str) -> set[str]:
    """The arguments of the class of a builder's network; the builder itself takes ``**kwargs`` and passes them on."""
    from torchvision import models

    network = inspect.signature(models.get_model_builder(builder)).return_annotation
    return set(inspect.signature(network).parameters)


def _step(builder: str) -> int:
    """The number of pixels that sides must be a multiple of; above 1, the network takes one size only."""
    arguments = _arguments(builder)
    patch = int(builder.rsplit("_", 1)[1]) if "image_size" in arguments else 1  # vit
    return _MAXVIT_STEP if "input_size" in arguments else patch


def _check_rule(builder: str, height: int, width: int) -> None:
    """Refuse sizes that are no multiple of the step of vit and maxvit, which the trial in `build` would let pass."""
    step, square = _step(builder), "image_size" in _arguments(builder)
    if height % step or width % step or min(height, width) < step or (square and height != width):
        images = "square images with a side that is a multiple" if square else "images with sides that are multiples"
        raise ValueError(
            f"{builder} takes {images} of {step} pixels, not {height}x{width}: the smallest side that works is {step}; "
            f"{_WHERE}"
        )


def _takes(network: nn.Module, height: int, width: int) -> bool:
    """Whether the network takes images of this size: tried with tensors without values, which costs nothing."""
    import torch
    from torch.func import functional_call

    tensors = [*network.named_parameters(), *network.named_buffers()]
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors}
    images = torch.empty(2, 3, height, width, device="meta")
    network.eval()  # no dropout, no batch statistics
    try:
        with torch.no_grad():
            functional_call(network, shapes, images)
    except (RuntimeError, ValueError):  # a kernel or a window is larger than the maps that reach it
        return False
    finally:
        network.train()
    return True


def _smallest_side(network: nn.Module) -> int:
    fails, works = 0, _LARGEST_SIDE
    while works - fails > 1:
        middle = (fails + works) // 2
        fails, works = (fails, middle) if _takes(network, middle, middle) else (middle, works)
    return works
