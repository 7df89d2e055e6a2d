"""Measure a segmenter on the held-out split of a set: its masks for true boxes, and for a detector's."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cnn_core.annotations.tables import write_objects
from cnn_core.devices import pick_device
from cnn_core.files import is_none, weights_file
from cnn_core.params import Params, bounded, load_section
from cnn_core.segmentation.evaluation.metrics import (
    SCORES,
    calibration,
    compare_masks,
    means_by_group,
    score_reliability,
    size_groups,
    summarise_scores,
)
from cnn_core.segmentation.evaluation.pictures import draw_examples
from cnn_core.segmentation.evaluation.prompted_masks import (
    DETECTOR,
    TRUTH,
    detected_prompts,
    evenly_spaced,
    read_masked_truth,
    segment_prompts,
    true_prompts,
    ultralytics_masks,
)
from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.params import EverythingParams, SegmenterParams
from cnn_core.segmentation.sam.network import load_sam
from tasks.common.predictions import BOXES, in_other_ids, read_predictions, same_images
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.runtime import available_cores, load_runtime, state_folder

# Automatic masks are not measured; the segmenter wants the values all the same.
NO_EVERYTHING = EverythingParams(
    points_stride=1, conf_thres=0.0, stability_score_thresh=0.0, stability_score_offset=0.95, iou=1.0, crop_n_layers=0,
    crop_overlap_ratio=0.0, crop_downscale_factor=1, crop_nms_thresh=1.0, min_mask_region_area=0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSegmenterParams(Params):
    """The section ``evaluate_segmenter``."""

    weights: str  # a model folder or a checkpoint of SAM or SAM 2
    source: str  # a set with masks: a folder with a data.yaml, a data.yaml or a COCO JSON
    split: str
    prompts: str  # an output of detect on the same images, whose boxes are prompts too; none = not
    imgsz: int = bounded(0, 4096)  # 0 = what the weights were trained with
    match_iou: float = bounded(0, 1)  # above which a detector's box is of an object
    tolerance: float = bounded(0, 0.1)  # of the boundary F-score, as share of the image's diagonal
    small: float = bounded(0, 1)  # sizes, as shares of the image's side
    large: float = bounded(0, 1)
    resamples: int = bounded(0)  # of the images, for the intervals
    reference: int = bounded(0)  # images that Ultralytics' own predictor segments too; 0 = none
    shown: int = bounded(0, 60)  # objects each of the best, the middling and the worst
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.small > self.large:
            raise ValueError(f"small must be at most large, {self.large}, not {self.small}")


PARAMS = EvaluateSegmenterParams


def main() -> None:
    params = load_section(PARAMS, "evaluate_segmenter")
    weights_file(params.weights)  # says what is missing before anything is read
    images, truth, _ = read_masked_truth(params.source, params.split)
    prompts = make_prompts(params, images, truth)
    keep_memory()
    segmenter = make_segmenter(params)
    found = segment(segmenter, images, prompts)
    sides = [TRUTH] if is_none(params.prompts) else [TRUTH, DETECTOR]
    scores = {by: scored(params, images, truth, found[found["prompted_by"] == by]) for by in sides}
    own = found[found["prompted_by"] == TRUTH].sort_values("object", kind="stable")
    predicted = own["score"].to_numpy(float)
    metrics = measure(params, images, truth, scores, predicted)
    if params.reference:
        metrics["reference"] = reference(params, segmenter, images, truth, own)
    plots = Path("data/plots")
    plots.mkdir(parents=True, exist_ok=True)
    table = calibration(predicted, scores[TRUTH]["iou"].to_numpy())
    table.round(5).to_csv(plots / "evaluate_segmenter-calibration.csv", index=False, lineterminator="\n")
    draw_examples(plots / "evaluate_segmenter-examples.png", images, truth, own, scores[TRUTH]["iou"], params.shown)
    write(found, truth, scores)
    metrics |= {"weights_sha256": segmenter.loaded.sha256, "network": segmenter.loaded.name}
    events.write_metrics("data/metrics/evaluate_segmenter.json", metrics)
    events.log(told(metrics))


def make_prompts(params: EvaluateSegmenterParams, images: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The true boxes, and the detector's boxes of the objects that it found."""
    prompts = [true_prompts(truth)]
    if not is_none(params.prompts):
        found = read_predictions(params.prompts, made_by=BOXES)
        same = same_images(found.seen, images, named=(params.prompts, params.source))
        if missing := len(images) - len(set(same.values())):
            raise ValueError(
                f"{params.prompts} is about {len(same):,} of the {len(images):,} images of {params.source}, split "
                f"{params.split}; {missing:,} would count as missed: run detect on all of them, or set prompts to none"
            )
        prompts.append(detected_prompts(truth, in_other_ids(found.objects, same), params.match_iou))
    return pd.concat(prompts, ignore_index=True)


def make_segmenter(params: EvaluateSegmenterParams) -> Segmenter:
    """In plain torch and float32, whatever there is: the figure is the weights'."""
    runtime = load_runtime()
    torch.set_num_threads(runtime.cpus_per_worker or available_cores())
    settings = SegmenterParams(
        imgsz=params.imgsz, conf=0.0, multimask_output=False, half=False, everything=NO_EVERYTHING
    )
    return Segmenter(
        params.weights,
        settings,
        device=pick_device(runtime.use_gpu),
        settings=Path(state_folder(runtime)) / "evaluate_segmenter/settings",
        batch=64,  # objects of an image at a time; there are few
    )


