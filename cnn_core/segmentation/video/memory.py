"""SAM 2's steps on the frames of a video, and its memory of one object.

The reference is Ultralytics' `SAM2VideoPredictor`: each step is the function of the network that it calls, with the
same arguments. Unlike there, every object has a memory of its own, so that objects may appear at any frame, and a
memory holds only what later frames look at. Ravi et al., "SAM 2: Segment Anything in Images and Videos" (2024),
section 4.
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

_PRESENT = 10.0  # logit of "the object is there", which a prompt implies
_FAR = -32.0  # a logit far below every threshold
_ENDLESS = 1 << 30  # frames of a video whose length is unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedFrame:
    """An encoded frame, whose original has ``shape`` (height, width)."""

    shape: tuple[int, int]
    features: list[Tensor]  # the encoder's output at three levels, the finest first, each (cells, 1, C)
    positions: list[Tensor]  # the cells' positional encodings, of the same shapes
    sizes: list[tuple[int, int]]  # (height, width) of each level


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectMask:
    """An object in one frame."""

    logits: Tensor  # of the mask, (1, 1, side / 4, side / 4); far below 0 where the object is hidden
    score: float  # the predicted IoU


class ObjectMemory:
    """What later frames look at of an object's earlier frames, in the form that SAM 2's network takes.

    Args:
        prompted: how many frames with a prompt are kept, the closest ones.
        recent: for how many other frames the object pointer (256 numbers) is kept; ``maps``: the map, which is larger.
    """

    def __init__(self, *, prompted: int, recent: int, maps: int) -> None:
        self.prompted, self.recent, self.maps = prompted, recent, maps
        self.outputs: dict[str, dict[int, dict[str, Any]]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}

    def __len__(self) -> int:
        return sum(map(len, self.outputs.values()))

    def add(self, number: int, output: dict[str, Any], *, prompted: bool) -> None:
        closest, others = self.outputs["cond_frame_outputs"], self.outputs["non_cond_frame_outputs"]
        (closest if prompted else others)[number] = output
        for far in sorted(closest, key=lambda other: abs(other - number))[self.prompted :]:
            del closest[far]
        for far in [other for other in others if abs(other - number) >= self.maps]:
            others[far].pop("maskmem_features", None)
        for far in [other for other in others if abs(other - number) >= self.recent]:
            del others[far]


class VideoSteps(SamSteps):
    """SAM 2's prediction in a video, in steps. All that one step hands to the next is the `ObjectMemory` of an object.

    The steps use Ultralytics' own mask decoder: one object a call gains nothing from ours (`sam.decoder`), and where a
    mask is made 0 or 1 for the memory, the last digit of a logit counts.

    Raises:
        ValueError: the network is no SAM 2.
    """

    def __init__(self, loaded: LoadedSam, *, imgsz: int, device: torch.device, half: bool) -> None:
        if loaded.family != "sam2":
            raise ValueError(f"{loaded.name} has no memory: to follow objects through a video, name weights of SAM 2")
        super().__init__(loaded, imgsz=imgsz, device=device, half=half)
        self.model = self.predictor.model
        self.model.set_binarize(True)  # as SAM2VideoPredictor.get_model; used on frames with a prompt alone
        self._positions: list[Tensor] | None = None  # of a map's cells: the same for all frames and objects

    def letterboxed(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (side, side, 3), which `encode` encodes as it does the image itself."""
        return np.asarray(self.predictor.pre_transform([image])[0])

    def encode(self, image: np.ndarray, shape: tuple[int, int]) -> EncodedFrame:
        """Encode a frame; ``shape`` is the (height, width) of the original."""
        encoded = self.model.forward_image(self.pixels(image))
        _, features, positions, sizes = self.model._prepare_backbone_features(encoded)
        return EncodedFrame(shape=shape, features=features, positions=positions, sizes=sizes)

    def prompt(self, frame: EncodedFrame, number: int, memory: ObjectMemory, **prompt: np.ndarray | None) -> ObjectMask:
        """Segment the object that a prompt (as `SamSteps.decode` takes it, N = 1) shows. Its memory is not asked."""
        points, labels, _ = self.predictor._prepare_prompts(
            self.predictor.imgsz, frame.shape, prompt.get("boxes"), prompt.get("points"), prompt.get("labels")
        )
        inputs = {"point_coords": points, "point_labels": labels}
        heads = self._heads(frame, number, memory, inputs, _ENDLESS, reverse=False)
        present = torch.full_like(heads[6], _PRESENT)
        return self._remember(frame, number, memory, heads, present, prompted=True)

    def track(
        self, frame: EncodedFrame, number: int, memory: ObjectMemory, *, count: int | None, reverse: bool
    ) -> ObjectMask:
        """Segment the object by its memory, with ``reverse`` one of later frames.

        Args:
            count: frames of the video, None = unknown. With fewer than 16, SAM 2 measures times relative to it.
        """
        frames = max(count, number + 1) if count else _ENDLESS
        heads = self._heads(frame, number, memory, None, frames, reverse=reverse)
        return self._remember(frame, number, memory, heads, heads[6], prompted=False)

    def _heads(
        self,
        frame: EncodedFrame,
        number: int,
        memory: ObjectMemory,
        inputs: dict[str, Tensor] | None,
        count: int,
        *,
        reverse: bool,
    ) -> tuple[Tensor, ...]:
        """The outputs of the network's heads: masks, the same enlarged, IoUs, best mask, the same enlarged, object
        pointer, presence."""
        heads, _, _ = self.model._track_step(
            frame_idx=number,
            is_init_cond_frame=inputs is not None,
            current_vision_feats=frame.features,
            current_vision_pos_embeds=frame.positions,
            feat_sizes=frame.sizes,
            point_inputs=inputs,
            mask_inputs=None,
            output_dict=memory.outputs,
            num_frames=count,
            track_in_reverse=reverse,
            prev_sam_mask_logits=None,
        )
        return heads

    def _remember(
        self,
        frame: EncodedFrame,
        number: int,
        memory: ObjectMemory,
        heads: tuple[Tensor, ...],
        present: Tensor,
        *,
        prompted: bool,
    ) -> ObjectMask:
        features, positions = self.model._encode_new_memory(
            current_vision_feats=frame.features,
            feat_sizes=frame.sizes,
            pred_masks_high_res=heads[4],
            object_score_logits=present,
            is_mask_from_pts=prompted,
        )
        self._positions = self._positions or positions
        output = {"maskmem_features": features.half(), "maskmem_pos_enc": self._positions, "obj_ptr": heads[5]}
        memory.add(number, output, prompted=prompted)
        return ObjectMask(logits=heads[3], score=float(heads[2].max()))


