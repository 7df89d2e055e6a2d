"""The sides of a comparison: a run's name becomes a folder with its parameters and metrics.

A name is ``workspace`` (the checkout as it stands), ``champion`` (each model's own), a folder, a DVC experiment, or
anything that git resolves. Of a commit only small files are brought out of DVC's cache: metrics, answers, hashes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from fsspec import AbstractFileSystem

from cnn_core.comparison.classifiers import ROW_COLUMNS
from cnn_core.comparison.differences import METRICS
from cnn_core.params import read_yaml
from cnn_core.reporting.former import former_stages
from flows.registry.models import STAGE, Model, champion, read_models
from flows.repository.former_shape import renewed, today
from flows.repository.git import experiment_of, resolve
from flows.repository.graph import files_of
from flows.repository.outputs import outputs
from tasks.engine.runtime import main_checkout

WORKSPACE = "workspace"
RAW = "data/raw"
REPORT = "data/reports/index.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """A run in the folder ``root``."""

    name: str  # as tables show it
    root: Path
    commit: str | None = None  # None for a folder
    partial: bool = False  # whether the folder holds only some models' parts of a run
    notes: tuple[str, ...] = ()  # what to know when reading the figures

    def report(self, root: Path) -> str:
        """Read the page that the run's stage report made.

        Raises:
            ValueError: there is none, or DVC does not have it.
        """
        try:
            if self.commit is None:
                return (self.root / REPORT).read_text(encoding="utf-8")
            return files_of(root, self.commit).read_bytes(REPORT).decode()
        except Exception as error:  # of DVC, of the remote's library, or the system
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.name} has no report at {REPORT}: run its stage report (`gridflow run report`) or "
                f"bring it by `dvc pull` ({reason})"
            ) from error


def find_side(root: Path, name: str, scratch: Path) -> Side:
    """Find the run of that name; what DVC's cache has of it is brought into the empty folder ``scratch``.

    Raises:
        ValueError: there is no such run, it has no metrics, or DVC does not have them.
    """
    if name == STAGE:
        return champions(root, scratch)
    if name == WORKSPACE or (Path(name) / METRICS).is_dir():
        folder = root if name == WORKSPACE else Path(name).resolve()
        return Side(name=name, root=_with_metrics(folder, name), notes=_notes_on_former(folder, name))
    if Path(name).is_dir() and "/" in name:
        raise ValueError(f"{name} is no folder of a run: it has no {METRICS}")
    commit = resolve(root, name)
    shown_name = experiment_of(root, commit) or (name if not commit.startswith(name) else name[:10])
    bring(root, commit, scratch, shown_name)
    notes = _notes_on_former(scratch, shown_name)
    if (path := scratch / "params.yaml").is_file():
        path.write_text(yaml.safe_dump(renewed(read_yaml(path)), sort_keys=False))
    return Side(name=shown_name, root=scratch, commit=commit, notes=notes)


def champions(root: Path, scratch: Path, names: Collection[str] | None = None) -> Side:
    """Bring the champions' answers, metrics and parameters together in one folder; ``names`` None: of all models.

    Raises:
        ValueError: no model has a champion that was measured, or DVC does not have its metrics.
    """
    models = read_models(root)
    versions = {
        name: version
        for name, model in models.items()
        if (names is None or name in names)
        and (version := champion(root, name))
        and model.metrics in measured(root, version.commit).values()
    }
    if not versions:
        raise ValueError("there is no champion that was measured: `gridflow champions promote MODEL` makes one")
    params: dict[str, Any] = {}
    for name, version in versions.items():
        files = files_of(main_checkout(root), version.commit)
        paths = {then: now for then, now in measured(root, version.commit).items() if now == models[name].metrics}
        _bring_metrics(files, paths, scratch, f"the champion {name} {version.name}")
        _bring_answers(files, [models[name]], scratch)
        if files.exists("params.yaml"):
            _copy_params(renewed(yaml.safe_load(files.read_text("params.yaml")) or {}), models[name], params)
    (scratch / "params.yaml").write_text(yaml.safe_dump(params))
    champions_ = ", ".join(f"{name} {version.name} ({version.commit[:10]})" for name, version in versions.items())
    return Side(name=STAGE, root=scratch, partial=True, notes=(f"{STAGE}: {champions_}.",))


def bring(root: Path, commit: str, target: Path, name: str) -> None:
    """Bring a run's parameters, dvc.lock, metrics and classifiers' answers into ``target``.

    Raises:
        ValueError: there are no metrics, or DVC does not have them.
    """
    files = files_of(root, commit)
    for path in ("params.yaml", "dvc.lock"):
        if files.exists(path):
            (target / path).write_bytes(files.read_bytes(path))
    paths = measured(root, commit)
    if not paths:
        raise ValueError(
            f"{name} has no metrics: no run was committed there. A run writes dvc.lock; commit it "
            "(`git add dvc.lock params.yaml && git commit`) or run as an experiment (`gridflow run --isolated`)"
        )
    _bring_metrics(files, paths, target, name)
    _bring_answers(files, read_models(root).values(), target)


def measured(root: Path, commit: str) -> dict[str, str]:
    """The metrics files in a commit's dvc.lock, and the paths that they have now."""
    try:
        paths = [path for path in outputs(root, commit) if path.startswith(f"{METRICS}/") and path.endswith(".json")]
    except ValueError:
        return {}
    return {path: today(path) for path in paths}


