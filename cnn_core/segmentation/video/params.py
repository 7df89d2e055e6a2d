"""What is asked of a video: how objects are followed, and which, from which frame on. Without torch, to start fast."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from cnn_core.params import bounded
from cnn_core.segmentation.params import TrackingParams

HIDDEN = "not visible in this frame"


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoParams(TrackingParams):
    """And how the network is asked, as `segmentation_params` says it."""

    imgsz: int = bounded(0, 4096)
    conf: float = bounded(0, 1)
    half: Literal["auto", True, False]
    stability_score_offset: float = bounded(above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoPrompt:
    """What and where an object is in one frame; each must say it by itself.

    Attributes:
        frame: its number, from 0.
        box: xyxy in pixels of the frame. points: (x, y) of the same object, with labels 1 = inside, 0 = outside.
        about: class_id, class_name, prompt_score: what the object's rows take over.
    """

    frame: int
    object_id: int
    box: tuple[float, ...] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)


PromptsByFrame = dict[int, dict[int, VideoPrompt]]  # by frame, then by object


def group_by_frame(prompts: Iterable[VideoPrompt]) -> PromptsByFrame:
    """Both in order.

    Raises:
        ValueError: a frame is negative, or an object has two prompts in one frame.
    """
    table: PromptsByFrame = {}
    for prompt in sorted(prompts, key=lambda prompt: (prompt.frame, prompt.object_id)):
        if prompt.frame < 0:
            raise ValueError(f"a prompt is for frame {prompt.frame}: frames are numbered from 0")
        own = table.setdefault(prompt.frame, {})
        if prompt.object_id in own:
            raise ValueError(f"object {prompt.object_id} has two prompts in frame {prompt.frame}: one must say it all")
        own[prompt.object_id] = prompt
    return table


def first_prompts(table: PromptsByFrame) -> PromptsByFrame:
    """Of each object its first prompt."""
    known: set[int] = set()
    begins: PromptsByFrame = {}
    for number, own in table.items():
        if new := {name: prompt for name, prompt in own.items() if name not in known}:
            begins[number] = new
            known |= new.keys()
    return begins
