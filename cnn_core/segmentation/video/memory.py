"""SAM 2's steps on the frames of a video, and what it remembers of one object.

The reference is Ultralytics' `SAM2VideoPredictor`; each step is the function of its network that it calls, with its
arguments. Other than there, every object has a memory of its own, so that objects may come at any frame, and a memory
holds only what later frames look at. Ravi et al., "SAM 2: Segment Anything in Images and Videos" (2024), section 4.
"""

from __future__ import annotations

import dataclasses
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_core.segmentation.sam.network import LoadedSam, SamSteps

_PRESENT = 10.0  # logit of "the object is there", which a prompt says by itself
_FAR = -32.0  # a logit far below every threshold
_ENDLESS = 1 << 30  # frames of a video whose length is not known


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedFrame:
    """An encoded frame.

    Attributes:
        height, width: of the original.
        features, places: of each of three levels (cells, 1, C), the finest first: what the encoder found, and where.
        sizes: (height, width) of each level.
    """

    height: int
    width: int
    features: list[Tensor]
    places: list[Tensor]
    sizes: list[tuple[int, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectMask:
    """An object in one frame: mask logits (1, 1, side / 4, side / 4), far below 0 where it is hidden, and their
    predicted IoU."""

    logits: Tensor
    score: float


class ObjectMemory:
    """What later frames look at of one object's earlier ones, as SAM 2's network takes it.

    Args:
        prompted: frames with a prompt that are kept, the closest ones.
        recent: other frames whose object pointer is kept (256 numbers). The map of a frame (`maps` of them) is larger.
    """

    def __init__(self, *, prompted: int, recent: int, maps: int) -> None:
        self.prompted, self.recent, self.maps = prompted, recent, maps
        self.outputs: dict[str, dict[int, dict[str, Any]]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}

    def __len__(self) -> int:
        """Frames that it holds anything of."""
        return sum(map(len, self.outputs.values()))

    @property
    def tensors(self) -> int:
        """Bytes of what it holds; the maps' places, which all have in common, do not count."""
        held = (output for outputs in self.outputs.values() for output in outputs.values())
        return sum(output[key].nbytes for output in held for key in ("maskmem_features", "obj_ptr") if key in output)

    def add(self, number: int, output: dict[str, Any], *, prompted: bool) -> None:
        """Remember a frame, and forget those that no later one will look at."""
        closest, others = self.outputs["cond_frame_outputs"], self.outputs["non_cond_frame_outputs"]
        (closest if prompted else others)[number] = output
        for far in sorted(closest, key=lambda other: abs(other - number))[self.prompted :]:
            del closest[far]
        for far in [other for other in others if abs(other - number) >= self.maps]:
            others[far].pop("maskmem_features", None)
        for far in [other for other in others if abs(other - number) >= self.recent]:
            del others[far]


class VideoSteps(SamSteps):
    """SAM 2's prediction in a video, in steps; what they hand on is in the `ObjectMemory` of each object.

    By Ultralytics' own decoder: one object a call gains nothing from ours, and where a mask is made 0 or 1 for the
    memory, the last digit of a logit counts.

    Raises:
        ValueError: the network is no SAM 2.
    """

    def __init__(self, loaded: LoadedSam, *, imgsz: int, device: torch.device, half: bool) -> None:
        if loaded.family != "sam2":
            raise ValueError(f"{loaded.name} has no memory: to follow objects through a video, name weights of SAM 2")
        super().__init__(loaded, imgsz=imgsz, device=device, half=half)
        self.model = self.predictor.model
        self.model.set_binarize(True)  # as SAM2VideoPredictor.get_model; used on frames with a prompt alone
        self._places: list[Tensor] | None = None  # of a map's cells: the same for all frames and objects

    def letterboxed(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (side, side, 3), which `encode` makes the same of as of the image itself."""
        return np.asarray(self.predictor.pre_transform([image])[0])

    def encode(self, image: np.ndarray, shape: tuple[int, int]) -> EncodedFrame:
        """``shape``: (height, width) of the original frame."""
        encoded = self.model.forward_image(self.pixels(image))
        _, features, places, sizes = self.model._prepare_backbone_features(encoded)
        return EncodedFrame(height=shape[0], width=shape[1], features=features, places=places, sizes=sizes)

    def prompt(self, frame: EncodedFrame, number: int, memory: ObjectMemory, **prompt: np.ndarray | None) -> ObjectMask:
        """What a prompt (of `Steps.decode`, N = 1) says the object is, by itself: the memory is not asked."""
        points, labels, _ = self.predictor._prepare_prompts(
            self.predictor.imgsz,
            (frame.height, frame.width),
            prompt.get("boxes"),
            prompt.get("points"),
            prompt.get("labels"),
        )
        given = {"point_coords": points, "point_labels": labels}
        found = self._found(frame, number, memory, given, _ENDLESS, reverse=False)
        present = torch.full_like(found[6], _PRESENT)
        return self._remembered(frame, number, memory, found, present, prompted=True)

    def track(
        self, frame: EncodedFrame, number: int, memory: ObjectMemory, *, count: int | None, reverse: bool
    ) -> ObjectMask:
        """Where the object is by its memory.

        Args:
            count: frames of the video, where it is known; SAM 2 tells times relative to it when there are less than 16.
            reverse: its memory is of frames behind this one.
        """
        frames = max(count, number + 1) if count else _ENDLESS
        found = self._found(frame, number, memory, None, frames, reverse=reverse)
        return self._remembered(frame, number, memory, found, found[6], prompted=False)

    def _found(
        self,
        frame: EncodedFrame,
        number: int,
        memory: ObjectMemory,
        given: dict[str, Tensor] | None,
        count: int,
        *,
        reverse: bool,
    ) -> tuple[Tensor, ...]:
        """What its heads give: the masks, the same larger, IoUs, the best mask, the same larger, pointer, presence."""
        found, _, _ = self.model._track_step(
            frame_idx=number,
            is_init_cond_frame=given is not None,
            current_vision_feats=frame.features,
            current_vision_pos_embeds=frame.places,
            feat_sizes=frame.sizes,
            point_inputs=given,
            mask_inputs=None,
            output_dict=memory.outputs,
            num_frames=count,
            track_in_reverse=reverse,
            prev_sam_mask_logits=None,
        )
        return found

    def _remembered(
        self,
        frame: EncodedFrame,
        number: int,
        memory: ObjectMemory,
        found: tuple[Tensor, ...],
        present: Tensor,
        *,
        prompted: bool,
    ) -> ObjectMask:
        seen, places = self.model._encode_new_memory(
            current_vision_feats=frame.features,
            feat_sizes=frame.sizes,
            pred_masks_high_res=found[4],
            object_score_logits=present,
            is_mask_from_pts=prompted,
        )
        self._places = self._places or places
        output = {"maskmem_features": seen.half(), "maskmem_pos_enc": self._places, "obj_ptr": found[5]}
        memory.add(number, output, prompted=prompted)
        return ObjectMask(logits=found[3], score=float(found[2].max()))


class BackwardMasks:
    """What was seen backwards, on disk until its frame comes: of each object's logits the part around its mask."""

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.places: dict[int, int] = {}

    def __enter__(self) -> BackwardMasks:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, number: int, seen: dict[int, ObjectMask]) -> None:
        if seen:
            self.places[number] = self.file.seek(0, 2)
            pickle.dump({name: (_cut(one.logits), one.score) for name, one in seen.items()}, self.file)

    def read(self, number: int, device: torch.device) -> dict[int, ObjectMask]:
        if number not in self.places:
            return {}
        self.file.seek(self.places.pop(number))
        kept: dict[int, Any] = pickle.load(self.file)
        return {name: ObjectMask(logits=_whole(*part).to(device), score=score) for name, (part, score) in kept.items()}


def _cut(logits: Tensor) -> tuple[tuple[int, ...], int, int, np.ndarray]:
    """The rectangle that holds all logits above -`_FAR` / 4, with a margin for what lies between two cells."""
    array = logits[0, 0].float().cpu().numpy()
    rows, columns = (np.flatnonzero((array > _FAR / 4).any(axis)) for axis in (1, 0))
    if not len(rows):
        return array.shape, 0, 0, array[:0, :0]
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    return array.shape, int(top), int(left), array[top : rows[-1] + 2, left : columns[-1] + 2].copy()


def _whole(shape: tuple[int, ...], top: int, left: int, part: np.ndarray) -> Tensor:
    logits = torch.full((1, 1, *shape), _FAR)
    logits[0, 0, top : top + part.shape[0], left : left + part.shape[1]] = torch.from_numpy(part)
    return logits
