"""What was found in a source, and values to start from that suit the number, size and shape of its images."""

from __future__ import annotations

import dataclasses
from typing import Any

from flows.registry.models import Task

SHOWN_CLASSES = 8
SEEN = 400_000  # images that a classifier is shown in its training, about; at most `MOST_EPOCHS` times each
MOST_EPOCHS, FEWEST_EPOCHS = 80, 15
DETECTOR_SEEN = 60_000  # the same of a detector or a segmenter, whose images cost more
LARGEST_INPUT = 160  # pixels: of a classifier's input; larger takes more than minutes on two cores
LARGEST_DETECTOR_INPUT = 640
MULTILABEL = "\n    multilabel: true        # an image may have several labels, or none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """A source as the stage ingest reads it; ``manifest`` is what `tasks.look` prints."""

    source: str
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        if self.manifest.get("kind") == "objects" or "objects" in self.manifest:
            return "objects"
        return "pixels" if self.manifest["mode"] == "L" else "images"

    @property
    def classes(self) -> list[str]:
        return list(self.manifest["classes"])

    @property
    def counts(self) -> dict[str, int]:
        """The images by split; ``unlabelled`` is one of them."""
        return {split: count for split, count in self.manifest["counts"].items() if count}

    @property
    def side(self) -> int:
        """The median of the images' longer sides, in pixels."""
        return int(self.manifest["sides"]["0.5"])

    @property
    def multilabel(self) -> bool:
        """Whether its images have several labels."""
        return bool(self.manifest.get("multilabel"))

    @property
    def masks(self) -> int:
        return int(self.manifest.get("masks", 0))

    def lines(self) -> list[str]:
        """What was found, for a person."""
        more = f" … and {len(self.classes) - SHOWN_CLASSES} more" if len(self.classes) > SHOWN_CLASSES else ""
        lines = [
            f"{self.source}: {self.kind}, {sum(self.counts.values()):,} images of about {self.side} pixels",
            f"  {len(self.classes)} classes: {', '.join(self.classes[:SHOWN_CLASSES])}{more}",
            f"  splits: {', '.join(f'{count:,} {split}' for split, count in self.counts.items())}",
        ]
        if self.multilabel:
            without = sum(self.manifest["without_label"].values())
            lines.append(f"  several labels an image ({without:,} images have none), so multilabel is set to true")
        if "annotations" in self.manifest:
            annotations = self.manifest["annotations"]
            lines.append(
                f"  {annotations['read']:,} objects of {annotations['listed']:,} annotations "
                f"({self.manifest['format']}), {self.masks:,} with a mask"
            )
        refused = self.manifest["refused"]["reasons"]
        lines += [f"  refused, {reason}: {count:,}" for reason, count in refused.items()]
        lines += [f"  left out, {reason}: {count:,}" for reason, count in self.manifest["left_out"].items()]
        return lines + [f"  warning: {warning}" for warning in self.manifest["warnings"]]


def starting_values(survey: Survey, task: Task) -> dict[str, Any]:
    """Values of the templates for a model of this task."""
    images = max(1, survey.counts.get("train", 1))
    if task == "classification":
        size = _multiple(min(survey.side, LARGEST_INPUT), 32, least=64)
        return {
            "epochs": _epochs(SEEN, images),
            "batch": _batch(images, 64),
            "smoothing": "0.0" if survey.multilabel else "0.1",
            "multilabel": MULTILABEL if survey.multilabel else "",
            "size": size,
            "stored": size + size // 8,
            "depth": min(4, max(1, survey.side.bit_length() - 3)),  # 8 pixels: 1, 28: 2 to 3, 64: 4
        }
    size = _multiple(min(survey.side, LARGEST_DETECTOR_INPUT), 32, least=96)
    if task == "segmentation":  # a small SAM, whose windows and grid fit this input
        return {"epochs": _epochs(DETECTOR_SEEN // 4, images), "batch": _batch(images, 8), "size": 224}
    return {"epochs": _epochs(DETECTOR_SEEN, images), "batch": _batch(images, 16), "size": size}


def _epochs(seen: int, images: int) -> int:
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(seen / images)))


def _batch(images: int, most: int) -> int:
    """A power of two: at least eight steps an epoch, as far as there are images for them."""
    return min(most, max(2, 1 << ((images // 8).bit_length() - 1 if images >= 16 else 1)))


def _multiple(pixels: int, step: int, *, least: int) -> int:
    return max(least, step * round(pixels / step))
