"""What can be compared: a name becomes a folder that holds a run's parameters, metrics and answers.

A name is ``workspace`` (the checkout as it stands), ``champion`` (each model's own), a folder, a DVC experiment, or
anything that git resolves. Of commits only small files are brought out of DVC's cache: metrics, answers, hashes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from fsspec import AbstractFileSystem

from cnn_core.comparison.differences import METRICS, ROWS
from cnn_core.params import read_yaml
from flows.registry.models import MODELS, STAGE, Model, champion
from flows.repository.git import experiment_of, main_checkout, resolve
from flows.repository.graph import files_of
from flows.repository.outputs import outputs

WORKSPACE = "workspace"
RAW = "data/raw"
REPORT = "data/reports/index.html"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """A run by the ``name`` that tables bear, in the folder ``root``.

    ``commit`` is None for a folder; ``partial``: only some models' parts; ``notes``: what to know of it.
    """

    name: str
    root: Path
    commit: str | None = None
    partial: bool = False
    notes: tuple[str, ...] = ()

    def report(self, root: Path) -> str:
        """The page that the run's stage report made.

        Raises:
            ValueError: it made none, or DVC does not have it.
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


def side(root: Path, name: str, scratch: Path) -> Side:
    """The run of that name.

    Args:
        root: the checkout.
        scratch: an empty folder that what is brought out goes to.

    Raises:
        ValueError: there is no such run, it has no metrics, or DVC does not have them.
    """
    if name == STAGE:
        return champions(root, scratch)
    if name == WORKSPACE or (Path(name) / METRICS).is_dir():
        folder = root if name == WORKSPACE else Path(name).resolve()
        return Side(name=name, root=_with_metrics(folder, name), notes=_changed_since(folder, name))
    if Path(name).is_dir() and "/" in name:
        raise ValueError(f"{name} is no folder of a run: it has no {METRICS}")
    commit = resolve(root, name)
    told = experiment_of(root, commit) or (name if not commit.startswith(name) else name[:10])
    bring(root, commit, scratch, told)
    return Side(name=told, root=scratch, commit=commit, notes=_changed_since(scratch, told))


def champions(root: Path, scratch: Path, models: Iterable[str] = tuple(MODELS)) -> Side:
    """Of each model that has a champion what it was measured on, its figures and its parameters.

    Raises:
        ValueError: there is none, or DVC does not have its figures.
    """
    versions = {name: version for name in models if (version := champion(root, name)) is not None}
    versions = {name: one for name, one in versions.items() if MODELS[name].metrics in measured(root, one.commit)}
    if not versions:
        raise ValueError("there is no champion that was measured: `gridflow champions promote MODEL` makes one")
    params: dict[str, Any] = {}
    for name, version in versions.items():
        files, told = files_of(main_checkout(root), version.commit), f"the champion {name} {version.name}"
        _bring_metrics(files, [MODELS[name].metrics], scratch, told)
        _bring_answers(files, [MODELS[name]], scratch)
        if files.exists("params.yaml"):
            _take(yaml.safe_load(files.read_text("params.yaml")) or {}, MODELS[name], params)
    (scratch / "params.yaml").write_text(yaml.safe_dump(params))
    named = ", ".join(f"{name} {version.name} ({version.commit[:10]})" for name, version in versions.items())
    return Side(name=STAGE, root=scratch, partial=True, notes=(f"{STAGE}: {named}.",))


def bring(root: Path, commit: str, target: Path, name: str) -> None:
    """Of a run its params.yaml, dvc.lock, metrics and classifiers' answers, into the folder ``target``.

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
            f"{name} has no metrics: no run was committed there. A run writes dvc.lock, and "
            "`git add dvc.lock && git commit` or an experiment (`gridflow run --isolated`) keeps it"
        )
    _bring_metrics(files, paths, target, name)
    _bring_answers(files, MODELS.values(), target)


def measured(root: Path, commit: str) -> list[str]:
    """The metrics files of the stages that a commit's dvc.lock knows: those that have run."""
    try:
        return [path for path in outputs(root, commit) if path.startswith(f"{METRICS}/") and path.endswith(".json")]
    except ValueError:
        return []


def _bring_metrics(files: AbstractFileSystem, paths: Sequence[str], target: Path, name: str) -> None:
    (target / METRICS).mkdir(parents=True, exist_ok=True)
    for path in paths:
        try:
            (target / path).write_bytes(files.read_bytes(path))
        except Exception as error:  # of DVC, of the remote's library, or the system
            reason = " ".join(str(error).split())
            raise ValueError(
                f"DVC does not have {path} of {name}: it is neither in its cache nor in a remote. Where it was made "
                "`dvc push` (of an experiment: `dvc exp push REMOTE NAME`) shares it, here `dvc pull` (`dvc exp pull`) "
                f"brings it; or run it again: `gridflow run --isolated --revision …` ({reason})"
            ) from error


def _bring_answers(files: AbstractFileSystem, models: Iterable[Model], target: Path) -> None:
    """As far as they are there: without them an accuracy is compared by its interval."""
    for model in models:
        try:
            if not model.data or not files.exists(model.predictions):
                continue
            answers = files.read_bytes(model.predictions)
            (target / model.predictions).parent.mkdir(parents=True, exist_ok=True)
            (target / model.predictions).write_bytes(answers)
            parts = sorted(files.glob(f"{RAW}/{model.data}/part-*.parquet"))
            rows = [pd.read_parquet(files.open(part), columns=ROWS) for part in parts]
        except Exception:  # of DVC, of the remote's library, or the system
            continue
        if rows:
            (target / RAW / model.data).mkdir(parents=True, exist_ok=True)
            pd.concat(rows).to_parquet(target / RAW / model.data / "part-00000.parquet")


def _with_metrics(folder: Path, name: str) -> Path:
    if any((folder / METRICS).glob("*.json")):
        return folder
    if (folder / "dvc.lock").is_file():
        raise ValueError(
            f"{name} has no metrics, but a dvc.lock: `dvc checkout` brings them from DVC's cache, `dvc pull` from its "
            "remote"
        )
    raise ValueError(f"{name} has no metrics yet: `make run` makes them")


def _take(values: dict[str, Any], model: Model, params: dict[str, Any]) -> None:
    """Copy into ``params`` what of a run's parameters concerns a model: ``train.digits``, or ``train_detector``."""
    for stage, section in values.items():
        if model.data and isinstance(section, dict) and isinstance(section.get(model.data), dict):
            params.setdefault(stage, {})[model.data] = section[model.data]
        elif not model.data and stage in (model.train, model.evaluate):
            params[stage] = section


def _changed_since(folder: Path, name: str) -> tuple[str, ...]:
    """That params.yaml is not what the run had, by what dvc.lock says of it."""
    if not (folder / "dvc.lock").is_file() or not (folder / "params.yaml").is_file():
        return ()
    values, changed = read_yaml(folder / "params.yaml"), []
    for entry in (read_yaml(folder / "dvc.lock").get("stages") or {}).values():
        for key, value in entry.get("params", {}).get("params.yaml", {}).items():
            if _at(values, key) != value and not key.startswith("report"):
                changed.append(key)
    if not changed:
        return ()
    shown = ", ".join(sorted(set(changed)))
    return (f"{name}: params.yaml has changed since the run in {shown}; the figures are of the values before.",)


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
