"""Stage ``read``: cut digits out along their masks, classify them, order them as numbers.

data/predictions/<model>-read/digits.parquet   one row a digit: `annotations.OBJECTS` (class and score as read),
                                               position, file, and the classifier's and the detector's answers
                              plates.csv       image_id, file, text, confidence: one row an image
                              manifest.json    written last

With a truth, three ways are compared: masks cut out and classified, boxes cut out and classified,
and the detector's own classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from cnn_core.annotations.masks import decode_mask
from cnn_core.annotations.tables import BOX, write_objects
from cnn_core.annotations.truth import read_truth
from cnn_core.classification.inference.classifier import Classifier
from cnn_core.classification.inference.views import MOST_VIEWS
from cnn_core.devices import pick_device
from cnn_core.files import is_composed, is_none, whole_folder, write_csv, write_json
from cnn_core.images.decoding import BadImage
from cnn_core.images.media import Media, list_media
from cnn_core.images.reader import Reader, imread_colour, pixels
from cnn_core.params import Params, bounded, load_section
from cnn_core.reading.glyphs import SIDE, InkSource, cut_out
from cnn_core.reading.numbers import (
    Combine,
    accuracy,
    correct_digits,
    digit_positions,
    label_digits,
    match_to_truth,
    read_numbers,
    remove_islands,
    unique_digits,
)
from cnn_core.reading.pictures import draw_example, write_examples
from tasks.common.predictions import (
    BOXES,
    MASKS,
    Predictions,
    check_same_frames,
    in_other_ids,
    read_predictions,
    same_images,
)
from tasks.engine import events
from tasks.engine.environment import keep_memory
from tasks.engine.runtime import load_runtime
from tasks.engine.state import input_sha256

PART = 128  # images whose digits are classified together
FIRST = 6  # images that are shown whatever was read in them


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadParams(Params):
    """The section ``read.<model>``."""

    source: str  # an output of segment
    images: str  # the images that segment read
    boxes: str  # an output of detect on the same images, to read without masks too; or none
    truth: str  # as evaluate_detector.source; or none
    split: str  # of the truth
    weights: str  # a model folder of a digit classifier
    tta: int = bounded(1, MOST_VIEWS)
    ink: InkSource
    combine: Combine
    islands: float = bounded(0, 1)  # least size of a mask's parts, as a share of its largest; 0 = all stay
    conf: float = bounded(0, 1)  # least score of a digit's detection; of a mask without one, its predicted IoU
    duplicate_iou: float = bounded(0, 1)
    match_iou: float = bounded(0, 1)
    worst: int = bounded(0, 200)  # number of images with mistakes that are shown


PARAMS = ReadParams


Tables = dict[str, pd.DataFrame]
Truth = tuple[pd.DataFrame, pd.DataFrame]  # images with their text, and objects, in the source's ids


def main(name: str) -> None:
    params, runtime = load_section(PARAMS, f"read.{name}"), load_runtime()
    target = f"data/predictions/{name}-read"
    keep_memory()
    classifier = Classifier(params.weights, tta=params.tta, device=pick_device(runtime.use_gpu))
    source = read_predictions(params.source, made_by=MASKS)
    media = list_media(params.images, **source.listed)
    if media.videos and not is_none(params.boxes):
        check_same_frames(params.boxes, media.vid_stride, made_by=BOXES)
    truth = None if is_none(params.truth) else open_truth(params, source)
    tables = digit_tables(params, source, truth)
    glyphs = cut_outs(params, media, source, tables)
    probabilities = {way: classifier(glyphs[way][:, None]) for way in tables}
    classes = classifier.card.classes
    digits = label_digits(tables["masks"], probabilities["masks"], params.combine, classes)
    digits = digits.assign(position=digit_positions(digits))
    texts = read_numbers(digits, source.images)
    metrics = summary(source, digits, texts) | account(params, media, source)
    if truth is not None:
        metrics |= measure(params, tables, probabilities, classes, truth) | {"generated": is_composed(params.truth)}
        metrics["truth_sha256"] = input_sha256(params.truth)
    write(target, params, source, digits, texts, classifier)
    drawn = f"data/plots/read-{name}-examples.png"
    show(drawn, params, media, digits, texts, glyphs["masks"], truth)
    events.write_metrics(f"data/metrics/read-{name}.json", metrics)
    events.log(f"{target}: {summary_line(metrics)}")


def open_truth(params: ReadParams, source: Predictions) -> Truth:
    images, objects, _ = read_truth(params.truth, params.split)
    same = same_images(source.seen, images, named=(params.source, params.truth))
    source_ids = {true_id: source_id for source_id, true_id in same.items()}
    images, objects = in_other_ids(images, source_ids), in_other_ids(objects, source_ids)
    if objects.empty:
        raise ValueError(f"{params.truth} has no object in the images of {params.source}: there is nothing to compare")
    if "text" not in images:
        digits = objects.assign(read=objects["class_name"], confidence=1.0)
        images = images.assign(text=read_numbers(digits, images)["text"])
    return images, objects


def digit_tables(params: ReadParams, source: Predictions, truth: Truth | None) -> Tables:
    """Return the digits to be read: by their masks, by the detector's boxes, and by the true masks (to see how many
    mistakes are the classifier's alone)."""
    limits = {"conf": params.conf, "duplicate_iou": params.duplicate_iou}
    solid = remove_islands(source.objects, source.images, params.islands)
    tables = {"masks": unique_digits(solid, source.images, **limits)}
    if not is_none(params.boxes):
        boxes = read_predictions(params.boxes, made_by=BOXES)
        same = same_images(boxes.images, source.seen, named=(params.boxes, params.source))
        images, objects = in_other_ids(boxes.images, same), in_other_ids(boxes.objects, same)
        tables["boxes"] = unique_digits(objects.assign(rle=None), images, **limits)
    if truth is not None and truth[1]["rle"].notna().all():
        seen = truth[1][truth[1]["image_id"].isin(source.images["image_id"])]
        tables["true_masks"] = unique_digits(seen.assign(score=1.0), truth[0], conf=0.0, duplicate_iou=1.0)
    return tables


