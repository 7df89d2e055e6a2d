"""Images a second of detection, end to end: files in, results on disk.

    python -m bench.detect_throughput --images 500 --rounds 2

Compared, in turn, with the same weights and the same files: this project's stage `detect`; `yolo predict`, Ultralytics'
command line as its users run it (PyTorch, its defaults, annotated pictures saved); and the best of Ultralytics alone
that was found: its OpenVINO export, a stream over a listing, text labels saved. Cold is the whole process, start-up
included, with the engine exported before; steady is what its images cost once it runs: the time of all images less that
of a tenth of them. The weights are random, with a bias that leaves some boxes in each image; how many boxes agree
(IoU >= 0.98, same class, score within 0.01) with PyTorch in float32 is printed beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import yaml
from torchvision.ops import box_iou

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/code"))  # its random weights and photographs

from detector_files import photograph, write_detector  # noqa: E402

SHAPES = [(480, 640), (640, 480), (427, 640), (640, 427), (640, 640), (360, 640), (500, 640), (640, 512)]
ALONE = """
import sys
from ultralytics import YOLO
model = YOLO(sys.argv[1], task="detect")
options = dict(batch=int(sys.argv[4]), stream=True, save_txt=True, save_conf=True, verbose=False, project=sys.argv[3])
for result in model.predict(sys.argv[2], imgsz=640, name="out", exist_ok=True, **options):
    pass
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="yolo11n")
    parser.add_argument("--half", action="store_true", help="this project in bfloat16, as Ultralytics' OpenVINO is")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_detector(folder / f"{args.model}.pt", f"{args.model}.yaml", imgsz=640)
        write_images(folder / "all", args.images)
        write_images(folder / "few", max(8, args.images // 10))
        engine = export(folder, weights)
        runs = {
            "this project": lambda source: ours(folder, weights, source, half=args.half),
            "yolo predict": lambda source: command_line(folder, weights, source),
            "Ultralytics alone, OpenVINO, batch 1": lambda source: alone(folder, engine, source, 1),
            "Ultralytics alone, OpenVINO, batch 8": lambda source: alone(folder, engine, source, 8),
        }
        first = timed(lambda: ours(folder, weights, "few", half=args.half))
        print(f"first run ever, its export included: {first:.1f} s for {max(8, args.images // 10)} images")
        measured = measure(runs, args.rounds)
        report(measured, args.images, max(8, args.images // 10))
        compare(folder)


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(count):
        height, width = SHAPES[draws.integers(len(SHAPES))]
        good, data = cv2.imencode(".jpg", photograph(height, width, number), [cv2.IMWRITE_JPEG_QUALITY, 90])
        assert good
        (folder / f"{number:05d}.jpg").write_bytes(data.tobytes())


def export(folder: Path, weights: Path) -> Path:
    """Ultralytics' own export, as its users make it."""
    code = f"from ultralytics import YOLO; YOLO({str(weights)!r}).export(format='openvino', dynamic=True, imgsz=640)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(folder), capture_output=True, check=True)
    return next(folder.glob("*_openvino_model"))


def environment(folder: Path) -> dict[str, str]:
    quiet = {"YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    return {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | quiet


def ours(folder: Path, weights: Path, source: str, *, half: bool) -> None:
    section = yaml.safe_load((ROOT / "params.yaml").read_text()).get("detect", {})
    own = {"weights": str(weights), "source": str(folder / source), "imgsz": 640, "conf": 0.25, "iou": 0.7}
    own |= {
        "max_det": 300,
        "classes": [],
        "agnostic_nms": False,
        "half": half or "auto",
        "int8": False,
        "backend": "auto",
    }
    own |= {"vid_stride": 1, "tracker": "none", "save_txt": False, "pictures": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump({"detect": section | own}))
    more = {"PYTHONPATH": str(ROOT), "GRIDFLOW_STATE": str(folder / "state")}
    run([sys.executable, "-m", "tasks.detect"], folder, environment(folder) | more)


def command_line(folder: Path, weights: Path, source: str) -> None:
    command = [str(Path(sys.executable).with_name("yolo")), "predict", f"model={weights}", f"source={folder / source}"]
    more = [f"project={folder / 'command'}", "name=out", "exist_ok=True", "save_txt=True", "save_conf=True"]
    run([*command, *more], folder, environment(folder))


def alone(folder: Path, engine: Path, source: str, batch: int) -> None:
    arguments = [str(engine), str(folder / source), str(folder / "alone"), str(batch)]
    run([sys.executable, "-c", ALONE, *arguments], folder, environment(folder))


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(runs: dict[str, Callable[[str], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds for few and for all images, of each run, in turn."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            measured[name].append((timed(lambda: call("few")), timed(lambda: call("all"))))  # noqa: B023
    return measured


def report(measured: dict[str, list[tuple[float, float]]], images: int, few: int) -> None:
    cold = {name: images / statistics.median(whole for _, whole in times) for name, times in measured.items()}
    steady = {
        name: (images - few) / statistics.median(whole - part for part, whole in times)
        for name, times in measured.items()
    }
    print(f"{images} images, median of {len(next(iter(measured.values())))}; images/s, and this project against it")
    for name in measured:
        against = f"cold x{cold['this project'] / cold[name]:.2f}  steady x{steady['this project'] / steady[name]:.2f}"
        print(f"{name:40} cold {cold[name]:6.1f}  steady {steady[name]:6.1f}   {against}")


def compare(folder: Path) -> None:
    """How much of Ultralytics' boxes the others have."""
    images = pd.read_parquet(folder / "data/predictions/detect/images.parquet")
    parts = sorted((folder / "data/predictions/detect").glob("part-*.parquet"))
    objects = pd.concat([pd.read_parquet(part) for part in parts])
    groups = dict(tuple(objects.groupby("image_id")))
    counts = dict.fromkeys(("boxes", "this project", "Ultralytics alone, OpenVINO"), 0)
    for image in images.itertuples():
        stem, size = Path(image.file).stem, (image.width, image.height)
        reference = labels(folder / "command/out/labels" / f"{stem}.txt", size)
        rows = groups.get(image.image_id, objects.iloc[:0])
        own = rows[["class_id", "x1", "y1", "x2", "y2", "score"]].to_numpy(float)
        counts["boxes"] += len(reference)
        counts["this project"] += matched(reference, own)
        other = labels(folder / "alone/out/labels" / f"{stem}.txt", size)
        counts["Ultralytics alone, OpenVINO"] += matched(reference, other)
    for name in list(counts)[1:]:
        share = counts[name] / max(1, counts["boxes"])
        print(f"{name}: {share:.2%} of the {counts['boxes']:,} boxes of `yolo predict`")


def labels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Ultralytics' text as (n, 6): class, xyxy in pixels, score."""
    if not path.is_file() or not path.stat().st_size:
        return np.empty((0, 6))
    table = np.loadtxt(path, ndmin=2)
    centre, half = table[:, 1:3] * size, table[:, 3:5] * size / 2
    return np.column_stack([table[:, 0], centre - half, centre + half, table[:, 5]])


def matched(reference: np.ndarray, found: np.ndarray) -> int:
    if not len(reference) or not len(found):
        return 0
    overlap = box_iou(torch.from_numpy(reference[:, 1:5]), torch.from_numpy(np.ascontiguousarray(found[:, 1:5])))
    near = np.abs(reference[:, None, 5] - found[None, :, 5]) <= 0.01
    return int(((overlap.numpy() >= 0.98) & near & (reference[:, None, 0] == found[None, :, 0])).any(1).sum())


if __name__ == "__main__":
    main()
