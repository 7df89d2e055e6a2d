"""Stage ``evaluate_segmenter``: measure masks on the held-out split of a set.

The prompts are the true boxes and, beside them, the boxes of a detector.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cnn_core.annotations.checks import Refused, write_refused
from cnn_core.annotations.tables import Annotations, write_objects
from cnn_core.annotations.truth import refusals, refused_images, without_images
from cnn_core.devices import pick_device
from cnn_core.files import is_composed, is_none, weights_file, write_csv
from cnn_core.images.seen import claim, overlap
from cnn_core.locks import temporary_folder
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
from tasks.engine.runtime import load_runtime
from tasks.engine.state import input_sha256

# Automatic masks are not measured, but the segmenter needs the values.
NO_EVERYTHING = EverythingParams(
    points_stride=1, conf_thres=0.0, stability_score_thresh=0.0, stability_score_offset=0.95, iou=1.0, crop_n_layers=0,
    crop_overlap_ratio=0.0, crop_downscale_factor=1, crop_nms_thresh=1.0, min_mask_region_area=0,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSegmenterParams(Params):
    """The section ``evaluate_segmenter.<model>``."""

    weights: str  # a model folder or a checkpoint of SAM or SAM 2
    source: str  # a set with masks: a folder with a data.yaml, a data.yaml or a COCO JSON
    split: str
    prompts: str  # an output of detect on the same images, whose boxes are prompts too; or none
    imgsz: int = bounded(0, 4096)  # 0 = what the weights were trained with
    match_iou: float = bounded(0, 1)  # above which a detector's box matches an object
    tolerance: float = bounded(0, 0.1)  # of the boundary F-score, as a share of the image's diagonal
    small: float = bounded(0, 1)  # limits of the sizes, as shares of the image's side
    large: float = bounded(0, 1)
    resamples: int = bounded(0)  # of the images, for the intervals
    reference: int = bounded(0)  # images that Ultralytics' predictor segments too
    shown: int = bounded(0, 60)  # objects of the best, of the middling and of the worst masks
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.small > self.large:
            raise ValueError(f"small must be at most large, {self.large}, not {self.small}")


PARAMS = EvaluateSegmenterParams


def main(name: str) -> None:
    params = load_section(PARAMS, f"evaluate_segmenter.{name}")
    left_out = f"data/predictions/{name}-left-out.csv"  # images and annotations of the truth that cannot be used
    weights_file(params.weights)  # fails early when they are missing
    refused: list[Refused] = []
    annotations = read_masked_truth(params.source, params.split, refused=refused)
    annotations = leave_out(params, annotations, missing_files(annotations[0]), refused)
    prompts = make_prompts(params, *annotations[:2])
    keep_memory()
    with temporary_folder() as scratch:
        segmenter = make_segmenter(params, scratch)
        images, truth, masks = segment(params, segmenter, annotations, prompts, refused)
    for sentence in refusals(refused, images=len(images)):
        events.log(f"warning: {sentence}; all are in {left_out}")
    sides = [TRUTH] if is_none(params.prompts) else [TRUTH, DETECTOR]
    scores = {by: scored(params, images, truth, masks[masks["prompted_by"] == by]) for by in sides}
    answers = masks[masks["prompted_by"] == TRUTH].sort_values("object", kind="stable")
    predicted = answers["score"].to_numpy(float)
    metrics = measure(params, images, truth, scores, predicted)
    if params.reference:
        metrics["reference"] = reference(params, segmenter, images, truth, answers)
    plot = f"data/plots/evaluate_segmenter-{name}"
    Path(plot).parent.mkdir(parents=True, exist_ok=True)
    table = calibration(predicted, scores[TRUTH]["iou"].to_numpy())
    write_csv(f"{plot}-calibration.csv", table.round(5))
    draw_examples(f"{plot}-examples.png", images, truth, answers, scores[TRUTH]["iou"], params.shown)
    write(f"data/predictions/{name}-test.parquet", masks, truth, scores)
    write_refused(left_out, refused)
    kinds = Counter(entry.kind for entry in refused)
    metrics |= {"listed": len(images) + kinds["image"], "left_out": kinds["image"]}
    metrics["left_out_annotations"] = kinds["annotation"]
    metrics |= {"weights_sha256": segmenter.loaded.sha256, "network": segmenter.loaded.name}
    metrics |= {"generated": is_composed(params.source), "source_sha256": input_sha256(params.source)}
    seen = overlap(params.weights, images["file"], threads=load_runtime().threads())
    metrics |= {"seen": dataclasses.asdict(seen)} if seen else {}
    events.write_metrics(f"data/metrics/evaluate_segmenter-{name}.json", metrics)
    events.log(summary_line(metrics, claim(seen)))


def make_prompts(params: EvaluateSegmenterParams, images: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    prompts = [true_prompts(truth)]
    if not is_none(params.prompts):
        predictions = read_predictions(params.prompts, made_by=BOXES)
        same = same_images(predictions.seen, images, named=(params.prompts, params.source))
        if missing := len(images) - len(set(same.values())):
            raise ValueError(
                f"{params.prompts} is about {len(same):,} of the {len(images):,} images of {params.source}, split "
                f"{params.split}; {missing:,} would count as missed: run detect on all of them, or set prompts to none"
            )
        prompts.append(detected_prompts(truth, in_other_ids(predictions.objects, same), params.match_iou))
    return pd.concat(prompts, ignore_index=True)


def make_segmenter(params: EvaluateSegmenterParams, scratch: Path) -> Segmenter:
    """Build the segmenter in plain torch and float32, as the weights are measured, no engine."""
    runtime = load_runtime()
    torch.set_num_threads(runtime.threads())
    settings = SegmenterParams(
        imgsz=params.imgsz, conf=0.0, multimask_output=False, half=False, everything=NO_EVERYTHING
    )
    return Segmenter(
        params.weights,
        settings,
        device=pick_device(runtime.use_gpu),
        settings=scratch,
        batch=64,  # objects of an image at a time
    )


def missing_files(images: pd.DataFrame) -> dict[str, str]:
    """Why images cannot be read of which there is no file; the detector has not seen them either."""
    return {file: "the file is not there" for file in images["file"] if not Path(file).is_file()}


def leave_out(
    params: EvaluateSegmenterParams, annotations: Annotations, faults: dict[str, str], refused: list[Refused]
) -> Annotations:
    """Take images out of the tables, and add them to ``refused``."""
    refused += refused_images(faults, params.source)
    images, objects, classes = without_images(annotations, faults, source=params.source, split=params.split)
    if objects.empty:
        raise ValueError(
            f"no image with an object in the split {params.split} of {params.source} can be read: there is nothing to "
            f"measure on; the first: {refused[-1]}"
        )
    return images, objects, classes


def segment(
    params: EvaluateSegmenterParams,
    segmenter: Segmenter,
    annotations: Annotations,
    prompts: pd.DataFrame,
    refused: list[Refused],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the images that can be segmented, their objects, and the prompts with their masks.

    Args:
        refused: takes the other images.
    """
    images, truth, _ = annotations
    parts = []
    faults: dict[str, str] = {}
    with events.progress("segment", len(images), "images") as bar:
        for rows in segment_prompts(segmenter, images, prompts, faults):
            parts.append(rows)
            bar.update()
    images, objects, _ = leave_out(params, annotations, faults, refused)
    masks = pd.concat([part for part in parts if len(part)], ignore_index=True)
    positions = np.cumsum(truth["image_id"].isin(images["image_id"]).to_numpy()) - 1  # of the objects that stay
    return images, objects, masks.assign(object=positions[masks["object"].to_numpy(np.int64)])


