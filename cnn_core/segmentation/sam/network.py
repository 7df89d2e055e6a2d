"""Adapters for Ultralytics' SAM and SAM 2: the networks of checkpoints, and the steps of its predictor.

The reference is `ultralytics.SAM(path)(image, bboxes=…)`. Each step here is Ultralytics' own function with the same
arguments as in its predictor, but without the predictor's state between the steps. Only the inner part of the mask
decoder is our own, for speed (`sam.decoder`).

Private names of Ultralytics that are used here and in `video.memory`, because its predictor is not public in steps:
`_prepare_prompts`, `_inference_features`, `_bb_feat_sizes` of the predictor, `_prepare_backbone_features`,
`_track_step`, `_encode_new_memory` of SAM 2. Tests compare the results with Ultralytics' own predictors.

Kirillov et al., "Segment Anything" (ICCV 2023); Zhang et al., "Faster Segment Anything" (MobileSAM, 2023); Ravi et al.,
"SAM 2: Segment Anything in Images and Videos" (2024).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from cnn_core.images.decoding import TOO_NARROW, BadImage
from cnn_core.params import from_mapping
from cnn_core.segmentation.sam.decoder import predict_masks
from cnn_core.segmentation.sam.params import INPUT_STRIDE, SmallSamParams
from cnn_core.segmentation.sam.small import build_small_sam
from cnn_core.segmentation.sam.weights import SMALL, SamWeights, read_weights

Features = Tensor | dict[str, Any]  # of one image, as Ultralytics' predictors hold them
IMGSZ = 1024  # pixels of the input's side that the official networks were trained with
PIECE = 1 << 22  # logits that are scaled at a time (16 MB)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedSam:
    """A network in float32, in evaluation mode, on the CPU."""

    network: nn.Module  # of Ultralytics: SAMModel or SAM2Model
    name: str  # sam_b, mobile_sam, sam2.1_t, small_sam, …
    family: Literal["sam", "sam2"]
    sha256: str  # of the file
    imgsz: int  # the side that it was trained with
    model: dict[str, Any] = dataclasses.field(default_factory=dict)  # of small_sam: its sizes


def load_sam(path: str | Path, *, trusted: Collection[str] = ()) -> LoadedSam:
    """Load the network of a checkpoint or model folder. Call `cnn_core.detection.yolo.quiet` before.

    Raises:
        ValueError: as `cnn_core.segmentation.sam.weights.read_weights`; or a tensor is missing or does not fit.
    """
    weights = read_weights(path, trusted=trusted)
    imgsz = int(weights.card.get("imgsz", IMGSZ))
    model: dict[str, Any] = {}
    if weights.name == SMALL:
        if not isinstance(sizes := weights.card.get("model"), dict):
            raise ValueError(f"{path} is a small SAM, whose sizes are in the model.json beside it: name the folder")
        model = {name: value for name, value in sizes.items() if name != "architecture"}
        network = build_small_sam(from_mapping(SmallSamParams, model, "model"), imgsz)
    else:
        network = build_sam(weights.name)
    _fill(network, weights, path)
    return LoadedSam(
        network=network,
        name=weights.name,
        family="sam2" if weights.name.startswith("sam2") else "sam",
        sha256=weights.sha256,
        imgsz=imgsz,
        model=model,
    )


def build_sam(name: str) -> nn.Module:
    """Build an official network with random weights, in evaluation mode, by Ultralytics' builder."""
    from ultralytics.models.sam.build import sam_model_map

    if f"{name}.pt" not in sam_model_map:
        raise ValueError(f"there is no SAM called {name!r}; there are {', '.join(key[:-3] for key in sam_model_map)}")
    network = sam_model_map[f"{name}.pt"]()
    if name.startswith("sam2.1"):
        make_sam_2_1(network)
    return network.eval()


def make_sam_2_1(network: Any) -> None:
    """Add what SAM 2.1 has over SAM 2: without a path, which it unpickles unsafely, Ultralytics builds SAM 2."""
    network.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, network.mem_dim))
    network.proj_tpos_enc_in_obj_ptrs = network.use_signed_tpos_enc_to_obj_ptrs = True
    network.obj_ptr_tpos_proj = nn.Linear(network.hidden_dim, network.mem_dim)


def _fill(network: nn.Module, weights: SamWeights, path: str | Path) -> None:
    expected = network.state_dict()
    for key, value in weights.state.items():
        if key in expected and expected[key].shape != value.shape:
            shapes = f"{tuple(value.shape)}, not {tuple(expected[key].shape)}"
            raise ValueError(f"{path} is not a {weights.name}, which it looks like: {key} has the shape {shapes}")
    for verb, keys in (
        ("lacks", expected.keys() - weights.state.keys()),
        ("also has", weights.state.keys() - expected.keys()),
    ):
        if keys:
            raise ValueError(f"{path} is not a {weights.name}, which it looks like: it {verb} {min(keys)}")
    network.load_state_dict(weights.state)


