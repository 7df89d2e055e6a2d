"""Model folders: weights as safetensors, and the card ``model.json`` that describes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save
from torch import Tensor, nn

from cnn_core.classification.architectures import registry
from cnn_core.files import read_json, whole_folder, write_json

SCHEMA_VERSION = 1


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
        content |= dataclasses.asdict(card)
        if readme is not None:
            (partial / "README.md").write_text(readme(content), encoding="utf-8")
        write_json(partial / "model.json", content)


def read_card(folder: str | Path) -> ModelCard:
    """Read the card of a model folder, which must be whole and of this version."""
    card = read_json(Path(folder) / "model.json", made_by="train")
    if card.get("schema_version") != SCHEMA_VERSION:
        version = card.get("schema_version")
        raise ValueError(f"{folder} has schema version {version}, not {SCHEMA_VERSION}: run the stage train again")
    fields = [field.name for field in dataclasses.fields(ModelCard)]
    if missing := [name for name in fields if name not in card]:
        raise ValueError(f"{folder}/model.json has no {missing[0]}: it is no model of this project")
    return ModelCard(**{name: card[name] for name in fields})


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
    network = registry.build(card.model, len(card.classes), card.shape)
    try:
        tensors = load_file(path)
        if missing := sorted(network.state_dict().keys() - tensors.keys()):
            raise ValueError(f"{missing[0]} is missing")
        load_tensors(network, tensors)
    except Exception as error:
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