def scored(
    params: EvaluateSegmenterParams, images: pd.DataFrame, truth: pd.DataFrame, rows: pd.DataFrame
) -> pd.DataFrame:
    """Compare the masks in ``rows`` with the truth; ``prompted`` says whether an object had a prompt."""
    masks = {index: rle for index, rle in zip(rows["object"], rows["rle"], strict=True) if rle}
    prompted = np.isin(np.arange(len(truth)), rows["object"].to_numpy(int))
    return compare_masks(truth, masks, images, params.tolerance).assign(prompted=prompted)


def measure(
    params: EvaluateSegmenterParams,
    images: pd.DataFrame,
    truth: pd.DataFrame,
    scores: dict[str, pd.DataFrame],
    predicted: np.ndarray,
) -> dict[str, Any]:
    """Return the metrics with true boxes as prompts, and with the detector's: of those that it found, and of all.

    Args:
        predicted: the predicted IoU with true boxes, float (objects,); NaN without a mask.
    """
    with_true_boxes, by_size = scores[TRUTH], size_groups(truth, images, params.small, params.large)
    summary = functools.partial(summarise_scores, resamples=params.resamples, seed=params.seed)
    metrics = {
        "images": len(images),
        "objects": len(truth),
        **summary(with_true_boxes, truth["image_id"]),
        "by_size": means_by_group(with_true_boxes, by_size),
        "by_class": means_by_group(with_true_boxes, truth["class_name"]),
        "without_a_mask": int(np.isnan(predicted).sum()),
        "predicted_iou": score_reliability(predicted, with_true_boxes["iou"].to_numpy()),
    }
    if DETECTOR in scores:
        with_detected_boxes = scores[DETECTOR]
        hit = with_detected_boxes["prompted"].to_numpy()
        metrics["mean_iou_by_detector"] = float(with_detected_boxes["iou"].mean())
        metrics["detector"] = {
            "found": float(hit.mean()),
            "all_objects": summary(with_detected_boxes, truth["image_id"]),
            "found_objects": summary(with_detected_boxes[hit], truth["image_id"][hit]),
            "all_by_size": means_by_group(with_detected_boxes, by_size),
        }
    return metrics


