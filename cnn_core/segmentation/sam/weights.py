"""Checkpoints of SAM, MobileSAM, SAM 2, SAM 2.1 and our small SAM, read without executing code in them.

The names and shapes of a file's tensors tell which network it is for, so the file may have Meta's name, Ultralytics'
or any other. FastSAM and YOLO ``-seg`` are Ultralytics networks (`cnn_core.detection.yolo`); `family` tells which a
file holds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cnn_core.detection.yolo import ENGINES
from cnn_core.files import MODEL_FILE, file_sha256, read_json, weights_file

Family = Literal["sam", "sam2", "yolo"]
TRUSTED = "GRIDFLOW_TRUSTED_WEIGHTS"  # in the environment: SHA-256 values, with commas between them

# The width of the first layer of SAM's image encoder, by the name that Ultralytics gives the file.
_VIT = {768: "sam_b", 1024: "sam_l", 1280: "sam_h"}
_VIT_KEY = "image_encoder.patch_embed.proj.weight"
_TINY_VIT_KEY, _TINY_VIT_WIDTH = "image_encoder.patch_embed.seq.0.c.weight", 32
# Only our small SAM (`sam.small`) has this tensor; its widths are free.
_SMALL_KEY, SMALL = "image_encoder.fine.0.weight", "small_sam"
# The width and the number of blocks of SAM 2's image encoder.
_HIERA = {(96, 12): "t", (96, 16): "s", (112, 24): "b", (144, 48): "l"}
_HIERA_KEY = "image_encoder.trunk.patch_embed.proj.weight"
_ONLY_SAM_2_1 = "no_obj_embed_spatial"

_PICKLE = b"\x80"  # what torch.save began with before torch 1.6; today it writes a zip
_KNOWN = (
    "SAM (sam_b, sam_l, sam_h), MobileSAM (mobile_sam), SAM 2 and SAM 2.1 (sam2_t, _s, _b, _l, sam2.1_t, _s, _b, _l)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamWeights:
    """The content of a checkpoint."""

    name: str  # as Ultralytics calls the network's file: mobile_sam, sam2.1_t, …
    state: dict[str, Tensor]  # by their official names, mostly float32; memory-mapped if the format allows it
    sha256: str  # of the file
    card: dict[str, Any]  # the content of model.json if the file is in a model folder of ours, else empty


def family(path: str | Path) -> Family:
    """Tell by a checkpoint's content whether it is a SAM (`Segmenter`) or a YOLO network (`Detector`).

    Raises:
        ValueError: as `cnn_core.files.weights_file` and `read_weights`.
    """
    file = weights_file(path)
    if file.is_dir() or _is_ultralytics(file):  # a folder: an OpenVINO export
        return "yolo"
    return "sam2" if identify(_state(file, _read(file, ())), file).startswith("sam2") else "sam"


def read_weights(path: str | Path, *, trusted: Collection[str] = ()) -> SamWeights:
    """Read the tensors of a checkpoint, and tell which network they are for.

    A file that ``torch.load(weights_only=True)`` refuses is read only when its SHA-256 is in ``trusted`` or in the
    environment's `TRUSTED`: reading it executes whatever its maker put there, with all rights of the user. The SHA-256
    of a file that `gridflow fetch` brought must still be the one noted then.

    Raises:
        ValueError: the file is missing, damaged, changed since it was fetched, not trusted, or of another network.
    """
    file = weights_file(path)
    if file.is_dir() or _is_ultralytics(file):
        raise ValueError(f"{file} is a YOLO or FastSAM network of Ultralytics: those are run by the detector")
    sha256 = file_sha256(file)
    _check_origin(file, sha256)
    state, card = _state(file, _read(file, trusted, sha256)), file.with_name("model.json")
    in_folder = file.name == MODEL_FILE and card.is_file()
    content = read_json(card, made_by="train_segmenter") if in_folder else {}
    return SamWeights(name=identify(state, file), state=state, sha256=sha256, card=content)


def identify(state: Mapping[str, Tensor], file: str | Path) -> str:
    """Ultralytics' name of the network that has tensors of these names and shapes; a ValueError names ``file``."""
    name = None
    if _SMALL_KEY in state:
        name = SMALL
    elif _VIT_KEY in state:
        name = _VIT.get(state[_VIT_KEY].shape[0])
    elif _TINY_VIT_KEY in state and state[_TINY_VIT_KEY].shape[0] == _TINY_VIT_WIDTH:
        name = "mobile_sam"
    elif _HIERA_KEY in state:
        blocks = {match[1] for key in state if (match := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", key))}
        size = _HIERA.get((state[_HIERA_KEY].shape[0], len(blocks)))
        name = size and f"sam2{'.1' if _ONLY_SAM_2_1 in state else ''}_{size}"
    if name is None:
        raise ValueError(f"{file} holds none of the known networks: {_KNOWN}")
    return name


def _read(file: Path, trusted: Collection[str], sha256: str | None = None) -> Any:
    zipped = zipfile.is_zipfile(file)
    with file.open("rb") as opened:
        beginning = opened.read(8)
    if not zipped and not beginning.startswith(_PICKLE):
        content = f"begins with {beginning!r}" if beginning else "is empty"
        raise ValueError(f"{file} is no file of weights, or only the beginning of one: it {content}")
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        pass
    except Exception as error:  # on damaged bytes torch raises anything: RuntimeError, EOFError, OSError
        raise ValueError(f"{file} cannot be read as weights ({type(error).__name__}): cut short or damaged") from None
    sha256 = sha256 or file_sha256(file)
    if sha256 not in {*trusted, *filter(None, os.environ.get(TRUSTED, "").replace(" ", "").split(","))}:
        raise ValueError(
            f"{file} holds more than tensors and is not read, because that would execute code which whoever made the "
            "file may have put there, with all your rights; if you trust its maker, put its SHA-256 into the "
            f"environment: {TRUSTED}={sha256}"
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ValueError(f"{file} cannot be read as weights ({type(error).__name__}: {error})") from None


def _state(file: Path, content: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint: Meta's SAM is a mapping of them, SAM 2 has this mapping under ``model``."""
    inner = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(value, Tensor) for value in inner.values()):
        raise ValueError(f"{file} holds no tensors by their names, at its top or under 'model': {_KNOWN} do")
    return dict(inner)


def _is_ultralytics(file: Path) -> bool:
    """Whether a file is an Ultralytics network. A checkpoint is searched for its classes, but none is instantiated."""
    if file.suffix in ENGINES and file.suffix != ".pt":
        return True
    if not zipfile.is_zipfile(file):
        return False
    declared = torch.serialization.get_safe_globals()  # Ultralytics has declared its own classes safe
    torch.serialization.clear_safe_globals()
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # damaged, or no checkpoint: reading it will say so
        return False
    finally:
        torch.serialization.add_safe_globals(declared)
    return any(name.startswith("ultralytics.") for name in names)


def _check_origin(file: Path, sha256: str) -> None:
    """Compare a file with the note that `gridflow fetch` left beside it, if it did; a ValueError if they differ."""
    note = file.with_suffix(".json")
    try:
        origin = json.loads(note.read_text())
    except (OSError, ValueError):
        return
    if isinstance(origin, dict) and origin.get("file") == file.name and origin.get("sha256", sha256) != sha256:
        raise ValueError(
            f"{file} has the SHA-256 {sha256}, but {origin['sha256']} was fetched (noted in {note.name}): fetch it "
            f"again (`gridflow fetch {file.name}`), or delete {note.name} if this file is yours"
        )
