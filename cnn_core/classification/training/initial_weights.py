"""The weights that a network starts from: none, torchvision's, a state dict of the user's, or a model of this project.

A parameter that names weights is always a path, because DVC makes the stage depend on it. The path of a start from
scratch is ``data/weights/none``, a committed marker.
"""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cnn_core.classification.inference.model_folder import load_tensors, read_card
from cnn_core.classification.training.layer_groups import head_name
from cnn_core.files import NONE, is_none

_DEPTH = 3  # of the dicts that a checkpoint is searched through
_PROBES = 8  # names of the network that wrappers' prefixes are looked for by
_SHOWN = 3  # names in an error
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
    left_over: list[str] = dataclasses.field(default_factory=list)  # tensors of the file that the network has not


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StateDict:
    """Tensors by name, as they stand at ``key`` in a file; wrappers put ``prefix`` in front of every name."""

    tensors: Mapping[str, Tensor]
    key: str = ""
    prefix: str = ""

    def unwrapped(self, prefix: str) -> _StateDict:
        inner = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        return dataclasses.replace(self, tensors=inner, prefix=prefix)

    @property
    def averaged(self) -> bool:
        return "ema" in self.key or "averaged" in self.key

    def __str__(self) -> str:
        parts = [f"its {self.key!r}"] if self.key else []
        return ", ".join(parts + ([f"names behind {self.prefix!r}"] if self.prefix else []))


def load_initial(network: nn.Module, path: str | Path, *, classes: Sequence[str]) -> InitialWeights:
    """Copy from ``path`` into ``network`` every tensor before the head, all or none.

    The head stays fresh, unless a model folder has the same ``classes`` in the same order: the shape alone does not
    tell. A ViT's position embeddings are interpolated to the network's image size. Of a model that was refitted on val
    and test, the weights that have not seen them are taken; of a file that has averaged weights beside plain ones, the
    averaged ones.

    Args:
        path: a model folder of this project, a .safetensors file or what torch.save wrote: a state dict, by itself or
            within the dicts of a training's checkpoint, its names with or without a wrapper's prefix (``module.``).

    Raises:
        ValueError: the path does not exist, holds no state dict or code, lacks tensors before the head, or has more of
            the network's layers than the network.
    """
    target = network.state_dict()
    if is_none(path):
        return InitialWeights(copied=0, fresh=list(target), source="none")
    states, source_classes, source = _read(Path(path))
    head = f"{head_name(network)}."
    body = {name: tensor for name, tensor in target.items() if not name.startswith(head)}
    state = _best(states, body)
    source += f" ({state})" if str(state) else ""
    tensors = _with_positions_for(network, target, state.tensors)
    names = target if source_classes == list(classes) else body
    fitting = {name: tensors[name] for name in names if name in tensors and tensors[name].shape == target[name].shape}
    left_over = [name for name in tensors if name not in target]
    _check(body, tensors, left_over, head=head, source=source)
    load_tensors(network, fitting)
    fresh = [name for name in target if name not in fitting]
    return InitialWeights(copied=len(fitting), fresh=fresh, source=source, left_over=left_over)


