"""The parameters and prompts of a video. This module imports no torch, so that a stage's driver starts fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from cnn_core.params import bounded
from cnn_core.segmentation.params import TrackingParams

HIDDEN = "not visible in this frame"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoParams(TrackingParams):
    """How objects are followed, and how the network is asked (as `cnn_core.segmentation.params.SegmenterParams`)."""

    imgsz: int = bounded(0, 4096)
    conf: float = bounded(0, 1)
    half: Literal["auto", True, False]
    stability_score_offset: float = bounded(above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoPrompt:
    """What and where an object is in one frame. Each prompt must say it by itself.

    Attributes:
        frame: its number, from 0.
        box: xyxy in pixels of the frame.
        points: (x, y) of the same object, with labels 1 = inside, 0 = outside.
        about: class_id, class_name and prompt_score, which the object's rows take over.
    """

    frame: int
    object_id: int
    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


PromptsByFrame = dict[int, dict[int, VideoPrompt]]  # by frame, then by object


def group_by_frame(prompts: Iterable[VideoPrompt]) -> PromptsByFrame:
    """Group the prompts by frame, then by object, both in rising order.

    Raises:
        ValueError: a frame is negative, or an object has two prompts in one frame.
    """
    table: PromptsByFrame = {}
    for prompt in sorted(prompts, key=lambda prompt: (prompt.frame, prompt.object_id)):
        if prompt.frame < 0:
            raise ValueError(f"a prompt is for frame {prompt.frame}: frames are numbered from 0")
        objects = table.setdefault(prompt.frame, {})
        if prompt.object_id in objects:
            raise ValueError(f"object {prompt.object_id} has two prompts in frame {prompt.frame}: one must say it all")
        objects[prompt.object_id] = prompt
    return table


def first_prompts(table: PromptsByFrame) -> PromptsByFrame:
    """Keep the first prompt of each object."""
    prompted: set[int] = set()
    first: PromptsByFrame = {}
    for frame, objects in table.items():
        if new := {object_id: prompt for object_id, prompt in objects.items() if object_id not in prompted}:
            first[frame] = new
            prompted |= new.keys()
    return first