def reference_predictor(loaded: LoadedSam, imgsz: int) -> Any:
    """Ultralytics' own predictor with this network, on the CPU, to compare `SamSteps` with."""
    from ultralytics.models.sam.predict import Predictor, SAM2Predictor

    settings = {"imgsz": imgsz, "conf": 0.0, "device": "cpu", "save": False, "verbose": False}
    predictor: Any = (SAM2Predictor if loaded.family == "sam2" else Predictor)(overrides=settings)
    predictor.setup_model(loaded.network, verbose=False)
    if loaded.name == SMALL:  # its fine features are taken by Ultralytics' method for SAM 2, not by that for SAM
        from ultralytics.models.sam.modules.decoders import SAM2MaskDecoder

        decoder = predictor.model.mask_decoder
        decoder.pred_obj_scores, decoder.use_high_res_features = False, True
        decoder.predict_masks = lambda **inputs: SAM2MaskDecoder.predict_masks(decoder, repeat_image=True, **inputs)[:2]
    return predictor


class SamSteps:
    """A SAM's prediction in steps. No step keeps any state, so they may be called for several images in turn.

    Args:
        imgsz: side of the input, made a multiple of `STRIDE`; 0 = what the network was trained with.
        half: float16 on a GPU; on a CPU bfloat16 in the operations that PyTorch's autocast covers.
    """

    def __init__(self, loaded: LoadedSam, *, imgsz: int, device: torch.device, half: bool) -> None:
        from ultralytics.models.sam.predict import Predictor, SAM2Predictor
        from ultralytics.utils.checks import check_imgsz

        predictor_class = SAM2Predictor if loaded.family == "sam2" else Predictor
        settings = {
            "device": str(device),
            "save": False,
            "verbose": False,
            "quantize": 16 if half and device.type == "cuda" else None,
        }
        on_cpu = half and device.type == "cpu"
        self.autocast = functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=on_cpu)
        predictor: Any = predictor_class(overrides=settings)
        predictor.setup_model(loaded.network, verbose=False)
        predictor.imgsz = check_imgsz(imgsz or loaded.imgsz, stride=INPUT_STRIDE, min_dim=2)
        predictor.model.set_imgsz(predictor.imgsz)
        if loaded.family == "sam2":  # as its setup_source does
            predictor._bb_feat_sizes = [[side // share for side in predictor.imgsz] for share in (4, 8, 16)]
        model = predictor.model
        self._decoder: Any = model.sam_mask_decoder if loaded.family == "sam2" else model.mask_decoder
        self._may_choose = loaded.family == "sam2"  # among all masks, also where one is asked for
        self.predictor, self.side = predictor, int(predictor.imgsz[0])
        self.threshold = float(predictor.model.mask_threshold)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise `BadImage` if nothing would be left of the shorter side of an image of this (height, width)."""
        height, width = shape
        if round(min(height, width) * self.side / max(height, width)) < 1:
            raise BadImage(TOO_NARROW, f"{width}x{height} pixels, less than 1 pixel wide at {self.side}")

    def pixels(self, image: np.ndarray) -> Tensor:
        """uint8 (H, W, 3), BGR -> (1, 3, side, side): scaled to fit, in the upper left corner, normalised."""
        return self.predictor.preprocess([image])

    def features(self, pixels: Tensor) -> Features:
        with self.autocast():
            return self.predictor.get_im_features(pixels)

    def decode(
        self,
        features: Features,
        shape: tuple[int, int],
        *,
        boxes: np.ndarray | None,
        points: np.ndarray | None,
        labels: np.ndarray | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Decode the arrays of `CheckedPrompts`, in pixels of an image of ``shape`` (height, width).

        Returns:
            Mask logits (N, M, side / 4, side / 4) and predicted IoUs (N, M); M is 3 with ``multimask``, else 1.
        """
        prompts = self.predictor._prepare_prompts(self.predictor.imgsz, shape, boxes, points, labels)
        with self.autocast(), self._shared_decoder(single=not (multimask or self._may_choose)):
            logits, scores = self.predictor._inference_features(features, *prompts, multimask)
        count = 3 if multimask else 1
        return logits.unflatten(0, (-1, count)).float(), scores.unflatten(0, (-1, count)).float()

    @contextlib.contextmanager
    def _shared_decoder(self, *, single: bool) -> Iterator[None]:
        """Use our mask decoder within the block; after it the network, which others may hold, is as it was."""
        self._decoder.predict_masks = functools.partial(predict_masks, self._decoder, single=single)
        try:
            yield
        finally:
            del self._decoder.predict_masks

    def stability(self, logits: Tensor, offset: float) -> float:
        """The IoU, 0..1, of the masks cut ``offset`` above and below the threshold, of one mask's logits (H, W).

        NaN for an empty mask (SAM paper, appendix B).
        """
        from ultralytics.models.sam.amg import calculate_stability_score

        return float(calculate_stability_score(logits[None], self.threshold, offset)[0])

    def in_original(self, masks: Tensor, shape: tuple[int, int]) -> Iterator[Tensor]:
        """Scale masks or logits (N, h, w) of the network's input to the image's own pixels.

        Yields:
            float32 (height, width), one after the other, so that the masks of large images are not all in memory.
        """
        from ultralytics.utils import ops

        gain = min(self.side / side for side in shape)
        height, width = (round(o * gain) * m / self.side / o for o, m in zip(shape, masks.shape[1:], strict=True))
        for piece in masks.split(max(1, PIECE // (shape[0] * shape[1]))):
            yield from ops.scale_masks(piece[None].float(), shape, ((height, width), (0, 0)), padding=False)[0]
