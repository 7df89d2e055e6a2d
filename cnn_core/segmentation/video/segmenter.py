"""Objects followed through a video by SAM 2, from prompts in any frame, in bounded memory.

    segmenter = VideoSegmenter("data/weights/sam2.1_t.pt", params, device=…, settings=…)
    for found in segmenter.track(Clip(part), prompts):
        found.segments      masks of this frame, by object

What `ultralytics.models.sam.SAM2VideoPredictor` gives for prompts in the first frame; and objects may also come later,
be followed backwards to the first frame, or be prompted again. An object's masks depend on its own prompts alone, until
objects that overlap share out their pixels.
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
from cnn_core.images.decoding import TOO_NARROW, BadImage
from cnn_core.segmentation.prompts.image_prompts import CheckedPrompts
from cnn_core.segmentation.sam.network import LoadedSam, load_sam
from cnn_core.segmentation.segments import LOW_SCORE, Segments, SegmentsBuilder
from cnn_core.segmentation.video.memory import BackwardMasks, ObjectMask, ObjectMemory, VideoSteps
from cnn_core.segmentation.video.params import (
    HIDDEN,
    PromptsByFrame,
    VideoParams,
    VideoPrompt,
    first_prompts,
    group_by_frame,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackedFrame:
    """A frame with what was found in it.

    Attributes:
        segments: its ``prompts`` are object ids, each followed one either there or in ``dropped``; None of a frame
            that cannot be read.
        states: frames that are remembered, summed over the objects.
    """

    frame: Frame
    segments: Segments | None
    states: int


@dataclasses.dataclass
class _Object:
    memory: ObjectMemory
    unseen: int = 0


class VideoSegmenter:
    """Loads when it is made; then call `track` for one clip after the other.

    Args:
        weights: a checkpoint of SAM 2, or a network that is already loaded.
        settings: folder for Ultralytics' own settings, and what does not fit into memory.
        trusted: SHA-256 values of files that may execute code when they are read (`cnn_core.segmentation.sam.weights`).

    Raises:
        ValueError: as `cnn_core.segmentation.sam.network.load_sam`; or the network is no SAM 2.
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
        """The clip's frames in order, as far as they can be read, each once.

        A prompt works from its frame on. Prompts behind the last frame have no effect.

        Raises:
            ValueError: as `video_prompts.by_frame`, or a prompt's numbers are none.
        """
        table = group_by_frame(prompts)
        self.settings.mkdir(parents=True, exist_ok=True)
        with BackwardMasks(self.settings) as earlier:
            if self.params.backwards:
                self._backwards(clip, first_prompts(table), earlier)
            yield from self._forwards(clip, table, earlier)

    def _forwards(self, clip: Clip, table: PromptsByFrame, earlier: BackwardMasks) -> Iterator[TrackedFrame]:
        objects: dict[int, _Object] = {}
        for frame in clip:
            frame, segments = self._usable(frame), None
            if isinstance(frame.image, np.ndarray):
                height, width = frame.image.shape[:2]
                given = table.get(frame.number, {})
                seen, dropped = self._step(frame.number, frame.image, (height, width), objects, given, len(clip))
                seen = earlier.read(frame.number, self.steps.predictor.device) | seen
                segments = self._segments((height, width), seen, dropped)
            states = sum(len(known.memory) for known in objects.values())
            yield TrackedFrame(frame=frame, segments=segments, states=states)

    def _backwards(self, clip: Clip, begins: PromptsByFrame, earlier: BackwardMasks) -> None:
        """Follow every object from its first prompt to the beginning; what is seen is kept in ``earlier``."""
        last = min(max(begins, default=0), len(clip) - 1)
        objects: dict[int, _Object] = {}
        for number, image, shape in clip.backwards(last, self._kept) if last else ():
            given = begins.get(number, {})
            if image is not None:
                seen, _ = self._step(number, image, shape, objects, given, len(clip), reverse=True)
                earlier.write(number, {name: one for name, one in seen.items() if name not in given})

    def _kept(self, frame: Frame) -> tuple[int, np.ndarray | None, tuple[int, int]]:
        """Of a frame that is waited with, no more than the network will see."""
        image = self._usable(frame).image
        if isinstance(image, BadImage):
            return frame.number, None, (0, 0)
        return frame.number, self.steps.letterboxed(image), (image.shape[0], image.shape[1])

    def _usable(self, frame: Frame) -> Frame:
        """With a `BadImage` where nothing would be left of its shorter side."""
        if isinstance(frame.image, BadImage):
            return frame
        height, width = frame.image.shape[:2]
        if round(min(height, width) * self.steps.side / max(height, width)) >= 1:
            return frame
        detail = f"{width}x{height} pixels, less than 1 pixel wide at {self.steps.side}"
        return dataclasses.replace(frame, image=BadImage(TOO_NARROW, detail))

    @torch.inference_mode()
    def _step(
        self,
        number: int,
        image: np.ndarray,
        shape: tuple[int, int],
        objects: dict[int, _Object],
        given: Mapping[int, VideoPrompt],
        count: int,
        *,
        reverse: bool = False,
    ) -> tuple[dict[int, ObjectMask], dict[int, str]]:
        """One frame: what is seen of all objects that are known or prompted in it, and why some prompts are not used;
        an object that is known is then followed by its memory."""
        checked = {name: _checked(prompt, *shape) for name, prompt in given.items()}
        dropped = {name: prompt.dropped[0] for name, prompt in checked.items() if prompt.dropped}
        asked = {name: prompt for name, prompt in checked.items() if name not in dropped}
        if not objects and not asked:
            return {}, dropped
        frame, seen = self.steps.encode(image, shape), {}
        for name, known in list(objects.items()):
            if name not in asked:
                seen[name] = self.steps.track(frame, number, known.memory, count=count, reverse=reverse)
                known.unseen = 0 if self._visible(seen[name]) else known.unseen + 1
                if 0 < self.params.patience <= known.unseen:
                    del objects[name]
        for name, prompt in asked.items():
            known = objects.setdefault(name, _Object(self._memory()))
            seen[name], known.unseen = self.steps.prompt(frame, number, known.memory, **prompt.arrays()), 0
        return seen, dropped

    def _memory(self) -> ObjectMemory:
        maps = self.steps.model.num_maskmem - 1
        return ObjectMemory(prompted=self.params.max_cond_frames_in_attn, recent=self.params.memory_frames, maps=maps)

    def _visible(self, seen: ObjectMask) -> bool:
        return bool((seen.logits > self.steps.threshold).any())

    def _segments(self, shape: tuple[int, int], seen: dict[int, ObjectMask], dropped: dict[int, str]) -> Segments:
        found = SegmentsBuilder(*shape, {name: why for name, why in dropped.items() if name not in seen})
        shown = {}
        for name in sorted(seen):
            if not self._visible(seen[name]):
                found.dropped[name] = HIDDEN
            elif seen[name].score <= self.params.conf:
                found.dropped[name] = LOW_SCORE
            else:
                shown[name] = seen[name]
        owner = self._owners(shown, shape) if self.params.non_overlap_masks and len(shown) > 1 else None
        for place, (name, one) in enumerate(shown.items()):
            logits = self._original(one, shape)
            mask = logits > self.steps.threshold
            stability = self.steps.stability(logits, self.params.stability_score_offset)
            found.add(name, one.score, stability, mask if owner is None else mask & (owner == place))
        found.dropped.update({name: HIDDEN for name in shown if name in found.dropped})  # covered by others
        return found.segments()

    def _owners(self, shown: dict[int, ObjectMask], shape: tuple[int, int]) -> Tensor:
        """Which of them has the highest logit, int16 (height, width); one mask in memory at a time."""
        best: Tensor | None = None
        for place, one in enumerate(shown.values()):
            logits = self._original(one, shape)
            if best is None:
                best, owner = logits, torch.zeros(logits.shape, dtype=torch.int16, device=logits.device)
                continue
            owner[logits > best] = place
            best = torch.maximum(best, logits)
        return owner

    def _original(self, seen: ObjectMask, shape: tuple[int, int]) -> Tensor:
        return next(self.steps.in_original(seen.logits[0].float(), shape))


def _checked(prompt: VideoPrompt, height: int, width: int) -> CheckedPrompts:
    boxes = None if prompt.box is None else [prompt.box]
    points = [prompt.points] if prompt.points else None
    labels = None if prompt.labels is None else [prompt.labels]
    return CheckedPrompts.checked(boxes, points, labels, height, width)
