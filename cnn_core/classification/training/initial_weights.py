"""The weights that a network starts from: none, torchvision's, a state dict of the user's, or a model of this project.

A parameter that names weights is always a path, because DVC makes the stage depend on it. The path of a start from
scratch is ``data/weights/none``, a committed marker.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cnn_core.classification.inference.model_folder import read_card
from cnn_core.classification.training.layer_groups import head_name
from cnn_core.files import NONE, is_none

_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the state dict
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
_POSITIONS = "encoder.pos_embedding"
# Names in torchvision's published files that its own code translates when it loads them.
_FORMER_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """What `load_initial` did."""

    copied: int  # tensors
    fresh: list[str]  # the names of the tensors that are as they were initialised
    source: str  # in words


def load_initial(network: nn.Module, path: str | Path, *, classes: Sequence[str]) -> InitialWeights:
    """Copy from ``path`` into ``network`` every tensor whose name and shape fit.

    The head stays fresh, unless a model folder has the same ``classes`` in the same order: the shape alone does not
    tell. A ViT's position embeddings are interpolated to the network's image size. Of a model that was refitted on val
    and test, the weights that have not seen them are taken. On an error the network is unchanged.

    Args:
        path: a torchvision state dict (.pth, .pt), a .safetensors file or a model folder of this project.

    Raises:
        ValueError: the path does not exist, is no state dict or holds code, or fits less than half of the parameters
            before the head.
    """
    target = network.state_dict()
    if is_none(path):
        return InitialWeights(copied=0, fresh=list(target), source="none")
    state, source_classes, source = _read(Path(path))
    state = _with_positions_for(network, target, state)
    head = f"{head_name(network)}."
    body = {name for name, _ in network.named_parameters() if not name.startswith(head)}
    names = target if source_classes == list(classes) else [name for name in target if not name.startswith(head)]
    fitting = {name: state[name] for name in names if name in state and state[name].shape == target[name].shape}
    covered = sum(target[name].numel() for name in body & fitting.keys())
    share = covered / max(1, sum(target[name].numel() for name in body))
    if body and share < 0.5:
        raise ValueError(
            f"{source} fits only {share:.0%} of the parameters before the head: choose the model that these weights "
            f"were trained with, or {NONE} to start from scratch"
        )
    network.load_state_dict(fitting, strict=False)
    return InitialWeights(copied=len(fitting), fresh=[name for name in target if name not in fitting], source=source)


def _read(path: Path) -> tuple[dict[str, Tensor], list[str] | None, str]:
    """The tensors by name, the classes where they are known, and the source in words."""
    if path.is_dir():
        card = read_card(path)
        kind = card.model.get("builder", card.model["architecture"])
        file = path / f"{'evaluated' if card.refit == 'all' else 'model'}.safetensors"
        return _tensors(file), card.classes, f"{path} (a model folder with the network {kind})"
    return _tensors(path), None, str(path)


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(_absent(path))
    state = _unpacked(path)
    while isinstance(state, Mapping) and (key := next((k for k in _NESTED if isinstance(state.get(k), Mapping)), None)):
        state = state[key]
    if not _is_state_dict(state):
        raise ValueError(f"{path} is no state dict (names and their tensors): save what network.state_dict() gives")
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {_present_name(name): tensor for name, tensor in state.items()}


def _is_state_dict(state: object) -> TypeGuard[Mapping[str, Tensor]]:
    named = isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in state.items())
    return named and bool(state)


def _unpacked(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():
            raise ValueError(
                f"{path} holds pickled Python code besides tensors and is not read, because that would execute it: "
                "save what network.state_dict() gives"
            ) from None
        raise ValueError(f"{path} cannot be read as a state dict: it is cut short, or of another kind") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as a state dict ({type(error).__name__})") from None


def _absent(path: Path) -> str:
    if Path(f"{path}.dvc").is_file():
        return f"{path} does not exist, but DVC tracks it: run `dvc pull {path}.dvc`"
    return (
        f"{path} does not exist: `gridflow fetch alexnet` (or another of torchvision's names) puts that "
        f"network's weights at data/weights/alexnet.pth; the stage train writes model folders, and {NONE} starts from "
        "scratch"
    )


def _present_name(name: str) -> str:
    for pattern, replacement in _FORMER_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _with_positions_for(
    network: nn.Module, target: Mapping[str, Tensor], state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Interpolate a ViT's embeddings of patches, of which another image size has another number."""
    if _POSITIONS not in target or _POSITIONS not in state or target[_POSITIONS].shape == state[_POSITIONS].shape:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    assert isinstance(network.image_size, int)
    assert isinstance(network.patch_size, int)
    positions = {_POSITIONS: state[_POSITIONS].float()}
    return state | interpolate_embeddings(network.image_size, network.patch_size, positions)
