"""The cost of further prompts on an image: 1, 5 and 20 boxes, beside Ultralytics' own call.

    python -m bench.segment_prompts [--weights data/weights/mobile_sam.pt] [--rounds 7]

The two take turns on a CPU with one image of 1024 x 768 pixels in memory; medians are printed. Without --weights it is
MobileSAM with random weights, which is the same work. This project returns run lengths, boxes, areas and stability,
Ultralytics complete arrays. Both keep the memory that they free, as the stage does. --half is bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cnn_core.detection.yolo import quiet
from cnn_core.segmentation.inference.segmenter import Segmenter
from cnn_core.segmentation.params import EverythingParams, SegmenterParams
from cnn_core.segmentation.sam.network import build_sam
from tasks.engine.environment import keep_memory

COUNTS = (1, 5, 20)
HEIGHT, WIDTH = 768, 1024
AUTOMATIC = {"points_stride": 32, "conf_thres": 0.88, "stability_score_thresh": 0.95, "stability_score_offset": 0.95}
CROPS = {"iou": 0.7, "crop_n_layers": 0, "crop_overlap_ratio": 0.341, "crop_downscale_factor": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--batch", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        quiet(folder)
        keep_memory()
        weights = Path(arguments.weights) if arguments.weights else random_weights(Path(folder))
        torch.set_num_threads(arguments.threads)
        calls = {"this project": segmenter_call(weights, folder, arguments), "Ultralytics": ultralytics_call(weights)}
        image, boxes = random_image(), random_boxes(max(COUNTS))
        times: dict[tuple[str, int], list[float]] = {}
        for round_ in range(arguments.rounds + 1):
            for count in COUNTS:
                for name, call in calls.items():
                    torch.set_num_threads(arguments.threads)  # Ultralytics changes it when it loads
                    start = time.perf_counter()
                    call(image, boxes[:count])
                    if round_:  # the first round warms up
                        times.setdefault((name, count), []).append(time.perf_counter() - start)
    report(times, arguments)


def report(times: dict[tuple[str, int], list[float]], arguments: argparse.Namespace) -> None:
    print(f"{arguments.threads} threads, {arguments.rounds} rounds, medians in seconds an image")
    print(f"{'':12}" + "".join(f"{count:>4} boxes" for count in COUNTS) + f"   {COUNTS[-1]} boxes : 1 box")
    for name in dict.fromkeys(name for name, _ in times):
        medians = [statistics.median(times[name, count]) for count in COUNTS]
        print(f"{name:12}" + "".join(f"{value:10.3f}" for value in medians) + f"   {medians[-1] / medians[0]:.2f}")


def segmenter_call(
    weights: Path, folder: str, arguments: argparse.Namespace
) -> Callable[[np.ndarray, np.ndarray], object]:
    automatic = EverythingParams(**AUTOMATIC, **CROPS, crop_nms_thresh=0.7, min_mask_region_area=0)
    half = True if arguments.half else "auto"
    params = SegmenterParams(imgsz=1024, conf=0.0, multimask_output=False, half=half, everything=automatic)
    segmenter = Segmenter(weights, params, device=torch.device("cpu"), settings=folder, batch=arguments.batch)
    return lambda image, boxes: segmenter.masks(segmenter.embed(image), boxes=boxes)


def ultralytics_call(weights: Path) -> Callable[[np.ndarray, np.ndarray], object]:
    from ultralytics import SAM

    model = SAM(str(weights))
    options = {"imgsz": 1024, "conf": 0.0, "save": False, "verbose": False, "device": "cpu"}
    return lambda image, boxes: model.predict(image, bboxes=boxes.tolist(), **options)


def random_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / "mobile_sam.pt"  # Ultralytics goes by the name
    torch.save(build_sam("mobile_sam").state_dict(), path)
    return path


def random_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def random_boxes(count: int) -> np.ndarray:
    draws = np.random.default_rng(0)
    corners = draws.uniform(0, (WIDTH - 300, HEIGHT - 300), (count, 2))
    return np.concatenate([corners, corners + draws.uniform(30, 300, (count, 2))], 1)


if __name__ == "__main__":
    main()
