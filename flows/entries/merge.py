"""Take in a newer Gridflow: merge ``params.yaml`` and ``dvc.yaml`` by their keys, three ways: ``gridflow migrate``.

The newer file is the ground: its comments, its order, its new parameters. What a person changed, added or dropped since
the common ancestor is carried over.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cnn_core.params import flatten
from flows.entries import document
from flows.entries.drop import NO_ENTRIES
from flows.entries.new import TEMPLATES
from flows.repository.former_shape import reshaped
from flows.repository.git import git
from flows.repository.parameters import with_values

PLOT = re.compile(r"(?m)^- ([\w-]+):\n(?:  .*\n)+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged file, and what a person ought to know of it."""

    text: str
    notes: list[str]


def migrate(root: Path) -> list[str]:
    """Resolve a merge's conflicts in params.yaml and dvc.yaml; without a merge, bring params.yaml into today's shape.

    Returns:
        What was done, a line each.

    Raises:
        ValueError: a file of the merge is missing.
    """
    conflicts = git(root, "diff", "--name-only", "--diff-filter=U", "--relative").splitlines()
    done = []
    for name, merge in (("params.yaml", merge_params), ("dvc.yaml", merge_graph)):
        if name in conflicts:
            sides = [git(root, "show", f":{stage}:./{name}") + "\n" for stage in (1, 2, 3)]
            merged = merge(*sides)
            (root / name).write_text(merged.text, encoding="utf-8")
            git(root, "add", name)
            done += [f"{name}: merged by its keys", *(f"  {note}" for note in merged.notes)]
    path = root / "params.yaml"
    if "params.yaml" not in conflicts and (text := reshaped(path.read_text())) != path.read_text():
        path.write_text(text, encoding="utf-8")
        done.append("params.yaml: the parameters of compose, detection, segmentation, read and baselines got names")
    return done


def merge_params(base: str, ours: str, theirs: str) -> Merged:
    """Merge ``params.yaml``; former shapes are brought into today's first."""
    base, ours, theirs = (reshaped(text) for text in (base, ours, theirs))
    before, mine, new = (yaml.safe_load(text) or {} for text in (base, ours, theirs))
    text, notes, changes = theirs, list[str](), dict[str, Any]()
    for section, name in {
        **dict.fromkeys(_entries(before)),
        **dict.fromkeys(_entries(mine)),
        **dict.fromkeys(_entries(new)),
    }:
        was, has, comes = (_at(content, section, name) for content in (before, mine, new))
        if has is None and was is not None:
            text = document.remove(text, (section, name))
        elif comes is None and has is not None and (was is None or has != was):
            text = document.insert(text, (section,), document.block(ours, (section, name)))
            changes |= {f"{section}.{name}.{key}": value for key, value in _later(section, has).items()}
        elif has is not None and comes is not None:
            prefix = f"{section}.{name}."
            others = [part for part in has if _other_kind(has[part], comes.get(part))]
            for part in others:  # its parameters are others, too
                text = document.remove(text, (section, name, part))
                text = document.insert(text, (section, name), document.block(ours, (section, name, part)))
            formerly, now = dict(flatten(was or {}, prefix)), dict(flatten(comes, prefix))
            for key, value in _changed(prefix, was or {}, has).items():
                if key.removeprefix(prefix).partition(".")[0] in others:
                    continue
                if key in now or key not in formerly:
                    changes[key] = value
                else:
                    notes.append(f"{key} is no longer a parameter: your value {value!r} is left out")
    for model in _expected(before).keys() - _expected(mine).keys():
        text = document.remove(text, ("report", "expected", model))
    for section in NO_ENTRIES:
        changes |= _changed(f"{section}.", before.get(section) or {}, mine.get(section) or {})
    text, lost = with_values(text, changes)
    notes += [f"{key} is no longer a parameter: your value {changes[key]!r} is left out" for key in lost]
    return Merged(text=text, notes=notes)


def merge_graph(base: str, ours: str, theirs: str) -> Merged:
    """Merge ``dvc.yaml``: the newer stages, with the artifacts and plots that a person added or dropped."""
    before, mine, new = (yaml.safe_load(text) or {} for text in (base, ours, theirs))
    text = theirs
    for name in {**(before.get("artifacts") or {}), **(mine.get("artifacts") or {})}:
        was, has, comes = (name in (content.get("artifacts") or {}) for content in (before, mine, new))
        if was and not has:
            text = document.remove(text, ("artifacts", name))
        elif has and not comes and not was:
            text = document.insert(text, ("artifacts",), document.block(ours, ("artifacts", name)))
    plots = [{match[1]: match[0] for match in PLOT.finditer(each)} for each in (base, ours)]
    for name in plots[0].keys() - plots[1].keys():
        text = re.sub(rf"(?m)^- {re.escape(name)}:\n(?:  .*\n)+", "", text)
    for name in [name for name in plots[1] if name not in plots[0] and f"\n- {name}:\n" not in text]:
        head, there, rest = text.partition("\nplots:\n")
        text = f"{head}\nplots:\n{plots[1][name]}{rest}" if there else f"{text.rstrip()}\nplots:\n{plots[1][name]}"
    text = re.sub(r"(?m)^plots:\n(?=[a-z]|\Z)", "", text)
    text = re.sub(r"(?m)^artifacts: \{\}\n?", "", text)
    notes = (
        [] if mine.get("stages") == before.get("stages") else ["your changes of its stages are left out: see git diff"]
    )
    return Merged(text=text, notes=notes)


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for section, entries in content.items():
        if section not in NO_ENTRIES and isinstance(entries, Mapping):
            yield from ((section, name) for name in entries)


def _expected(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return (content.get("report") or {}).get("expected") or {}


def _at(content: Mapping[str, Any], section: str, name: str) -> Any:
    return (content.get(section) or {}).get(name)


def _changed(prefix: str, was: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves that differ, by full key."""
    before = dict(flatten(was, prefix))
    return {key: value for key, value in flatten(has, prefix) if key not in before or before[key] != value}


def _later(section: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that came after an entry was written, with the values that a new one would have."""
    for path in sorted(TEMPLATES.glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        values = next(iter((content.get(section) or {}).values()), None)
        if values and _kind(values) == _kind(entry):
            have = dict(flatten(entry))
            return {key: value for key, value in flatten(values) if key not in have and "$" not in str(value)}
    return {}


def _other_kind(has: Any, comes: Any) -> bool:
    """Whether a person chose another network or kind of augmentation than the newer file has, so other parameters."""
    if not (isinstance(has, Mapping) and isinstance(comes, Mapping)):
        return False
    return any(has.get(key) != comes.get(key) for key in ("architecture", "kind"))


def _kind(values: Mapping[str, Any]) -> Any:
    """What tells the templates of a section from each other."""
    model = values.get("model")
    return model.get("architecture") if isinstance(model, Mapping) else values.get("kind")