def _best(states: Sequence[_StateDict], body: Mapping[str, Tensor]) -> _StateDict:
    """The state dict, without its prefix, that holds most of ``body``; averaged weights before plain ones."""
    probes = list(body)[:: max(1, len(body) // _PROBES)]
    candidates = []
    for state in states:
        ends = {name.removesuffix(end) for name in state.tensors for end in probes if name.endswith(end)}
        candidates += [state.unwrapped(prefix) for prefix in sorted({"", *ends}) if not prefix or prefix[-1] == "."]

    def rank(state: _StateDict) -> tuple[int, bool, int]:
        fitting = sum(name in state.tensors and state.tensors[name].shape == body[name].shape for name in body)
        return fitting, state.averaged, -len(state.prefix)

    return max(candidates, key=rank)


def _check(
    body: Mapping[str, Tensor], tensors: Mapping[str, Tensor], left_over: Sequence[str], *, head: str, source: str
) -> None:
    """Refuse weights of which a tensor before the head is missing, or that go on where the network ends."""
    required = [name for name in body if not name.endswith(".num_batches_tracked")]  # files before torch 0.4.1
    missing = [name for name in required if name not in tensors]
    shapes = [
        f"{name} is {list(tensors[name].shape)} there and {list(body[name].shape)} here"
        for name in required
        if name in tensors and tensors[name].shape != body[name].shape
    ]
    parts = {name.partition(".")[0] for name in body} - {head.partition(".")[0]}
    deeper = [name for name in left_over if name.partition(".")[0] in parts]
    if not (missing or shapes or deeper):
        return
    reasons = [
        _counted(f"of the {len(required)} tensors before the head are not in it", missing),
        _counted("have another shape", shapes),
        _counted("tensors of it are left over", deeper or left_over),
    ]
    raise ValueError(
        f"{source} does not fit the network: {'; '.join(filter(None, reasons))}. Choose the model that these weights "
        f"were trained with, or {NONE} to start from scratch"
    )


def _counted(words: str, texts: Sequence[str]) -> str:
    return f"{len(texts)} {words} ({', '.join(texts[:_SHOWN])}{', …' if len(texts) > _SHOWN else ''})" if texts else ""


def _read(path: Path) -> tuple[list[_StateDict], list[str] | None, str]:
    """The state dicts of a file or model folder, the classes where they are known, and the source in words."""
    if path.is_dir():
        card = read_card(path)
        kind = card.model.get("builder", card.model["architecture"])
        file = path / f"{'evaluated' if card.refit == 'all' else 'model'}.safetensors"
        return _state_dicts(file), card.classes, f"{path} (a model folder with the network {kind})"
    return _state_dicts(path), None, str(path)


def _state_dicts(path: Path) -> list[_StateDict]:
    if not path.is_file():
        raise ValueError(_absent(path))
    states = list(_nested(_unpacked(path)))
    if not states:
        raise ValueError(f"{path} is no state dict (names and their tensors): save what network.state_dict() gives")
    return states


def _nested(value: object, key: str = "", depth: int = 0) -> Iterator[_StateDict]:
    """Yield every dict of names and tensors in ``value``; what else stands in such a dict is left out."""
    if not isinstance(value, Mapping) or depth > _DEPTH:
        return
    named = {name: inner for name, inner in value.items() if isinstance(name, str)}
    tensors = {_present_name(name): inner for name, inner in named.items() if isinstance(inner, Tensor)}
    if tensors:
        yield _StateDict(tensors=tensors, key=key)
    for name, inner in named.items():
        yield from _nested(inner, f"{key}.{name}".lstrip("."), depth + 1)


def _unpacked(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" in str(error).lower():
            raise ValueError(_code(path, str(error))) from None
        raise ValueError(f"{path} cannot be read as a state dict: it is cut short, or of another kind") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        if "torchscript" in str(error).lower():
            raise ValueError(
                f"{path} is a TorchScript program, not a state dict: write its weights to a file of their own by "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
            ) from None
        raise ValueError(f"{path} cannot be read as a state dict ({type(error).__name__})") from None


def _harmless() -> list[Any]:
    """What trainings put beside their weights and what only holds values: command lines and numbers of numpy."""
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]  # before numpy 2, and since
    return [argparse.Namespace, np.dtype, *dtypes, *((scalar, name) for name in names)]


def _code(path: Path, error: str) -> str:
    name = match[1] if (match := re.search(r"GLOBAL ([\w.]+)", error)) else "a class"
    return (
        f"{path} holds pickled Python code besides tensors ({name}) and is not read, because that would execute it: "
        "save what network.state_dict() gives, or, if you trust the file, the state dict that torch.load(…, "
        "weights_only=False) gives"
    )


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
    network: nn.Module, target: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Interpolate a ViT's embeddings of patches, of which another image size has another number."""
    if _POSITIONS not in target or _POSITIONS not in state or target[_POSITIONS].shape == state[_POSITIONS].shape:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    assert isinstance(network.image_size, int)
    assert isinstance(network.patch_size, int)
    positions = {_POSITIONS: state[_POSITIONS].float()}
    return {**state, **interpolate_embeddings(network.image_size, network.patch_size, positions)}