def segment(segmenter: Segmenter, images: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Every prompt with its mask."""
    parts = []
    with events.progress("segment", len(images), "images") as bar:
        for rows in segment_prompts(segmenter, images, prompts):
            parts.append(rows)
            bar.update()
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def scored(
    params: EvaluateSegmenterParams, images: pd.DataFrame, truth: pd.DataFrame, rows: pd.DataFrame
) -> pd.DataFrame:
    """`compare_masks` of the masks in ``rows``, and whether there was a prompt (``found``)."""
    masks = {place: rle for place, rle in zip(rows["object"], rows["rle"], strict=True) if rle}
    prompted = np.isin(np.arange(len(truth)), rows["object"].to_numpy(int))
    return compare_masks(truth, masks, images, params.tolerance).assign(found=prompted)


def measure(
    params: EvaluateSegmenterParams,
    images: pd.DataFrame,
    truth: pd.DataFrame,
    scores: dict[str, pd.DataFrame],
    predicted: np.ndarray,
) -> dict[str, Any]:
    """With true boxes as prompts; with the detector's the figures among the objects that it found, and among all, where
    one that it missed counts 0.

    Args:
        predicted: float (objects,), the predicted IoU with true boxes; NaN without a mask.
    """
    own, by_size = scores[TRUTH], size_groups(truth, images, params.small, params.large)
    summary = functools.partial(summarise_scores, resamples=params.resamples, seed=params.seed)
    metrics = {
        "images": len(images),
        "objects": len(truth),
        **summary(own, truth["image_id"]),
        "by_size": means_by_group(own, by_size),
        "by_class": means_by_group(own, truth["class_name"]),
        "without_a_mask": int(np.isnan(predicted).sum()),
        "predicted_iou": score_reliability(predicted, own["iou"].to_numpy()),
    }
    if DETECTOR in scores:
        all_ = scores[DETECTOR]
        hit = all_["found"].to_numpy()
        metrics["mean_iou_by_detector"] = float(all_["iou"].mean())
        metrics["detector"] = {
            "found": float(hit.mean()),
            "all_objects": summary(all_, truth["image_id"]),
            "found_objects": summary(all_[hit], truth["image_id"][hit]),
            "all_by_size": means_by_group(all_, by_size),
        }
    return metrics


def reference(
    params: EvaluateSegmenterParams,
    segmenter: Segmenter,
    images: pd.DataFrame,
    truth: pd.DataFrame,
    own: pd.DataFrame,
) -> dict[str, Any]:
    """Ultralytics' own predictor on some of the images, with the same weights and the true boxes: its mean IoU, ours on
    the same objects, and the share of masks that are equal to the pixel."""
    some = evenly_spaced(images[images["image_id"].isin(truth["image_id"])], params.reference)
    prompts = true_prompts(truth)
    ours = own.set_index("object")["rle"]
    places: list[int] = []
    theirs: dict[int, str] = {}
    equal = 0
    with events.progress("reference", len(some), "images") as bar:
        rows = some.itertuples()
        loaded = load_sam(params.weights)
        for positions, masks in ultralytics_masks(loaded, segmenter.steps.side, rows, prompts):
            for place, mask in zip(map(int, positions), masks, strict=True):
                places.append(place)
                equal += int(mask == (ours[place] or None))
                if mask:
                    theirs[place] = mask
            bar.update()
    same = {place: ours[place] for place in places if ours[place]}
    both = [
        compare_masks(truth, masks, images, params.tolerance).iloc[places]["iou"].mean() for masks in (theirs, same)
    ]
    return {
        "images": len(some),
        "objects": len(places),
        "ultralytics_mean_iou": float(both[0]),
        "mean_iou": float(both[1]),
        "equal_masks": equal / max(1, len(places)),
    }


def write(found: pd.DataFrame, truth: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> None:
    """One row a mask: `annotations.OBJECTS` with the true object's class, then the prompt, where it comes from, and how
    good the mask is."""
    rows = found[found["rle"].notna()].reset_index(drop=True)
    of = truth.iloc[rows["object"]].reset_index(drop=True)
    table = rows.assign(class_id=of["class_id"], class_name=of["class_name"])
    for name in SCORES:
        values = [scores[by][name].iloc[place] for by, place in zip(rows["prompted_by"], rows["object"], strict=True)]
        table[name] = np.array(values, float)
    Path("data/predictions").mkdir(parents=True, exist_ok=True)
    write_objects("data/predictions/segmenter-test.parquet", table)


def told(metrics: dict[str, Any]) -> str:
    said = f"mean IoU {metrics['mean_iou']:.3f} with true boxes on {metrics['objects']:,} unseen objects"
    if "detector" in metrics:
        there = metrics["detector"]["found_objects"].get("mean_iou", 0.0)
        said += (
            f"; {metrics['mean_iou_by_detector']:.3f} with the detector's boxes ({there:.3f} of the "
            f"{metrics['detector']['found']:.1%} that it found)"
        )
    return said


if __name__ == "__main__":
    events.run_stage(main)
