"""Take entries out of params.yaml, dvc.yaml, prefect.yaml and dvc.lock, with their outputs: ``gridflow drop``."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cnn_core.params import flatten, read_yaml
from flows.entries import document

SETS = ("sample", "ingest", "augment", "compose")  # sections whose entries are sets; those of the others are models
NO_ENTRIES = ("report", "study")  # sections without entries
Entry = tuple[str, str]  # its section and its name
UNPACKED = re.compile(r".+-[0-9a-f]{12}$")  # of `cnn_core.annotations.raw_objects`
DEMO_MODELS = ("digits", "scenes", "detector", "segmenter")  # what the repository ships as its demo
DEMO_SETS = ("digits", "scenes", "numbers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropped:
    """What goes: the stages with their outputs, and why a set stays that the models used."""

    stages: list[str]
    outputs: list[str]
    texts: Mapping[str, str]  # file -> its new text
    kept: list[str]


def plan(root: Path, models: Collection[str], sets: Collection[str], *, only_existing: bool = False) -> Dropped:
    """What dropping these models, and these sets where nothing else needs them, would do; nothing is changed.

    Sets that only the dropped models used go too.

    Args:
        only_existing: names that are not there are no fault.

    Raises:
        ValueError: there is no such entry, or another entry needs one of them.
    """
    params = read_yaml(root / "params.yaml")
    stages = read_yaml(root / "dvc.yaml").get("stages", {})
    names_there = {name for _section, name in _entries(params)}
    if (unknown := [name for name in (*models, *sets) if name not in names_there]) and not only_existing:
        raise ValueError(f"there is no data set or model {unknown[0]!r}; there are {', '.join(sorted(names_there))}")
    gone = {(section, name) for section, name in _entries(params) if section not in SETS and name in models}
    gone |= {(section, name) for section, name in _entries(params) if section in SETS and name in sets}
    gone |= _unused(params, stages, gone)
    products = {path: f"{section}@{name}" for section, name in gone for path in outputs(stages, section, name)}
    for section, name in _entries(params):
        if (section, name) not in gone and (needs := _needed(params, stages, section, name, products)):
            raise ValueError(
                f"{section}@{name} needs {needs[0]}, which {products[needs[0]]} makes: drop {name} first, or both"
            )
    used = {name for section, name in _entries(params) if section in SETS and (section, name) not in gone}
    kept = sorted(used & {params[section][name].get("data") for section, name in gone if section not in SETS})
    names = [f"{section}@{name}" for section, name in sorted(gone)]
    texts = {
        "params.yaml": _params(root, gone, models),
        "dvc.yaml": _graph((root / "dvc.yaml").read_text(), models),
        **({"prefect.yaml": text} if (text := _schedules(root / "prefect.yaml", models)) else {}),
        **({"dvc.lock": text} if (text := _lock(root / "dvc.lock", names)) else {}),
    }
    return Dropped(stages=names, outputs=sorted(products), texts=texts, kept=kept)


def models_of(root: Path) -> set[str]:
    """The names of all entries that are no sets: models, and weights that are only used."""
    return {name for section, name in _entries(read_yaml(root / "params.yaml")) if section not in SETS}


def carry_out(root: Path, dropped: Dropped) -> None:
    """Write the new files and remove the outputs. What DVC has in its cache stays there."""
    for name, text in dropped.texts.items():
        partial = root / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(root / name)
    unpacked = [path for path in root.glob("data/unpacked/*") if UNPACKED.match(path.name)]
    names = {stage.partition("@")[2] for stage in dropped.stages if stage.startswith("ingest@")}
    outputs = [*dropped.outputs, *(str(path) for path in unpacked if path.name.rpartition("-")[0] in names)]
    for path in outputs:
        target = root / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def outputs(stages: Mapping[str, Any], section: str, name: str) -> Iterator[str]:
    """The paths that a stage's entry makes: outputs, metrics and plots."""
    body = stages.get(section, {}).get("do", {})
    for kind in ("outs", "metrics", "plots"):
        for out in body.get(kind, []):
            path = out if isinstance(out, str) else next(iter(out))
            yield path.replace("${key}", name)


