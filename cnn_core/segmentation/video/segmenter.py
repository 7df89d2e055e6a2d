"""Objects followed through a video by SAM 2, from prompts in any frame, in bounded memory.

For prompts in the first frame the masks are those of `ultralytics.models.sam.SAM2VideoPredictor`. Objects may also
appear later, be followed backwards to the first frame, or be prompted again. An object's masks depend on its own
prompts alone, until objects that overlap share out their pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnn_core.detection.yolo import quiet
from cnn_core.images.clips import Clip, Frame
from cnn_core.images.decoding import BadImage
from cnn_core.segmentation.params import VideoParams
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from cnn_core.segmentation.sam.network import LoadedSam, load_sam
from cnn_core.segmentation.segments import HIDDEN, LOW_SCORE, Segments, SegmentsBuilder
from cnn_core.segmentation.video.memory import BackwardMasks, ObjectMask, ObjectMemory, VideoSteps
from cnn_core.segmentation.video.prompts import PromptsByFrame, VideoPrompt, first_prompts, group_by_frame


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedFrame:
    """A frame with the masks of the objects that are followed."""

    frame: Frame
    segments: Segments | None  # its ``prompts`` are object ids; None for a frame that cannot be read
    states: int  # frames that are remembered, summed over the objects


@dataclasses.dataclass
class _Object:
    memory: ObjectMemory
    unseen: int = 0  # frames in a row in which it was hidden


class VideoSegmenter:
    """A SAM 2 that is loaded once. Call `track` for one clip after the other.

    Args:
        weights: a checkpoint of SAM 2, or a network that is already loaded.
        settings: folder for Ultralytics' own settings, and for masks that wait for their frame.
        trusted: as for `cnn_core.segmentation.sam.weights.read_weights`.

    Raises:
        ValueError: as `cnn_core.segmentation.sam.network.load_sam`; or the network is no SAM 2.

    Examples:
        >>> from cnn_core.images.clips import Clip, clip_parts
        >>> from cnn_core.images.media import list_media
        >>> from cnn_core.segmentation.params import VideoParams
        >>> from cnn_core.segmentation.video.prompts import VideoPrompt
        >>> params = VideoParams(
        ...     imgsz=0, conf=0.0, half="auto", stability_score_offset=0.95, folders=False, backwards=True,
        ...     non_overlap_masks=True, max_cond_frames_in_attn=4, memory_frames=8, patience=0,
        ... )
        >>> segmenter = VideoSegmenter(weights, params, device=torch.device("cpu"), settings="settings")
        >>> [part] = clip_parts(list_media("clip.avi"), folders=False)
        >>> prompts = [VideoPrompt(frame=0, object_id=1, box=(3, 19, 14, 30))]
        >>> for tracked in segmenter.track(Clip(part), prompts):
        ...     print(tracked.frame.number, tracked.segments.prompts)
        0 [1]
        1 [1]
        2 [1]
    """

    def __init__(
        self,
        weights: str | Path | LoadedSam,
        params: VideoParams,
        *,
        device: torch.device,
        settings: str | Path,
        trusted: Collection[str] = (),
    ) -> None:
        quiet(settings)
        self.params, self.settings = params, Path(settings)
        self.loaded = weights if isinstance(weights, LoadedSam) else load_sam(weights, trusted=trusted)
        half = device.type == "cuda" and params.half in ("auto", True)
        self.steps = VideoSteps(self.loaded, imgsz=params.imgsz, device=device, half=half)

    def track(self, clip: Clip, prompts: Iterable[VideoPrompt]) -> Iterator[TrackedFrame]:
        """Yield the clip's frames in order, each once, as far as they can be read.

        A prompt has an effect from its frame on. Prompts after the last frame have none.

        Raises:
            ValueError: as `cnn_core.segmentation.video.prompts.group_by_frame`, or a prompt's values are no numbers.
        """
        table = group_by_frame(prompts)
        self.settings.mkdir(parents=True, exist_ok=True)
        with BackwardMasks(self.settings) as backward_masks:
            if self.params.backwards:
                self._backwards(clip, first_prompts(table), backward_masks)
            yield from self._forwards(clip, table, backward_masks)

    def _forwards(self, clip: Clip, table: PromptsByFrame, backward_masks: BackwardMasks) -> Iterator[TrackedFrame]:
        objects: dict[int, _Object] = {}
        for frame in map(self._usable, clip):
            segments = None
            if isinstance(frame.image, np.ndarray):
                height, width = frame.image.shape[:2]
                prompts = table.get(frame.number, {})
                masks, dropped = self._step(frame.number, frame.image, (height, width), objects, prompts, len(clip))
                masks = backward_masks.read(frame.number, self.steps.predictor.device) | masks
                segments = self._segments((height, width), masks, dropped)
            states = sum(len(tracked.memory) for tracked in objects.values())
            yield TrackedFrame(frame=frame, segments=segments, states=states)

    def _backwards(self, clip: Clip, first: PromptsByFrame, backward_masks: BackwardMasks) -> None:
        """Follow every object from its first prompt back to the beginning, and keep its masks in ``backward_masks``."""
        last = min(max(first, default=0), len(clip) - 1)
        objects: dict[int, _Object] = {}
        for number, image, shape in clip.backwards(last, self._letterboxed) if last else ():
            prompts = first.get(number, {})
            if image is not None:
                masks, _ = self._step(number, image, shape, objects, prompts, len(clip), reverse=True)
                earlier = {object_id: mask for object_id, mask in masks.items() if object_id not in prompts}
                backward_masks.write(number, earlier)

    def _letterboxed(self, frame: Frame) -> tuple[int, np.ndarray | None, tuple[int, int]]:
        """A frame's number, what the network will see of it (None: it is bad), and its own (height, width)."""
        image = self._usable(frame).image
        if isinstance(image, BadImage):
            return frame.number, None, (0, 0)
        return frame.number, self.steps.letterboxed(image), (image.shape[0], image.shape[1])

    def _usable(self, frame: Frame) -> Frame:
        """The frame, with a `BadImage` in it if nothing would be left of its shorter side."""
        if isinstance(frame.image, BadImage):
            return frame
        try:
            self.steps.check_shape(frame.image.shape[:2])
        except BadImage as fault:
            return dataclasses.replace(frame, image=fault)
        return frame

    @torch.inference_mode()
    def _step(
        self,
        number: int,
        image: np.ndarray,
        shape: tuple[int, int],
        objects: dict[int, _Object],
        prompts: Mapping[int, VideoPrompt],
        count: int,
        *,
        reverse: bool = False,
    ) -> tuple[dict[int, ObjectMask], dict[int, str]]:
        """Segment one frame. Objects are followed by their memory, unless they are prompted in this frame.

        New objects are added to ``objects``, and those out of sight for too long are removed.

        Args:
            count: of all frames.

        Returns:
            The masks by object, and why some prompts are not used.
        """
        checked = {object_id: _checked(prompt, *shape) for object_id, prompt in prompts.items()}
        dropped = {object_id: prompt.dropped[0] for object_id, prompt in checked.items() if prompt.dropped}
        usable = {object_id: prompt for object_id, prompt in checked.items() if object_id not in dropped}
        if not objects and not usable:
            return {}, dropped
        encoded, masks = self.steps.encode(image, shape), {}
        for object_id, tracked in list(objects.items()):
            if object_id not in usable:
                mask = self.steps.track(encoded, number, tracked.memory, count=count, reverse=reverse)
                masks[object_id] = mask
                tracked.unseen = 0 if self._visible(mask) else tracked.unseen + 1
                if 0 < self.params.patience <= tracked.unseen:
                    del objects[object_id]
        for object_id, prompt in usable.items():
            tracked = objects.setdefault(object_id, _Object(self._memory()))
            masks[object_id] = self.steps.prompt(encoded, number, tracked.memory, **prompt.arrays())
            tracked.unseen = 0
        return masks, dropped

    def _memory(self) -> ObjectMemory:
        maps = self.steps.model.num_maskmem - 1
        return ObjectMemory(prompted=self.params.max_cond_frames_in_attn, recent=self.params.memory_frames, maps=maps)

    def _visible(self, mask: ObjectMask) -> bool:
        return bool((mask.logits > self.steps.threshold).any())

    def _segments(self, shape: tuple[int, int], masks: dict[int, ObjectMask], dropped: dict[int, str]) -> Segments:
        builder = SegmentsBuilder(*shape, {number: reason for number, reason in dropped.items() if number not in masks})
        visible = {}
        for object_id in sorted(masks):
            if not self._visible(masks[object_id]):
                builder.dropped[object_id] = HIDDEN
            elif masks[object_id].score <= self.params.conf:
                builder.dropped[object_id] = LOW_SCORE
            else:
                visible[object_id] = masks[object_id]
        owner = self._owners(visible, shape) if self.params.non_overlap_masks and len(visible) > 1 else None
        for index, (object_id, mask) in enumerate(visible.items()):
            logits = self._original(mask, shape)
            inside = logits > self.steps.threshold
            stability = self.steps.stability(logits, self.params.stability_score_offset)
            builder.add(object_id, mask.score, stability, inside if owner is None else inside & (owner == index))
        builder.dropped.update({number: HIDDEN for number in visible if number in builder.dropped})  # covered by others
        return builder.segments()

    def _owners(self, visible: dict[int, ObjectMask], shape: tuple[int, int]) -> Tensor:
        """Which of the objects has the highest logit, int16 (height, width); one mask is in memory at a time."""
        best: Tensor | None = None
        for index, mask in enumerate(visible.values()):
            logits = self._original(mask, shape)
            if best is None:
                best, owner = logits, torch.zeros(logits.shape, dtype=torch.int16, device=logits.device)
                continue
            owner[logits > best] = index
            best = torch.maximum(best, logits)
        return owner

    def _original(self, mask: ObjectMask, shape: tuple[int, int]) -> Tensor:
        return next(self.steps.in_original(mask.logits[0].float(), shape))


def _checked(prompt: VideoPrompt, height: int, width: int) -> CheckedPrompts:
    boxes = None if prompt.box is None else [prompt.box]
    points = [prompt.points] if prompt.points else None
    labels = None if prompt.labels is None else [prompt.labels]
    return CheckedPrompts.checked(boxes, points, labels, height, width)
