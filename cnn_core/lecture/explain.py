"""What a convolutional network is made of and what it does, as tables and arrays; explain_figures.py draws them.

All of it works for any network that takes images (N, C, H, W), float and normalised, and gives class logits (N, K).
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
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def layers(network: nn.Module, shape: Sequence[int]) -> pd.DataFrame:
    """The layers in the order in which they run, one row each, for one image of ``shape`` (C, H, W).

    Columns: layer (its name), kind, input and output (shapes without the batch, as text), parameters, multiply_adds,
    receptive_field and stride (pixels of the image: what an output sees, and from one to the next; 0 where it sees
    all of it), dense_parameters (weights of a fully connected layer from the same input to the same output),
    connected (share of all pairs of inputs and outputs that a weight connects: sparse interactions), reuse (how often
    each weight is used: parameter sharing). The last three are missing where a layer has no weights that multiply.
    """
    network = copy.deepcopy(network).eval()
    images = torch.zeros(1, *shape)
    seen = _shapes(network, images)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(images)
    operations = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    fields, root = output_fields(network, images), type(network).__name__
    rows = []
    for name, (kind, taken, given, parameters) in seen.items():
        field, sums = fields.get(name), operations.get(f"{root}.{name}", 0)
        pairs = math.prod(taken) * math.prod(given)
        weighted = sums > 0 and parameters > 0
        rows.append(
            {
                "layer": name,
                "kind": kind,
                "input": _text(taken),
                "output": _text(given),
                "parameters": parameters,
                "multiply_adds": sums,
                "receptive_field": 0 if field is None or field.whole else field.size,
                "stride": 0 if field is None or field.whole else field.step,
                "dense_parameters": pairs if weighted else None,
                "connected": sums / pairs if weighted else None,
                "reuse": sums / _weights(network, name) if weighted else None,
            }
        )
    table = pd.DataFrame(rows)
    return table.astype({"dense_parameters": "Int64", "connected": "float64", "reuse": "float64"})


def _shapes(network: nn.Module, images: Tensor) -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int]]:
    """Of each module that calls no other: kind, shape taken, shape given and number of parameters, in running order."""
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


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def totals(table: pd.DataFrame) -> dict[str, float]:
    """Of `layers`: parameters, multiply_adds, and the convolutions' parameters against dense layers in their place."""
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
    """How much each pixel of the image moves the middle output of a layer: float64 (H, W), its greatest value 1.

    The mean over images and channels of |d (sum over channels of the middle output) / d pixel|. Pixels in the middle
    of the theoretical field have many more paths to the output than those at its edge (Luo et al., "Understanding the
    effective receptive field in deep convolutional neural networks", NeurIPS 2016).

    Args:
        images: (N, C, H, W).
        layer: the name of a module with outputs (N, F, h, w).
    """
    network = copy.deepcopy(network).eval()
    images = images.clone().requires_grad_()
    maps = _outputs(network, images, [layer])[layer]
    if maps.ndim != 4:
        raise ValueError(f"the layer {layer} gives {tuple(maps.shape)}, not maps (N, F, h, w)")
    middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    (gradient,) = torch.autograd.grad(middle.sum(), images)
    field = gradient.abs().mean((0, 1)).double().numpy()
    return field / max(field.max(), 1e-300)


def first_kernels(network: nn.Module) -> np.ndarray:
    """The kernels of the first convolution, float32 (F, C, h, w): those that look at the image itself."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().float().numpy().copy()
    raise ValueError("the network has no convolution")


def feature_maps(network: nn.Module, image: Tensor, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What layers make of one image (C, H, W): by their names float32 (F, h, w)."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        found = _outputs(network, image[None], names)
    return {name: found[name][0].float().numpy() for name in names}


def map_layers(network: nn.Module, shape: Sequence[int], most: int = 6) -> list[str]:
    """Layers whose maps tell the way through the network: its activations, at most so many, evenly spread."""
    network = copy.deepcopy(network).eval()
    names = [name for name, module in network.named_modules() if isinstance(module, ACTIVATIONS)]
    with torch.no_grad():
        found = _outputs(network, torch.zeros(1, *shape), names)
    wanted = [name for name in names if name in found and found[name].ndim == 4]
    if len(wanted) <= most:
        return wanted
    return [wanted[round(place)] for place in np.linspace(0, len(wanted) - 1, most)]


def sparsity(network: nn.Module, images: Tensor) -> pd.DataFrame:
    """Of each activation function, in running order: zeros, the share of its outputs that are 0, and dead, the share of
    its channels (or units) that are 0 for all images."""
    network = copy.deepcopy(network).eval()
    names = [name for name, module in network.named_modules() if isinstance(module, ACTIVATIONS)]
    with torch.no_grad():
        found = _outputs(network, images, names)
    rows = []
    for name, outputs in found.items():
        silent = (outputs == 0).transpose(0, 1).flatten(1)
        rows.append({"layer": name, "zeros": silent.float().mean().item(), "dead": silent.all(1).float().mean().item()})
    return pd.DataFrame(rows, columns=["layer", "zeros", "dead"])


def gradient_norms(network: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> pd.DataFrame:
    """How much of the loss's gradient reaches each layer at the start of training, with ReLU and with sigmoid.

    The network's architecture with new weights (He's initialisation, the same for both), its activations exchanged, and
    without normalisation, which was invented to hide the difference, and without dropout. One row a layer with
    weights and
    activation: layer, depth (from 1), activation, gradient (the root mean square over its weights).

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
        elif isinstance(module, (*DROPOUTS, nn.modules.batchnorm._BatchNorm)):
            _exchange(network, name, nn.Identity())
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def _exchange(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)


def thinned(network: nn.Module, images: Tensor, *, networks: int, seed: int = 0) -> pd.DataFrame:
    """Dropout's thinned networks at work: for each image what the whole network says, and what a few thinned ones say.

    One row an image and network: image, network (0 = the whole, 1 … = thinned), predicted, p (of the class
    predicted), agrees (with the whole). Batch norm stays in evaluation, so that dropout alone makes the difference.
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
                whole = copy.deepcopy(network).eval()(images).softmax(1)
            outputs = whole if number == 0 else network(images).softmax(1)
            best, predicted = outputs.max(1)
            frames.append(
                pd.DataFrame(
                    {
                        "image": np.arange(len(images)),
                        "network": number,
                        "predicted": predicted.numpy(),
                        "p": best.numpy(),
                        "agrees": (predicted == whole.argmax(1)).numpy(),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _outputs(network: nn.Module, images: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """What modules give, by their names, in running order; a module that runs in place later does not change it."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[name] = output.clone()

        return hook

    with _hooks([(network.get_submodule(name), note(name)) for name in names]):
        network(images)
    return found


@contextmanager
def _hooks(pairs: Sequence[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