def cut_outs(params: ReadParams, media: Media, source: Predictions, tables: Tables) -> dict[str, np.ndarray]:
    """Cut out the digits of each table as the classifier takes them, uint8 (N, 28, 28)."""
    glyphs = {name: np.zeros((len(table), SIDE, SIDE), np.uint8) for name, table in tables.items()}
    rows_by_image = {name: table.groupby("image_id", sort=False).indices for name, table in tables.items()}
    missing: set[str] = set().union(*rows_by_image.values())
    sizes = {row.image_id: (row.height, row.width) for row in source.images.itertuples()}
    with events.progress("read", len(missing), "images") as bar:
        for image_id, image in pictures(media, missing):
            if image.shape[:2] != sizes.get(image_id, image.shape[:2]):
                raise ValueError(
                    f"{image_id} of {params.images} is not of the size that it had when it was segmented: run "
                    "the stage segment again"
                )
            for name, rows in rows_by_image.items():
                for index in rows.get(image_id, ()):
                    row = tables[name].iloc[index]
                    mask = decode_mask(row["rle"], *image.shape[:2]) if row["rle"] else None
                    glyphs[name][index] = cut_out(image, row[BOX].to_numpy(float), mask, params.ink)
            missing.discard(image_id)
            bar.update()
    if missing:
        raise ValueError(
            f"{len(missing):,} images of {params.source} are not in {params.images} (the first is {min(missing)}): "
            "name the images that were segmented"
        )
    return glyphs