def _bring_metrics(files: AbstractFileSystem, paths: Mapping[str, str], target: Path, name: str) -> None:
    (target / METRICS).mkdir(parents=True, exist_ok=True)
    for path, now in paths.items():
        try:
            (target / now).write_bytes(files.read_bytes(path))
        except Exception as error:  # of DVC, of the remote's library, or the system
            reason = " ".join(str(error).split())
            raise ValueError(
                f"DVC does not have {path} of {name}: it is neither in its cache nor in a remote. Share it from where "
                "it was made with `dvc push` (an experiment: `dvc exp push REMOTE NAME`) and get it here with "
                "`dvc pull` (`dvc exp pull REMOTE NAME`), or run it again with `gridflow run --isolated --revision "
                f"REVISION` ({reason})"
            ) from error


def _bring_answers(files: AbstractFileSystem, models: Iterable[Model], target: Path) -> None:
    """Bring the answers that are there; without them an accuracy is compared by its interval."""
    for model in models:
        try:
            if not model.data or not files.exists(model.predictions):
                continue
            answers = files.read_bytes(model.predictions)
            (target / model.predictions).parent.mkdir(parents=True, exist_ok=True)
            (target / model.predictions).write_bytes(answers)
            parts = sorted(files.glob(f"{RAW}/{model.data}/part-*.parquet"))
            rows = [pd.read_parquet(files.open(part), columns=ROW_COLUMNS) for part in parts]
            manifest = files.read_bytes(f"{RAW}/{model.data}/manifest.json") if rows else b""
        except Exception:  # of DVC, of the remote's library, or the system
            continue
        if rows:
            (target / RAW / model.data).mkdir(parents=True, exist_ok=True)
            pd.concat(rows).to_parquet(target / RAW / model.data / "part-00000.parquet")
            (target / RAW / model.data / "manifest.json").write_bytes(manifest)


def _with_metrics(folder: Path, name: str) -> Path:
    if any((folder / METRICS).glob("*.json")):
        return folder
    if (folder / "dvc.lock").is_file():
        raise ValueError(
            f"{name} has no metrics, but a dvc.lock: get them with `dvc checkout` from DVC's cache, or with `dvc pull` "
            "from its remote"
        )
    raise ValueError(f"{name} has no metrics yet: `make run` makes them")


def _copy_params(values: dict[str, Any], model: Model, params: dict[str, Any]) -> None:
    """Copy the parameters that concern a model: ``train.digits`` and, of its data set, ``ingest.digits``."""
    for stage, section in values.items():
        for name in {model.name, model.data} - {""}:
            if isinstance(section, dict) and isinstance(section.get(name), dict):
                params.setdefault(stage, {})[name] = section[name]


def _notes_on_former(folder: Path, name: str) -> tuple[str, ...]:
    """A note for each reason for which figures are of an earlier run than what stands beside them."""
    if not (folder / "params.yaml").is_file():
        return ()
    stages: dict[str, list[str]] = {}
    for stage, why in former_stages(folder, read_yaml(folder / "params.yaml")).items():
        stages.setdefault(why, []).append(stage)
    return tuple(
        f"{name}: {why}; what {', '.join(names)} measured or made is of an earlier run."
        for why, names in stages.items()
    )