class BackwardMasks:
    """Masks found while going backwards, in a file until their frame comes. Only the logits around a mask are kept."""

    def __init__(self, folder: Path) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.positions: dict[int, int] = {}  # of each frame in the file

    def __enter__(self) -> BackwardMasks:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, number: int, masks: dict[int, ObjectMask]) -> None:
        if masks:
            self.positions[number] = self.file.seek(0, 2)
            pickle.dump({name: (_cut(mask.logits), mask.score) for name, mask in masks.items()}, self.file)

    def read(self, number: int, device: torch.device) -> dict[int, ObjectMask]:
        if number not in self.positions:
            return {}
        self.file.seek(self.positions.pop(number))
        masks: dict[int, Any] = pickle.load(self.file)
        return {name: ObjectMask(logits=_uncut(*part).to(device), score=score) for name, (part, score) in masks.items()}


def _cut(logits: Tensor) -> tuple[tuple[int, ...], int, int, np.ndarray]:
    """Cut out the rectangle with all logits above `_FAR` / 4: shape of all, top, left, and the rectangle, float32."""
    array = logits[0, 0].float().cpu().numpy()
    rows, columns = (np.flatnonzero((array > _FAR / 4).any(axis)) for axis in (1, 0))
    if not len(rows):
        return array.shape, 0, 0, array[:0, :0]
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    return array.shape, int(top), int(left), array[top : rows[-1] + 2, left : columns[-1] + 2].copy()


def _uncut(shape: tuple[int, ...], top: int, left: int, part: np.ndarray) -> Tensor:
    logits = torch.full((1, 1, *shape), _FAR)
    logits[0, 0, top : top + part.shape[0], left : left + part.shape[1]] = torch.from_numpy(part)
    return logits