def _entries(params: Mapping[str, Any]) -> Iterator[Entry]:
    for section, content in params.items():
        if section not in NO_ENTRIES and isinstance(content, Mapping):
            yield from ((section, name) for name in content)


def _needed(
    params: Mapping[str, Any], stages: Mapping[str, Any], section: str, name: str, products: Collection[str]
) -> list[str]:
    """Which of these paths an entry needs."""
    needs = _inputs(params, stages, section, name)
    return [path for path in products if any(need == path or need.startswith(f"{path}/") for need in needs)]


def _inputs(params: Mapping[str, Any], stages: Mapping[str, Any], section: str, name: str) -> list[str]:
    """The paths that an entry depends on: the deps of its stage, filled."""
    values = dict(flatten(params[section][name], "item.")) if isinstance(params[section][name], Mapping) else {}
    deps = stages.get(section, {}).get("do", {}).get("deps", [])
    filled = [dep.replace("${key}", name) for dep in deps if isinstance(dep, str)]
    return [re.sub(r"\$\{(item\.[\w.]+)\}", lambda match: str(values.get(match[1], "")), dep) for dep in filled]


def _unused(params: Mapping[str, Any], stages: Mapping[str, Any], gone: set[Entry]) -> set[Entry]:
    """The entries of sets that only entries in ``gone`` need, and those that only these are made of."""

    def serves(entry: Entry, others: Iterable[Entry]) -> bool:
        products = list(outputs(stages, *entry))
        return any(_needed(params, stages, *other, products) for other in others)

    unused: set[Entry] = set()
    while True:
        leaving = gone | unused
        rest = [entry for entry in _entries(params) if entry not in leaving]
        more = {entry for entry in rest if entry[0] in SETS and serves(entry, leaving) and not serves(entry, rest)}
        if not more:
            return unused
        unused |= more


def _params(root: Path, gone: Iterable[Entry], models: Collection[str]) -> str:
    paths = [*gone, *(("report", "expected", name) for name in models)]
    text = edited = (root / "params.yaml").read_text()
    for path in paths:
        edited = document.remove(edited, path)

    def change(content: dict[str, Any]) -> None:
        for path in paths:
            document.without(content, path)

    return document.checked(text, edited, change)


def _graph(text: str, models: Collection[str]) -> str:
    """dvc.yaml without the models' artifacts and plots."""
    for name in models:
        text = document.remove(text, ("artifacts", name))
        text = re.sub(rf"(?m)^- {re.escape(name)}-loss:\n(?:    .*\n|  .*\n)*", "", text)
    text = re.sub(r"(?m)^plots:\n(?=\S|\Z)(?!- )", "", text)
    return re.sub(r"(?m)^artifacts: \{\}\n?", "", text)


def _schedules(path: Path, models: Collection[str]) -> str:
    """prefect.yaml without the schedules of these models; empty where nothing changes or there is no such file."""
    if not path.is_file():
        return ""
    text = path.read_text()
    for name in models:
        text = re.sub(
            rf"(?m)^  - slug: [^\n]*\n(?:    [^\n]*\n)*?    parameters: \{{model: {re.escape(name)}\}}\n", "", text
        )
    text = re.sub(r"(?m)^  schedules:\n(?!  - )", "  schedules: []\n", text)
    return text if text != path.read_text() else ""


def _lock(path: Path, stages: Sequence[str]) -> str:
    """dvc.lock without these stages."""
    if not path.is_file():
        return ""
    content = yaml.safe_load(path.read_text()) or {}
    left = {name: entry for name, entry in content.get("stages", {}).items() if name not in stages}
    return yaml.safe_dump(content | {"stages": left}, sort_keys=False, allow_unicode=True, width=10_000)
