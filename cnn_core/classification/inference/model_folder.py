"""Model folders: weights as safetensors, and the card ``model.json`` that describes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cnn_core.classification.architectures import registry
from cnn_core.files import is_none, read_json, whole_folder, write_json

SCHEMA_VERSION = 1
_PREPROCESSING = ("shape", "mean", "std", "views", "side", "look")  # the last is of images of one sign only


Weights = Literal["model", "evaluated"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """``model.json``: what is needed to build the network, to feed it, and to say where it comes from.

    ``preprocessing`` has the shape [C, H, W] as the network takes it, mean and std (per channel, in 0..1), the kind of
    views (glyph or photo), and the side of the square that a file becomes.
    """

    model: dict[str, Any]  # the section ``model`` of the parameters
    classes: list[str]
    preprocessing: dict[str, Any]
    metrics: dict[str, Any]
    params: dict[str, Any]  # the whole section ``train``
    data_sha256: str
    git_commit: str
    refit: Literal["none", "all"]  # all: the shipped network has seen val and test
    epochs: int
    thresholds: list[float] | None = None  # of several labels an image: the probability from which it has each class
    micro_batch: int | None = None  # images of a forward pass in training, where it had fewer than a worker's share

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several of the classes or none, each with a probability of its own."""
        return self.thresholds is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.preprocessing["shape"]
        return channels, height, width

    @property
    def square(self) -> tuple[int, int, int]:
        """The shape (C, S, S) that an image file is brought to before the network's own view of it."""
        side = self.preprocessing["side"]
        return self.shape[0], side, side


def save_model(
    folder: str | Path,
    card: ModelCard,
    *,
    shipped: Mapping[str, Tensor],
    evaluated: Mapping[str, Tensor],
    readme: Callable[[dict[str, Any]], str] | None = None,
) -> None:
    """Write a model folder; ``readme`` makes README.md from the content of model.json."""
    with whole_folder(folder) as partial:
        (partial / "model.safetensors").write_bytes(save(dict(shipped)))
        if card.refit == "all":
            (partial / "evaluated.safetensors").write_bytes(save(dict(evaluated)))
        content = {"schema_version": SCHEMA_VERSION, "architecture": card.model["architecture"]}
        content |= {key: value for key, value in dataclasses.asdict(card).items() if value is not None}
        if readme is not None:
            (partial / "README.md").write_text(readme(content), encoding="utf-8")
        write_json(partial / "model.json", content)


def read_card(folder: str | Path) -> ModelCard:
    """Read the card of a classifier's model folder, which must be whole and no newer than this version.

    A key that this version does not know may change how an image becomes the network's input, so it is refused.
    """
    folder = Path(folder)
    if is_none(folder) or folder.is_file():
        raise ValueError(f"{folder} is a file: name a model folder, such as data/models/digits")
    card = read_json(folder / "model.json", made_by="train")
    fields = [field.name for field in dataclasses.fields(ModelCard)]
    needed = [field.name for field in dataclasses.fields(ModelCard) if field.default is dataclasses.MISSING]
    if not isinstance(card, dict) or (missing := [name for name in needed if name not in card]):
        what = f"has no {missing[0]}" if isinstance(card, dict) else "holds no keys"
        raise ValueError(f"{folder}/model.json {what}: it is no classifier of this project")
    version = card.get("schema_version")
    further = sorted(card.keys() - {*fields, "schema_version", "architecture"})
    further += sorted(f"preprocessing.{key}" for key in card["preprocessing"].keys() - set(_PREPROCESSING))
    if version != SCHEMA_VERSION or further:
        reason = f"{further[0]} in its model.json is unknown here" if further else f"schema version {version}"
        raise ValueError(
            f"{folder} was written by another version of Gridflow ({reason}; this one reads version {SCHEMA_VERSION}): "
            "update Gridflow, or run the stage train again"
        )
    return ModelCard(**{name: card[name] for name in fields if name in card})


def load_model(folder: str | Path, weights: Weights = "model") -> tuple[nn.Module, ModelCard]:
    """Load the network in evaluation mode on the CPU, with its card.

    Without a refit, the weights ``evaluated`` are those of ``model``.

    Raises:
        ValueError: the folder is missing or not whole, or its weights do not fit its architecture.
    """
    card = read_card(folder)
    path = Path(folder) / f"{weights if card.refit == 'all' else 'model'}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, though model.json stands beside it; run the stage train again")
    if missing := [key for key in _PREPROCESSING[:-1] if key not in card.preprocessing]:
        raise ValueError(f"{folder}/model.json has no preprocessing.{missing[0]}: it is no classifier of this project")
    try:
        network = registry.build(card.model, len(card.classes), card.shape)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be built: {error}") from None
    try:
        tensors = load_file(path)
        if missing := sorted(network.state_dict().keys() - tensors.keys()):
            raise ValueError(f"{missing[0]} is missing")
        load_tensors(network, tensors)
    except SafetensorError as error:
        raise ValueError(f"{path} is cut short or damaged ({error}): copy it again, or run the stage train") from None
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold this architecture's weights: {' '.join(str(error).split())}") from None
    return network.eval(), card


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors by name into a network, and leave its others as they are.

    They go through the network's own state dict, which says of what version it is: a plain dict does not, and some
    networks (mnasnet) refuse it.

    Raises:
        ValueError: a name is not the network's. RuntimeError: a shape is another.
    """
    state = network.state_dict()
    if unknown := sorted(tensors.keys() - state.keys()):
        raise ValueError(f"{unknown[0]} is not in the network")
    state.update(tensors)
    network.load_state_dict(state)