def reference(
    params: EvaluateSegmenterParams,
    segmenter: Segmenter,
    images: pd.DataFrame,
    truth: pd.DataFrame,
    answers: pd.DataFrame,
) -> dict[str, Any]:
    """Segment some images with Ultralytics' predictor too, by the same weights and true boxes, and compare."""
    chosen = evenly_spaced(images[images["image_id"].isin(truth["image_id"])], params.reference)
    prompts = true_prompts(truth)
    reference_masks: dict[int, str | None] = {}
    with events.progress("reference", len(chosen), "images") as bar:
        loaded = load_sam(params.weights)
        for masks in ultralytics_masks(loaded, segmenter.steps.side, chosen.itertuples(), prompts):
            reference_masks |= masks
            bar.update()
    by_object = answers.set_index("object")["rle"]
    project_masks = {index: by_object[index] or None for index in reference_masks}
    by_ultralytics, by_project = (
        compare_masks(truth, {index: rle for index, rle in masks.items() if rle}, images, params.tolerance)
        for masks in (reference_masks, project_masks)
    )
    objects = list(reference_masks)
    equal = sum(project_masks[index] == mask for index, mask in reference_masks.items())
    return {
        "images": len(chosen),
        "objects": len(objects),
        "ultralytics_mean_iou": float(by_ultralytics.iloc[objects]["iou"].mean()),
        "mean_iou": float(by_project.iloc[objects]["iou"].mean()),
        "equal_masks": equal / max(1, len(objects)),
    }


def write(path: str, masks: pd.DataFrame, truth: pd.DataFrame, scores: dict[str, pd.DataFrame]) -> None:
    rows = masks[masks["rle"].notna()].reset_index(drop=True)
    true_objects = truth.iloc[rows["object"]].reset_index(drop=True)
    table = rows.assign(class_id=true_objects["class_id"], class_name=true_objects["class_name"])
    for name in SCORES:
        values = [scores[by][name].iloc[index] for by, index in zip(rows["prompted_by"], rows["object"], strict=True)]
        table[name] = np.array(values, float)
    Path("data/predictions").mkdir(parents=True, exist_ok=True)
    write_objects(path, table)


def summary_line(metrics: dict[str, Any], seen: str) -> str:
    line = f"mean IoU {metrics['mean_iou']:.3f} with true boxes on {metrics['objects']:,} objects in "
    line += f"{metrics['images']:,} images {seen}"
    if (detector := metrics.get("detector")) is None:
        return line
    iou = detector["found_objects"].get("mean_iou", 0.0)
    line += f"; {metrics['mean_iou_by_detector']:.3f} with the detector's boxes"
    return f"{line} ({iou:.3f} of the {detector['found']:.1%} that it found)"


if __name__ == "__main__":
    events.run_stage(main)
