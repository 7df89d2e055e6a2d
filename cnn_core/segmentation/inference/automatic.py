"""Automatic masks: everything in an image, from a grid of points, as the SAM paper does it (appendix B)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from cnn_core.annotations.masks import decode_mask, encode_mask
from cnn_core.segmentation.params import EverythingParams
from cnn_core.segmentation.sam.network import PIECE, Features, SamSteps


class AutomaticMasks:
    """Segments everything in an image, prompted by a grid of points (SAM paper, section 4 and appendix B).

    The steps are those of Ultralytics' `Predictor.generate`, made of its own parts, but the encoded image is shared,
    and memory is bounded: candidates are run lengths, not arrays, and few masks are scaled at a time.
    """

    def __init__(self, steps: SamSteps, params: EverythingParams, *, conf: float, batch: int) -> None:
        from ultralytics.models.sam import amg

        self.steps, self.params, self.conf, self.batch, self.amg = steps, params, conf, batch, amg

    def __call__(
        self, pixels: Tensor, features: Features, shape: tuple[int, int]
    ) -> Iterator[tuple[int, float, float, Tensor]]:
        """Yield the number of each mask's point, predicted IoU, stability, and the mask, the best first.

        Args:
            pixels, features: as of `SamSteps`.
            shape: (height, width) of the original image, and of the masks.
        """
        params, side = self.params, self.steps.side
        regions, layers = self.amg.generate_crop_boxes((side, side), params.crop_n_layers, params.crop_overlap_ratio)
        grids = self.amg.build_all_layer_point_grids(
            params.points_stride, params.crop_n_layers, params.crop_downscale_factor
        )
        parts, first = [], 0
        for region, layer in zip(regions, layers, strict=True):
            parts.append(self._region(region, grids[layer], first, pixels, features, shape))
            first += len(grids[layer])
        best = _Candidates.joined(parts)
        if len(regions) > 1:  # of a mask seen in several crops, keep that of the smallest one
            areas = torch.tensor([float((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in best.regions])
            best = best.only(nms(best.boxes, 1 / areas, params.crop_nms_thresh))
        best = best.only(torch.nonzero(best.scores > self.conf)[:, 0])
        if params.min_mask_region_area:
            best = self._cleaned(best, shape)
        for index, number in enumerate(best.prompts):
            (mask,) = self.steps.in_original(self._input_mask(best, index)[None], shape)
            yield number, float(best.scores[index]), float(best.stability[index]), mask > self.steps.threshold

    @torch.inference_mode()
    def _region(
        self,
        region: list[int],
        grid: np.ndarray,
        first: int,
        pixels: Tensor,
        features: Features,
        shape: tuple[int, int],
    ) -> _Candidates:
        """Find the candidates in one crop, xyxy in pixels of the input, and suppress those of the same object.

        Args:
            grid: (P, 2), its points as shares of its sides; ``first`` is the number of the first one.
        """
        side, (x1, y1, x2, y2) = self.steps.side, region
        size = np.array([x2 - x1, y2 - y1])
        gain = side / max(shape)
        fill = np.minimum(np.array(shape[::-1]) * gain - [x1, y1], size) / size  # the image's share, not the padding's
        if (fill <= 0).any():
            return _Candidates.joined([])
        if (x1, y1, x2, y2) != (0, 0, side, side):
            crop = pixels[..., y1:y2, x1:x2]
            crop = torch.nn.functional.interpolate(crop, (side, side), mode="bilinear", align_corners=False)
            features = self.steps.features(crop)
        points = grid * fill * side
        parts: list[_Candidates] = []
        for start in range(0, len(points), self.batch):
            batch = points[start : start + self.batch, None]
            logits, scores = self.steps.decode(
                features, (side, side), boxes=None, points=batch, labels=None, multimask=True
            )
            numbers = torch.arange(first + start, first + start + len(batch)).repeat_interleave(3)
            good = (scores.flatten() > self.params.conf_thres).cpu()
            parts += self._stable(logits.flatten(0, 1)[good], scores.flatten().cpu()[good], numbers[good], region)
        candidates = _Candidates.joined(parts)
        candidates = candidates.only(nms(candidates.boxes, candidates.scores, self.params.iou))
        return dataclasses.replace(candidates, boxes=self.amg.uncrop_boxes_xyxy(candidates.boxes, region))

    def _stable(self, logits: Tensor, scores: Tensor, numbers: Tensor, region: list[int]) -> Iterator[_Candidates]:
        params, side, (x1, y1, x2, y2) = self.params, self.steps.side, region
        size = max(1, PIECE // ((x2 - x1) * (y2 - y1)))
        for piece, score, number in zip(logits.split(size), scores.split(size), numbers.split(size), strict=True):
            if not len(piece):
                continue
            scaled = torch.nn.functional.interpolate(
                piece[None], (y2 - y1, x2 - x1), mode="bilinear", align_corners=False
            )[0]
            stability = self.amg.calculate_stability_score(
                scaled, self.steps.threshold, params.stability_score_offset
            ).cpu()
            masks = (scaled > self.steps.threshold).cpu()
            boxes = self.amg.batched_mask_to_box(masks).float()
            near_edge = self.amg.is_box_near_crop_edge(boxes, region, [0, 0, side, side])
            keep = torch.nonzero((stability > params.stability_score_thresh) & ~near_edge)[:, 0]
            yield _Candidates(
                boxes=boxes[keep],
                scores=score[keep],
                stability=stability[keep],
                prompts=number[keep].tolist(),
                masks=[encode_mask(masks[index].numpy()) for index in keep.tolist()],
                regions=[region] * len(keep),
            )

    def _input_mask(self, candidates: _Candidates, index: int) -> Tensor:
        """A candidate's mask in the network's input, bool (side, side)."""
        x1, y1, x2, y2 = region = candidates.regions[index]
        mask = torch.from_numpy(decode_mask(candidates.masks[index], y2 - y1, x2 - x1))
        return self.amg.uncrop_masks(mask[None], region, self.steps.side, self.steps.side)[0]

    def _cleaned(self, candidates: _Candidates, shape: tuple[int, int]) -> _Candidates:
        """Remove small holes and islands, and then the masks that have become the same by that."""
        side = self.steps.side
        min_area = self.params.min_mask_region_area * (side / max(shape)) ** 2  # in pixels of the input
        boxes, masks, unchanged = [torch.zeros(0, 4)], [], []
        for index in range(len(candidates.masks)):
            mask, filled = self.amg.remove_small_regions(
                self._input_mask(candidates, index).numpy(), min_area, mode="holes"
            )
            mask, removed = self.amg.remove_small_regions(mask, min_area, mode="islands")
            boxes.append(self.amg.batched_mask_to_box(torch.from_numpy(mask)[None]).float())
            masks.append(encode_mask(mask))
            unchanged.append(float(not (filled or removed)))
        uncropped = [[0, 0, side, side]] * len(masks)
        cleaned = dataclasses.replace(candidates, boxes=torch.cat(boxes), masks=masks, regions=uncropped)
        limit = max(self.params.iou, self.params.crop_nms_thresh)
        return cleaned.only(nms(cleaned.boxes, torch.tensor(unchanged), limit))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Masks in pixels of the network's input."""

    boxes: Tensor  # float32 (n, 4), xyxy
    scores: Tensor  # float32 (n,), and stability too
    stability: Tensor
    prompts: list[int]  # the numbers of the points
    masks: list[str]  # run lengths within the crop
    regions: list[list[int]]  # the crops, xyxy

    @classmethod
    def joined(cls, parts: list[_Candidates]) -> _Candidates:
        return cls(
            boxes=torch.cat([torch.zeros(0, 4), *(part.boxes for part in parts)]),
            scores=torch.cat([torch.zeros(0), *(part.scores for part in parts)]),
            stability=torch.cat([torch.zeros(0), *(part.stability for part in parts)]),
            prompts=[prompt for part in parts for prompt in part.prompts],
            masks=[mask for part in parts for mask in part.masks],
            regions=[region for part in parts for region in part.regions],
        )

    def only(self, keep: Tensor) -> _Candidates:
        indices = keep.tolist()
        return _Candidates(
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            stability=self.stability[keep],
            prompts=[self.prompts[index] for index in indices],
            masks=[self.masks[index] for index in indices],
            regions=[self.regions[index] for index in indices],
        )
