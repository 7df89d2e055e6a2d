"""What a convolutional network is made of and what it does, as tables and arrays; explain_figures.py draws them.

Every function takes any network that maps images (N, C, H, W), float and normalised, to class logits (N, K).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnn_core.lecture.receptive_fields import output_fields

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.Hardswish, nn.GELU, nn.Sigmoid, nn.Tanh)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def layers(network: nn.Module, shape: Sequence[int]) -> pd.DataFrame:
    """Return a table of the layers in the order in which they run, for one image of ``shape`` (C, H, W).

    Columns: layer (its name), kind, input and output (shapes without the batch, as text), parameters, multiply_adds,
    receptive_field and stride (pixels of the image that an output sees, and from one to the next; 0 where it sees all),
    dense_parameters (of a fully connected layer from the same input to the same output), connected (share of all pairs
    of inputs and outputs that a weight connects: sparse interactions), reuse (how often each weight is used: parameter
    sharing). The last three are missing where a layer has no weights that multiply.
    """
    network = copy.deepcopy(network).eval()
    images = torch.zeros(1, *shape)
    leaves = _shapes(network, images)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(images)
    operations = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    fields, root = output_fields(network, images), type(network).__name__
    rows = []
    for name, (kind, inputs, outputs, parameters) in leaves.items():
        field, sums = fields.get(name), operations.get(f"{root}.{name}", 0)
        pairs = math.prod(inputs) * math.prod(outputs)
        weighted = sums > 0 and parameters > 0
        rows.append(
            {
                "layer": name,
                "kind": kind,
                "input": " x ".join(map(str, inputs)),
                "output": " x ".join(map(str, outputs)),
                "parameters": parameters,
                "multiply_adds": sums,
                "receptive_field": 0 if field is None or field.is_global else field.size,
                "stride": 0 if field is None or field.is_global else field.step,
                "dense_parameters": pairs if weighted else None,
                "connected": sums / pairs if weighted else None,
                "reuse": sums / _weights(network, name) if weighted else None,
            }
        )
    table = pd.DataFrame(rows)
    return table.astype({"dense_parameters": "Int64", "connected": "float64", "reuse": "float64"})


def _shapes(network: nn.Module, images: Tensor) -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int]]:
    """The kind, input shape, output shape and number of parameters of each leaf module, in running order."""
    seen: dict[str, Any] = {}
    inner = {name: module for name, module in network.named_modules() if name and not any(module.children())}

    def note(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                parameters = sum(each.numel() for each in module.parameters())
                seen[name] = (type(module).__name__, tuple(inputs[0].shape[1:]), tuple(output.shape[1:]), parameters)

        return hook

    with _hooks([(module, note(name, module)) for name, module in inner.items()]), torch.no_grad():
        network(images)
    return seen


def _weights(network: nn.Module, name: str) -> int:
    return sum(each.numel() for each in network.get_submodule(name).parameters() if each.ndim > 1)


def totals(table: pd.DataFrame) -> dict[str, float]:
    """Sum up a table of `layers`: parameters, multiply-adds, and what dense layers would need for the convolutions."""
    sliding = table[table["kind"].str.startswith("Conv") & table["dense_parameters"].notna()]
    dense = float(sliding["dense_parameters"].astype("float64").sum())
    return {
        "parameters": int(table["parameters"].sum()),
        "multiply_adds": int(table["multiply_adds"].sum()),
        "convolution_parameters": int(sliding["parameters"].sum()),
        "dense_parameters": dense,
        "receptive_field": int(table["receptive_field"].max()),
    }


def effective_receptive_field(network: nn.Module, images: Tensor, layer: str) -> np.ndarray:
    """Return how much each pixel moves the middle output of a layer: float64 (H, W), with a maximum of 1.

    The mean over images and channels of |d (sum over channels of the middle output) / d pixel|. Pixels in the middle
    of the theoretical field have many more paths to the output than those at its edge (Luo et al., "Understanding the
    effective receptive field in deep convolutional neural networks", NeurIPS 2016).
    """
    images = images.clone().requires_grad_()
    maps = _outputs(network, images, [layer])[layer]
    if maps.ndim != 4:
        raise ValueError(f"the layer {layer} gives {tuple(maps.shape)}, not maps (N, F, h, w)")
    middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    (gradient,) = torch.autograd.grad(middle.sum(), images)
    field = gradient.abs().mean((0, 1)).double().numpy()
    return field / max(field.max(), 1e-300)


def first_kernels(network: nn.Module) -> np.ndarray:
    """The kernels of the first convolution, which sees the image itself: float32 (F, C, h, w)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().float().numpy().copy()
    raise ValueError("the network has no convolution")


def feature_maps(network: nn.Module, image: Tensor, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the feature maps of one image (C, H, W), float32 (F, h, w), by the layers' names."""
    with torch.no_grad():
        outputs = _outputs(network, image[None], names)
    return {name: outputs[name][0].float().numpy() for name in names}


def map_layers(network: nn.Module, shape: Sequence[int], most: int = 6) -> list[str]:
    """Choose up to ``most`` activations, evenly spread, whose maps show the way through the network."""
    names = [name for name, module in network.named_modules() if isinstance(module, ACTIVATIONS)]
    with torch.no_grad():
        outputs = _outputs(network, torch.zeros(1, *shape), names)
    spatial = [name for name in names if name in outputs and outputs[name].ndim == 4]
    if len(spatial) <= most:
        return spatial
    return [spatial[round(position)] for position in np.linspace(0, len(spatial) - 1, most)]


def sparsity(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """Return for each activation function, in running order: layer, zeros (the share of its outputs that are 0), and
    dead (the share of its channels, or units, that are 0 for all images)."""
    names = [name for name, module in network.named_modules() if isinstance(module, ACTIVATIONS)]
    with torch.no_grad():
        outputs = _outputs(network, images, names)
    rows = []
    for name, values in outputs.items():
        silent = (values == 0).transpose(0, 1).flatten(1)
        rows.append({"layer": name, "zeros": silent.float().mean().item(), "dead": silent.all(1).float().mean().item()})
    return pd.DataFrame(rows, columns=["layer", "zeros", "dead"])


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> pd.DataFrame:
    """Measure how much of the loss's gradient reaches each layer at the start of training, with ReLU and with sigmoid.

    Its activations are exchanged, its weights are new (He's initialisation, the same for both), and dropout and
    normalisation, which was invented to hide the difference, are taken out.

    Returns:
        One row for each layer with weights and each activation: layer, depth (from 1), activation, gradient (the root
        mean square over the layer's weights).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS 2010).
    """
    rows = []
    for kind, activation in (("ReLU", nn.ReLU), ("sigmoid", nn.Sigmoid)):
        plain = _plain(network, activation, seed)
        loss = nn.functional.cross_entropy(plain(images), labels)
        loss.backward()
        weighted = [(n, m) for n, m in plain.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for depth, (name, module) in enumerate(weighted, start=1):
            gradient = module.weight.grad
            size = 0.0 if gradient is None else gradient.double().square().mean().sqrt().item()
            rows.append({"layer": name, "depth": depth, "activation": kind, "gradient": size})
    return pd.DataFrame(rows)


def _plain(network: nn.Module, activation: type[nn.Module], seed: int) -> nn.Module:
    network = copy.deepcopy(network).train()
    generator = torch.Generator().manual_seed(seed)
    for name, module in list(network.named_modules()):
        if isinstance(module, ACTIVATIONS):
            _exchange(network, name, activation())
        elif isinstance(module, (*DROPOUTS, *BATCH_NORMS)):
            _exchange(network, name, nn.Identity())
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def _exchange(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)


def thinned(network: nn.Module, images: Tensor, *, networks: int, seed: int = 0) -> pd.DataFrame:
    """Compare the predictions of the complete network with those of a few networks that dropout has thinned.

    Batch norm stays in evaluation mode, so that dropout alone makes the difference.

    Returns:
        One row for each image and network: image, network (0 = complete, 1 … = thinned), predicted, p (of the predicted
        class), agrees (with the complete network).
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, DROPOUTS):
            module.train()
    frames = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in range(networks + 1):
            if number == 0:
                complete = copy.deepcopy(network).eval()(images).softmax(1)
            outputs = complete if number == 0 else network(images).softmax(1)
            best, predicted = outputs.max(1)
            frames.append(
                pd.DataFrame(
                    {
                        "image": np.arange(len(images)),
                        "network": number,
                        "predicted": predicted.numpy(),
                        "p": best.numpy(),
                        "agrees": (predicted == complete.argmax(1)).numpy(),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _outputs(network: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Copies of the modules' outputs in evaluation mode by name, in running order."""
    network = copy.deepcopy(network).eval()
    outputs: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = output.clone()

        return hook

    with _hooks([(network.get_submodule(name), note(name)) for name in names]):
        network(images)
    return outputs


@contextmanager
def _hooks(pairs: Sequence[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
