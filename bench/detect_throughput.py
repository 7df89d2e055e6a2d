"""Images a second of detection, end to end: files in, results on disk.

    python -m bench.detect_throughput --images 500 --rounds 2

These take turns, with the same weights and files: this project's stage `detect`, in float32 (its default) and with
`half`; `yolo predict`, Ultralytics' command line as its users run it (PyTorch, its defaults, annotated pictures saved);
and the fastest use of Ultralytics alone: its OpenVINO export, a stream over a listing, text labels saved (in bfloat16
where the processor has it, which is OpenVINO's default, so like `half`). "Cold" is the whole process, start-up
included, with the engine exported before. "Steady" is the cost of images once it runs: the time of all images less
that of a tenth of them. The weights are random, with a bias that leaves some boxes in each image. The share of boxes
that agree with PyTorch in float32 (IoU >= 0.98, same class, score within 0.01) is printed too: the scores of random
weights lie close together, so few agree in bfloat16 (`bench.detect_precision` has the cost for trained ones).
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
import yaml

from bench.detect_precision import by_image, matched
from tasks.engine.runtime import load_runtime
from tests.helpers.detector_files import photograph, write_detector

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("float32", "half")  # of this project's stage
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
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_detector(folder / f"{args.model}.pt", f"{args.model}.yaml", imgsz=640)
        write_images(folder / "all", args.images)
        write_images(folder / "few", max(8, args.images // 10))
        engine = export(folder, weights)
        few = args.images <= load_runtime().local_images
        runs = {
            **{
                name: lambda source, precision=name: stage(folder / precision, weights, folder / source, few=few)
                for name in PRECISIONS
            },
            "yolo predict": lambda source: command_line(folder, weights, source),
            "Ultralytics alone, OpenVINO, batch 1": lambda source: alone(folder, engine, source, 1),
            "Ultralytics alone, OpenVINO, batch 8": lambda source: alone(folder, engine, source, 8),
        }
        first = timed(lambda: stage(folder / "half", weights, folder / "few"))
        stage(folder / "float32", weights, folder / "few")
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
    """Export with Ultralytics, as its users do."""
    code = f"from ultralytics import YOLO; YOLO({str(weights)!r}).export(format='openvino', dynamic=True, imgsz=640)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(folder), capture_output=True, check=True)
    return next(folder.glob("*_openvino_model"))


def environment(folder: Path) -> dict[str, str]:
    quiet = {"YOLO_CONFIG_DIR": str(folder), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
    return {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | quiet


def stage(folder: Path, weights: Path, source: Path, *, few: bool = True) -> None:
    """Run the stage `detect` in ``folder``, whose name is the precision.

    Args:
        few: the images are so few that the stage needs no Ray.
    """
    folder.mkdir(exist_ok=True)
    section = {"weights": str(weights), "source": str(source), "match": "*", "imgsz": 640, "conf": 0.25, "iou": 0.7}
    section |= {"max_det": 300, "classes": [], "agnostic_nms": False, "half": folder.name == "half" or "auto"}
    section |= {"int8": False, "backend": "auto", "vid_stride": 1, "tracker": "none", "save_txt": False, "pictures": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump({"detect": {"detector": section}}))
    more = {"PYTHONPATH": str(ROOT), "GRIDFLOW_STATE": str(folder / "state")}
    if not few:  # all are done on Ray, so the tenth that is subtracted must be too
        more["GRIDFLOW_LOCAL_IMAGES"] = "0"
    run([sys.executable, "-m", "tasks.detect", "detector"], folder, environment(folder) | more)


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
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(runs: dict[str, Callable[[str], None]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Time each run in turn, with few and with all images."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, call in runs.items():
            measured[name].append((timed(lambda: call("few")), timed(lambda: call("all"))))  # noqa: B023
    return measured


def report(measured: dict[str, list[tuple[float, float]]], images: int, few: int) -> None:
    cold = {name: images / statistics.median(seconds for _, seconds in times) for name, times in measured.items()}
    steady = {
        name: (images - few) / statistics.median(all_images - few_images for few_images, all_images in times)
        for name, times in measured.items()
    }
    print(
        f"{images} images, median of {len(next(iter(measured.values())))} rounds; images/s, and this project against it"
    )
    for name in measured:
        label = f"{'this project, ' if name in PRECISIONS else ''}{name}"
        ratios = [f"{each} x{cold[each] / cold[name]:.2f} x{steady[each] / steady[name]:.2f}" for each in PRECISIONS]
        against = "" if name in PRECISIONS else f"   {'   '.join(ratios)}   (cold, steady)"
        print(f"{label:40} cold {cold[name]:6.1f}  steady {steady[name]:6.1f}{against}")


def compare(folder: Path) -> None:
    """Print the share of the boxes of `yolo predict` that each of the others has."""
    tables = {f"this project, {name}": boxes(folder / name / "data/predictions/detector") for name in PRECISIONS}
    counts = dict.fromkeys(("boxes", *tables, "Ultralytics alone, OpenVINO"), 0)
    images = pd.read_parquet(folder / "float32/data/predictions/detector/images.parquet")
    for image in images.itertuples():
        stem, size = Path(image.file).stem, (image.width, image.height)
        reference = labels(folder / "command/out/labels" / f"{stem}.txt", size)
        counts["boxes"] += len(reference)
        for name, table in tables.items():
            counts[name] += matched(reference, table.get(image.image_id, np.empty((0, 6))))
        other = labels(folder / "alone/out/labels" / f"{stem}.txt", size)
        counts["Ultralytics alone, OpenVINO"] += matched(reference, other)
    for name in list(counts)[1:]:
        share = counts[name] / max(1, counts["boxes"])
        print(f"{name}: {share:.2%} of the {counts['boxes']:,} boxes of `yolo predict`")


def boxes(folder: Path) -> dict[str, np.ndarray]:
    return by_image(pd.concat([pd.read_parquet(part) for part in sorted(folder.glob("part-*.parquet"))]))


def labels(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a text label of Ultralytics as (n, 6): class, xyxy in pixels, score."""
    if not path.is_file() or not path.stat().st_size:
        return np.empty((0, 6))
    table = np.loadtxt(path, ndmin=2)
    centre, half = table[:, 1:3] * size, table[:, 3:5] * size / 2
    return np.column_stack([table[:, 0], centre - half, centre + half, table[:, 5]])


if __name__ == "__main__":
    main()