def pictures(media: Media, image_ids: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield image_id and pixels, RGB, of those of the images that can be read."""
    reader = Reader(vid_stride=media.vid_stride)
    for part in media.parts(PART):
        for entry in reader(part):
            if entry.image_id not in image_ids:
                continue
            with contextlib.suppress(BadImage):
                yield entry.image_id, pixels(entry, imread_colour)[..., ::-1]


def summary(source: Predictions, digits: pd.DataFrame, texts: pd.DataFrame) -> dict[str, Any]:
    confidence = digits["confidence"]
    return {
        "images": len(source.images),
        "digits": len(digits),
        "dropped": len(source.objects) - len(digits),
        "images_without_a_digit": int((texts["text"] == "").sum()),
        "mean_confidence": float(confidence.mean()) if len(confidence) else 0.0,
        "unsure": int((confidence < 0.5).sum()),
    }


def account(params: ReadParams, media: Media, source: Predictions) -> dict[str, int]:
    """Count in full what ``images`` names: read, refused by segment, left out, and what segment has not seen."""
    if media.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(media.left_out.items()))
        events.log(f"left out of {params.images}: {kinds}")
    bad, left_out = len(source.bad), sum(media.left_out.values())
    unsegmented = max(0, media.count - len(source.images) - bad)
    if bad:
        events.log(f"warning: {bad:,} images of {params.images} could not be read: see {params.source}/bad.csv")
    if unsegmented > 2 * len(media.videos):  # of a video, a header often promises a frame or two too many
        events.log(f"warning: {unsegmented:,} images of {params.images} are not in {params.source}: run segment again")
    return {"listed": media.count + left_out, "bad": bad, "left_out": left_out, "unsegmented": unsegmented}


def measure(
    params: ReadParams,
    tables: Tables,
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    truth: Truth,
) -> dict[str, Any]:
    images, objects = truth
    by_way: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        has_classes = table["detected"].isin(classes).any() and name != "true_masks"
        for how in get_args(Combine) if has_classes else ("cnn",):
            digits = label_digits(table, probabilities[name], how, classes)
            matches = match_to_truth(objects, digits, params.match_iou)
            texts = read_numbers(digits, images).assign(truth=images["text"].to_numpy())
            by_way.setdefault(name, {})[how] = accuracy(objects, digits, matches, texts)
    chosen = by_way["masks"].get(params.combine, by_way["masks"]["cnn"])
    return {"true_images": len(images), "true_digits": len(objects), **chosen, "ways": by_way}


def write(
    target: str,
    params: ReadParams,
    source: Predictions,
    digits: pd.DataFrame,
    texts: pd.DataFrame,
    classifier: Classifier,
) -> None:
    classes = classifier.card.classes
    with whole_folder(target) as folder:
        numbers = {name: number for number, name in enumerate(classes)}
        table = digits.assign(
            class_id=digits["read"].map(numbers).astype("int64"), class_name=digits["read"], score=digits["confidence"]
        )
        write_objects(folder / "digits.parquet", table.drop(columns=["read", "confidence"]))
        write_csv(folder / "plates.csv", texts.assign(confidence=texts["confidence"].round(6)))
        write_json(
            folder / "manifest.json",
            {
                "schema_version": 1,
                "classes": classes,
                "source": params.source,
                "segmenter_sha256": source.sha256,
                "classifier": {"data_sha256": classifier.card.data_sha256, "git_commit": classifier.card.git_commit},
                "combine": params.combine,
                "counts": {"images": len(texts), "digits": len(digits)},
            },
        )


def show(
    path: str,
    params: ReadParams,
    media: Media,
    digits: pd.DataFrame,
    texts: pd.DataFrame,
    glyphs: np.ndarray,
    truth: Truth | None,
) -> None:
    """Draw the first images, and those with mistakes; without a truth, the least sure ones."""
    read = dict(zip(texts["image_id"], texts["text"], strict=True))
    true_texts = dict(zip(truth[0]["image_id"], truth[0]["text"], strict=True)) if truth else {}
    right = correct_digits(truth[1], digits, params.match_iou) if truth else [None] * len(digits)
    if truth:
        bad = [name for name, text in true_texts.items() if read.get(name, "") != text]
    else:
        bad = texts.sort_values("confidence", kind="stable")["image_id"].tolist()
    chosen = list(texts["image_id"][:FIRST])
    chosen += [name for name in bad if name not in chosen][: params.worst]
    rows_by_image = digits.groupby("image_id", sort=False).indices
    drawn = {}
    for name, image in pictures(media, set(chosen)):
        rows = rows_by_image.get(name, np.empty(0, int))
        rows = rows[np.argsort(digits["position"].to_numpy()[rows])]
        masks = [decode_mask(rle, *image.shape[:2]) for rle in digits["rle"].iloc[rows]]
        boxes, are_right = digits[BOX].to_numpy()[rows], [right[row] for row in rows]
        drawn[name] = draw_example(image, masks, boxes, glyphs[rows], are_right)
    captions = {
        name: f"read {read.get(name) or 'nothing'}"
        + (f"\nis {true_texts[name] or 'nothing'}" if name in true_texts else "")
        for name in chosen
    }
    write_examples(path, {name: drawn[name] for name in chosen if name in drawn}, captions)


def summary_line(metrics: Mapping[str, Any]) -> str:
    line = f"{metrics['digits']:,} digits read in {metrics['images']:,} of {metrics['listed']:,} images"
    if "ways" not in metrics:
        return line
    line += f"; {metrics['found_and_read']:.1%} of the {metrics['true_digits']:,} true ones found and read right"
    return f"{line}, {metrics['plates_right']:.1%} of the numbers"


if __name__ == "__main__":
    events.run_stage(main)
