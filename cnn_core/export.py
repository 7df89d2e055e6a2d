"""Write a model folder as one file that needs torch alone: ``python -m cnn_core.export MODEL OUTPUT.pt2``.

OUTPUT.pt2         a torch.export program: float32 images (N, C, H, W) in 0..1 -> probabilities (N, K), any N >= 1
OUTPUT.pt2.json    the classes in the order of the K columns, and how an image becomes the program's input

    program = torch.export.load("OUTPUT.pt2").module()

The program contains normalisation and softmax (of several labels an image: a sigmoid a class, and the JSON has their
thresholds). ONNX is not written, as torch.onnx.export needs the
package onnxscript, which this project does not install. Where it is installed, this converts the
file: ``torch.onnx.export(torch.export.load("OUTPUT.pt2"), f="OUTPUT.onnx")``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cnn_core.classification.inference.classifier import Classifier, Probabilities
from cnn_core.classification.inference.model_folder import ModelCard, load_model
from cnn_core.files import write_json
from cnn_core.locks import temporary_folder

# Adding float32 values in another order changes each logit by a share of its size, so the larger the logits, the more a
# probability may differ: by `TOLERANCE` for each nat between the likeliest class and the least likely one, never more
# than `MOST`. Then the class is the same, too, unless two probabilities differ by less than twice that.
TOLERANCE = 1e-5
MOST = 1e-4
BATCHES = (1, 2, 5, 8)  # sizes that the written program is tried with


def export(model: str | Path, output: str | Path) -> float:
    """Write a model's program and its JSON, both or neither.

    Files of an earlier export are replaced only when the new program agrees with the model.

    Returns:
        The largest difference of a probability between the written program, read again, and `Classifier`.

    Raises:
        ValueError: ``output`` does not end in .pt2, the model folder is not complete, torch cannot export the network,
            or the program's probabilities differ by more than `allowed`.
    """
    output = Path(output)
    _check_suffix(output)
    network, card = load_model(model)
    program = _program(Probabilities(network, card).requires_grad_(False).eval(), card)
    output.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(output.parent, f".{output.name}-") as folder:
        partial, description = folder / "program.pt2", folder / "description.json"
        torch.export.save(program, partial)
        difference = _checked_difference(partial, Classifier(model))
        write_json(description, _description(card, difference))
        description.rename(f"{output}.json")
        partial.rename(output)
    return difference


def _check_suffix(output: Path) -> None:
    if output.suffix == ".onnx":
        raise ValueError(
            f"{output}: ONNX needs the packages onnx and onnxscript, and this project does not install onnxscript; "
            "write a .pt2 file and convert it with torch.onnx.export where both are installed"
        )
    if output.suffix != ".pt2":
        raise ValueError(f"{output} must end in .pt2, the suffix of torch.export's programs")


def _program(network: nn.Module, card: ModelCard) -> torch.export.ExportedProgram:
    example = torch.zeros(2, *card.shape)  # torch takes a batch size of 1 for a constant
    try:
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch's exporter raises errors of many kinds
        kind = card.model.get("builder", card.model["architecture"])
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"torch cannot export {kind} ({type(error).__name__}: {reason})") from error


def _checked_difference(program: Path, classifier: Classifier) -> float:
    run = torch.export.load(program).module()
    images = sample_images(sum(BATCHES), classifier.card.shape)
    expected = torch.from_numpy(classifier(images))
    with torch.inference_mode():
        pixels = (torch.from_numpy(images).float() / 255).split(BATCHES)
        differences = (torch.cat([run(batch) for batch in pixels]) - expected).abs()
    bounds = allowed(expected)
    if not (differences <= bounds).all():  # also true for nan
        worst = int((differences / bounds).nan_to_num(nan=torch.inf).amax(1).argmax())
        difference, bound = float(differences[worst].max()), float(bounds[worst])
        raise ValueError(
            f"the exported program's probabilities differ from the classifier's by up to {difference:.1e}, "
            f"more than the {bound:.1e} that rounding explains; nothing was written"
        )
    return float(differences.max())


def allowed(probabilities: torch.Tensor) -> torch.Tensor:
    """How far the probabilities (N, K) of each image may differ, (N, 1)."""
    nats = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
    spread = nats.amax(1, keepdim=True) - nats.amin(1, keepdim=True)
    return (TOLERANCE * spread.clamp(min=1)).clamp(max=MOST)


def sample_images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise in grains of 1 to 8 pixels, uint8 (count, C, H, W), always the same.

    Each image has a brightness and contrast of its own, so that a wrong mean or scale shows.
    """
    rng = np.random.default_rng(0)
    channels, height, width = shape
    images = np.empty((count, *shape), np.uint8)
    for index in range(count):
        grain = 2 ** (index % 4)
        coarse = rng.random((channels, -(-height // grain), -(-width // grain)))
        low, high = np.sort(rng.integers(0, 256, 2))
        noise = coarse.repeat(grain, 1).repeat(grain, 2)[:, :height, :width]
        images[index] = low + noise * (high - low)
    return images


def _description(card: ModelCard, difference: float) -> dict[str, Any]:
    channels, height, width = card.shape
    side, last = card.preprocessing["side"], "sigmoid" if card.multilabel else "softmax"
    steps = [f"upright, {'RGB' if channels == 3 else 'grey'}", f"the middle square, resized to {side} x {side} pixels"]
    if (height, width) != (side, side):
        steps.append(f"resized to {height} x {width} pixels, bilinear with antialiasing")
    return {
        "classes": card.classes,
        "input": {
            "shape": ["N", *card.shape],
            "dtype": "float32",
            "range": [0, 1],
            "steps": [*steps, "divided by 255"],
        },
        "output": {"shape": ["N", len(card.classes)], "dtype": "float32", "meaning": "probabilities of the classes"},
        # Of several labels an image: the probability from which it has each class; null = the likeliest class is meant.
        "thresholds": card.thresholds,
        "look": card.preprocessing.get("look"),  # of images of one sign; `predict` brings others into this form first
        "included": {"mean": card.preprocessing["mean"], "std": card.preprocessing["std"], last: True},
        "model": card.model,
        "metrics": card.metrics,
        "data_sha256": card.data_sha256,
        "git_commit": card.git_commit,
        "torch": torch.__version__,
        "largest_difference": difference,
    }


def main() -> int:
    """Run the command line and return its exit code."""
    about = "Export a trained model as a torch.export program, checked against the model itself."
    parser = argparse.ArgumentParser(prog="python -m cnn_core.export", description=about)
    parser.add_argument("model", type=Path, help="a model folder, such as data/models/scenes")
    parser.add_argument("output", type=Path, help="the file to write, ending in .pt2; a .json is put beside it")
    arguments = parser.parse_args()
    try:
        difference = export(arguments.model, arguments.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{arguments.output}: agrees with {arguments.model}; the largest difference of a probability is "
        f"{difference:.1e} over {sum(BATCHES)} images in batches of {', '.join(map(str, BATCHES))}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
