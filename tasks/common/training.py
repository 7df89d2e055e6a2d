"""What all stages that train share: the run in progress on Ray, the files that a training leaves, its metrics."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from cnn_core.files import is_composed, write_json
from cnn_core.model_card.card import CARD, Kind, finder_card
from cnn_core.params import Params
from tasks.engine import distributed, events
from tasks.engine.cluster import check_shared, ray_cluster
from tasks.engine.runtime import Runtime, git_commit
from tasks.engine.state import input_sha256, key_of, run_in_progress
from tasks.engine.training_progress import TrainingProgress
from tasks.engine.training_worker import WorkerContext

if TYPE_CHECKING:
    from ray.data import Dataset

SCHEMA_VERSION = 1  # of a detector's and a segmenter's model.json
Job = TypeVar("Job")
Record = Mapping[str, Any]  # of an epoch


@contextlib.contextmanager
def train_on_ray(
    work: Callable[[Job, WorkerContext], None],
    job: Job,
    runtime: Runtime,
    *,
    run_name: str,
    progress: TrainingProgress,
    shared: str | Path | None = None,
    datasets: Callable[[], Mapping[str, Dataset]] = dict,
) -> Iterator[tuple[dict[str, Any], int]]:
    """Run ``work(job, context)`` on every training worker; an interrupted run of the same name is continued.

    The block gets the last checkpoint and the number of epochs that the interrupted run had finished, and writes the
    outputs. After it the run's checkpoints are deleted.

    Args:
        job: a frozen dataclass that Ray pickles whole; its paths are absolute.
        run_name: follows from all that the result depends on, see `training_key`.
        shared: the data folder, which all nodes of a running cluster must see.
        datasets: makes the data sets that Ray streams; called once Ray has started.
    """
    with run_in_progress(runtime, run_name) as run:
        with progress, ray_cluster(runtime):
            if runtime.ray_address and shared is not None:
                check_shared(run.storage, shared)
            checkpoint = distributed.fit(work, job, runtime, run, on_message=progress.handle, datasets=datasets())
        yield checkpoint, progress.resumed_at


def training_key(stage: str, params: Params, *, data: str, start: str | Path, **parts: Any) -> str:
    """Return the key of a training: its parameters, the hash ``data`` of its images, its first weights and its code."""
    # What the data and the weights hold counts, not where they lie.
    values = {key: "" if key in ("source", "weights") else value for key, value in dataclasses.asdict(params).items()}
    return key_of(stage, params=values, data=data, start=input_sha256(start), **parts)


def write_curve(path: str | Path, history: Sequence[Record], columns: Sequence[str] = ()) -> None:
    """Write one CSV row an epoch, with all its numbers where there are no ``columns``."""
    names = columns or list(dict.fromkeys(name for record in history for name in record))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: round(value, 6) if isinstance(value, float) else value for name, value in record.items()}
            for record in history
        )


def training_figures(history: Sequence[Record], network: nn.Module, resumed_at: int) -> dict[str, Any]:
    """Return the metrics that a detector's and a segmenter's training share; images per second as a harmonic mean."""
    return {
        "epochs": len(history),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "images_per_s": round(len(history) / sum(1 / record["images_per_s"] for record in history), 1),
        "training_seconds": round(sum(record["seconds"] for record in history), 1),
        "resumed_at": resumed_at,
    }


def account(learned: int, validated: int, *, left_out: int, unused: Mapping[str, int]) -> dict[str, int]:
    """Count the images that a training was pointed at in full, log the sum, and return it as metrics.

    Args:
        left_out: images that cannot be used.
        unused: images that are good but not needed, by the words that say why.
    """
    counts = {"listed": learned + validated + left_out + sum(unused.values()), "images": learned + validated}
    rest = {"left out": left_out, **unused}
    others = "".join(f"; {count:,} {words}" for words, count in rest.items() if count)
    events.log(f"of {counts['listed']:,} images {learned:,} are learned from and {validated:,} validate{others}")
    return counts | {"left_out": left_out, "unused": sum(unused.values())}


def write_card(
    folder: Path,
    kind: Kind,
    params: Params,
    described: Mapping[str, Any],
    *,
    name: str,
    source: str,
    data_sha256: str,
    history: Sequence[Record],
    counts: Mapping[str, int],
) -> None:
    """Write the README and, last, the model.json of a detector's or a segmenter's model folder.

    Args:
        folder: where they are written, until it gets its ``name``.
        described: what is particular to the kind; it holds architecture, classes, imgsz, metrics and model.
        counts: images by split.
    """
    card = {
        "schema_version": SCHEMA_VERSION,
        **described,
        "params": dataclasses.asdict(params),
        "data_sha256": data_sha256,
        "git_commit": git_commit(),
        "epochs": len(history),
    }
    readme = finder_card(kind, card, counts, name=name, generated=is_composed(source))
    (folder / CARD).write_text(readme, encoding="utf-8")
    write_json(folder / "model.json", card)
