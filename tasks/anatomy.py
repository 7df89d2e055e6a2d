"""Stage ``anatomy``: what a trained network is made of, and what its layers see and do.

data/predictions/anatomy-<set>.csv   one row a layer: shapes, parameters, multiply-adds, receptive
                                     field, and the size of a dense layer in its place
data/metrics/anatomy-<set>.json      the totals, and the numbers of the figures
data/plots/anatomy-<set>-{kernels,maps,fields,behaviour}.png
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_core.classification.inference.model_folder import ModelCard, load_model
from cnn_core.classification.inference.views import views
from cnn_core.data.augmented import load_arrays, read_dataset, refuse_multilabel
from cnn_core.files import write_csv
from cnn_core.lecture import explain, explain_figures
from cnn_core.params import Params, bounded, load_section
from tasks.engine import events
from tasks.engine.runtime import load_runtime


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnatomyParams(Params):
    """The section ``anatomy.<model>``."""

    data: str  # the set whose test part it is shown
    weights: str  # a model folder
    images: int = bounded(1, 4096)  # of the test part, to measure gradients and sparsity on
    shown: int = bounded(0)  # the index of the image whose maps are shown
    layers: int = bounded(1, 12)  # number of layers whose maps and fields are shown
    networks: int = bounded(1, 1000)  # number of networks thinned by dropout
    seed: int


PARAMS = AnatomyParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"anatomy.{name}")
    runtime = load_runtime()
    torch.set_num_threads(runtime.threads())
    network, card = load_model(params.weights)
    folder = f"data/augmented/{params.data}"
    refuse_multilabel(read_dataset(folder), f"anatomy.{name}")
    if card.classes != read_dataset(folder)["classes"]:
        raise ValueError(f"{params.weights} has other classes than {folder}; name a model that was trained on this set")
    test = load_arrays(folder, "test")
    chosen = np.linspace(0, len(test.labels) - 1, min(params.images, len(test.labels))).astype(int)
    pixels, labels = normalised(card, test.images[chosen]), torch.from_numpy(np.array(test.labels[chosen]))
    table = explain.layers(network, card.shape)
    write_csv(f"data/predictions/anatomy-{name}.csv", table)
    index = min(params.shown, len(chosen) - 1)
    class_name = card.classes[int(labels[index])]
    numbers = draw(name, params, network, card, pixels, labels, test.images[chosen[index]], class_name)
    metrics = explain.totals(table) | numbers
    events.write_metrics(f"data/metrics/anatomy-{name}.json", metrics)
    dense = metrics["dense_parameters"] / max(1, metrics["convolution_parameters"])
    events.log(
        f"{len(table)} layers, {metrics['parameters']:,} parameters, {metrics['multiply_adds']:,} multiply-adds an "
        f"image; fully connected layers in place of its convolutions would have {dense:,.0f} times their parameters"
    )


def normalised(card: ModelCard, images: np.ndarray) -> Tensor:
    """Return uint8 images (N, C, H, W) as the network takes them, float32."""
    pixels = torch.from_numpy(np.array(images)).float() / 255
    (view,) = views(pixels, card.preprocessing["views"], count=1, size=card.shape[-1])
    mean, std = (torch.tensor(card.preprocessing[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    return (view - mean) / std


def draw(
    name: str,
    params: AnatomyParams,
    network: torch.nn.Module,
    card: ModelCard,
    pixels: Tensor,
    labels: Tensor,
    image: np.ndarray,
    class_name: str,
) -> dict[str, Any]:
    """Draw the figures; return their numbers."""
    plots = Path("data/plots")
    kernels = explain.first_kernels(network)
    sizes = " x ".join(map(str, kernels.shape[1:]))
    title = f"{name}: the first layer's {len(kernels)} kernels of {sizes}"
    explain_figures.kernels_picture(plots / f"anatomy-{name}-kernels.png", kernels, title=title)
    names = explain.map_layers(network, card.shape, params.layers)
    maps = explain.feature_maps(network, pixels[min(params.shown, len(pixels) - 1)], names)
    explain_figures.maps_picture(
        plots / f"anatomy-{name}-maps.png",
        image,
        maps,
        title=f"{name}: what the layers make of one image ({class_name})",
    )
    table = explain.layers(network, card.shape).set_index("layer")
    local = [layer for layer in names if table.loc[layer, "receptive_field"] > 0]
    fields = {layer: explain.effective_receptive_field(network, pixels, layer) for layer in local}
    theory = {layer: int(table.loc[layer, "receptive_field"]) for layer in local}
    explain_figures.fields_picture(
        plots / f"anatomy-{name}-fields.png",
        fields,
        theory,
        title=f"{name}: what the middle output of a layer sees: effective (bright) and theoretical (square)",
    )
    gradients = explain.gradient_norms(network, pixels, labels, seed=params.seed)
    silence = explain.sparsity(network, pixels)
    thin = explain.thinned(network, pixels, networks=params.networks, seed=params.seed)
    explain_figures.behaviour_picture(
        plots / f"anatomy-{name}-behaviour.png", gradients, silence, thin, title=f"{name}: how it behaves"
    )
    first = gradients[gradients["depth"] == 1].set_index("activation")["gradient"]
    return {
        "zeros": round(float(silence["zeros"].mean()), 4),
        "dead_channels": round(float(silence["dead"].mean()), 4),
        "first_gradient_relu": float(first["ReLU"]),
        "first_gradient_sigmoid": float(first["sigmoid"]),
        "thinned_agree": round(float(thin.loc[thin["network"] > 0, "agrees"].mean()), 4),
    }


if __name__ == "__main__":
    events.run_stage(main)
