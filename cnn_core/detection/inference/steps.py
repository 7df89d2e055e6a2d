"""The steps of Ultralytics' own prediction, one by one: read, letterbox, suppress, scale, draw.

Each is Ultralytics' function with Ultralytics' arguments, as its `DetectionPredictor`,
`SegmentationPredictor` and `trackers.track` call them. Import this module after
`cnn_core.detection.yolo.quiet` only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics.data.augment import LetterBox
from ultralytics.engine.results import Results
from ultralytics.utils import YAML, IterableSimpleNamespace, nms, ops
from ultralytics.utils.checks import check_imgsz, check_yaml
from ultralytics.utils.patches import imread

from cnn_core.annotations.masks import decode_mask
from cnn_core.detection.inference.results import Detections
from cnn_core.detection.params import DetectorParams
from cnn_core.detection.yolo import NetworkInfo

_NO_LIMIT_S = 3600.0  # for an image; Ultralytics' own limit silently drops boxes when the machine is busy


def reader(channels: int) -> Callable[[str], np.ndarray | None]:
    """Make Ultralytics' reader of image files: path -> uint8 (H, W, channels), BGR, or None."""
    flags = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    return functools.partial(imread, flags=flags)


def letterbox(info: NetworkInfo, imgsz: int) -> Callable[[np.ndarray], np.ndarray]:
    """Make the function that letterboxes an image.

    It gives the smallest rectangle of whole strides whose longer side is ``imgsz``, or the one shape
    that a static export takes.
    """
    if info.fixed:
        box = LetterBox(info.fixed, auto=False, stride=info.stride)
    else:
        box = LetterBox(check_imgsz(imgsz, stride=info.stride, min_dim=2), auto=True, stride=info.stride)
    return lambda image: cast(np.ndarray, box(image=image))


def squares(images: Sequence[np.ndarray], side: int) -> list[np.ndarray]:
    box = LetterBox((side, side), auto=False)
    return [cast(np.ndarray, box(image=image)) for image in images]


def suppress(raw: Tensor, params: DetectorParams, info: NetworkInfo) -> list[Tensor]:
    """Suppress all but the best boxes: a row has xyxy in pixels of the input, score, class, mask coefficients."""
    values = 4 + len(info.names)
    if not info.end2end and not (raw.shape[1] == values if info.task == "detect" else raw.shape[1] > values):
        raise ValueError(
            f"the network gives a table of {' x '.join(map(str, raw.shape[1:]))}, and a detector of {len(info.names)} "
            f"classes has {values} values for a box: its weights are of another kind of network"
        )
    return nms.non_max_suppression(
        raw,
        params.conf,
        params.iou,
        list(params.classes) or None,
        params.agnostic_nms,
        max_det=params.max_det,
        nc=0 if info.task == "detect" else len(info.names),
        end2end=info.end2end,
        max_time_img=_NO_LIMIT_S,
    )


def in_original(
    rows: Tensor, protos: Tensor | None, shape: tuple[int, int], original: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scale rows of `suppress` from the letterboxed (height, width) to the original image's shape.

    Returns:
        float32 (n, 6), and a segmenter's masks, uint8 (n, H, W).
    """
    rows = rows.float()
    rows[:, :4] = cast(Tensor, ops.scale_boxes(shape, rows[:, :4], (original[0], original[1])))
    rows = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]  # the others lie in the letterbox's border
    if protos is None:
        return rows[:, :6].cpu().numpy(), None
    masks = ops.process_mask_native(protos, rows[:, 6:], rows[:, :4], original[:2])
    if len(rows):
        keep = masks.amax((-2, -1)) > 0  # as Ultralytics: a box with an empty mask goes
        rows, masks = rows[keep], masks[keep]
    return rows[:, :6].cpu().numpy(), masks.cpu().numpy()


def write_picture(path: Path, image: np.ndarray, detections: Detections, names: dict[int, str]) -> None:
    """Write a JPEG of the image (BGR) with its boxes and masks, drawn by Ultralytics."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.ascontiguousarray(_results(image, detections, names).plot())
    good, data = cv2.imencode(".jpg", drawn)
    assert good
    path.write_bytes(data.tobytes())  # not by OpenCV, which cannot write to every name


def write_labels(path: Path, image: np.ndarray, detections: Detections, names: dict[int, str]) -> None:
    """Write Ultralytics' text labels: class, box as shares of the image, score and track.

    Where there are masks, a line has the outline in the place of the box's centre and size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    _results(image, detections, names).save_txt(path, save_conf=True)


def _results(image: np.ndarray, detections: Detections, names: dict[int, str]) -> Results:
    columns = [detections.boxes, detections.scores[:, None], detections.classes[:, None]]
    if detections.tracks is not None and len(detections.boxes):
        columns.insert(1, detections.tracks[:, None])
    boxes = torch.from_numpy(np.concatenate(columns, 1).astype(np.float32))
    masks = None
    if detections.masks:
        masks = torch.from_numpy(
            np.stack([decode_mask(rle, detections.height, detections.width) for rle in detections.masks])
        )
    return Results(image, path="", names=names, boxes=boxes, masks=masks)


class Tracker:
    """Ultralytics' tracker of this name with its own settings, for the frames of one video in order."""

    def __init__(self, name: str) -> None:
        from ultralytics.trackers.track import TRACKER_MAP

        settings = IterableSimpleNamespace(**YAML.load(check_yaml(f"{name}.yaml")))
        settings.device = torch.device("cpu")
        make_tracker: Any = TRACKER_MAP[name]
        self.tracker = make_tracker(args=settings)
        self.tracker.reset()

    def __call__(self, table: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Do what `trackers.track.on_predict_postprocess_end` does with a frame.

        Args:
            table: float32 (n, 6): xyxy, score, class.
            frame: uint8 (H, W, 3), BGR.

        Returns:
            The indices of the rows that stay, and float32 (m, 7) in their place: xyxy, track,
            score, class; None means that the rows stay as they were.
        """
        boxes: Any = Results(frame, path="", names={}, boxes=torch.from_numpy(table)).boxes
        tracks = self.tracker.update(boxes.cpu().numpy(), frame, feats=None)
        if len(tracks) == 0:
            hidden = any(not track.is_activated for track in self.tracker.tracked_stracks)  # until it is confirmed
            return np.arange(0 if hidden else len(table)), None
        kept = np.asarray(tracks[:, :-1], np.float32)
        kept[:, :4] = ops.clip_boxes(kept[:, :4], frame.shape)  # as `Results.update` does
        inside = (kept[:, 2] > kept[:, 0]) & (kept[:, 3] > kept[:, 1])
        return tracks[inside, -1].astype(int), kept[inside]
