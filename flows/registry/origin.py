"""What made a model: the parameters of its run, which dvc.lock has, and the commit of its code, which its folder names.

A checkout that was edited after the run has others, and these did not make the model.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cnn_core.locks import temporary_folder
from cnn_core.params import flatten
from cnn_core.reporting.former import changed_keys
from flows.registry.models import Model
from flows.repository.git import git, resolve, with_file
from flows.repository.graph import read_graph
from flows.repository.parameters import patch_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    tree: str  # of git: code, parameters and dvc.lock
    commit: str  # whose code it is
    differences: list[str]  # a sentence for each thing in which the checkout or the run differs


def trained_by(folder: Path) -> str:
    """The commit of the code that trained the model in ``folder``; empty where model.json does not say."""
    path = folder / "model.json"
    return str(json.loads(path.read_text()).get("git_commit") or "") if path.is_file() else ""


def origin(root: Path, tree: str, commit: str, model: Model, folder: Path, *, of_checkout: bool) -> Origin:
    """Find what made a model.

    Args:
        tree: of the run, as the checkout or the commit has it now.
        commit: that the tree stands on.
        folder: of the model, out of DVC's cache.
        of_checkout: whether the tree is the checkout's, whose code may have changed since.
    """
    differences = []
    if of_checkout and (changed := "; ".join(_changed_code(root, model))):
        trained, sentence = trained_by(folder), f"the checkout has changed since {model.name} was trained ({changed})"
        try:
            commit = resolve(root, trained)
            tree = with_file(root, f"{commit}^{{tree}}", "dvc.lock", git(root, "show", f"{tree}:./dvc.lock") + "\n")
            differences.append(f"{sentence}: recorded is the code of the commit {commit[:10]}, which the model names")
        except ValueError:
            differences.append(
                f"{sentence}, and the model names no commit that is here: recorded is the code as it is now"
            )
    tree, sentences = _with_params_of_the_run(root, tree, model)
    return Origin(tree=tree, commit=commit, differences=[*differences, *sentences])


def _changed_code(root: Path, model: Model) -> Iterator[str]:
    """What changed, but parameters, of what the model's stage and those before it depend on."""
    for node in read_graph(root, [model.train]):
        kinds = dict(part.partition(": ")[::2] for part in node.reason.split("; "))
        changed = [path for path in kinds.get("deps", "").split(", ") if path and path != "params.yaml"]
        if changed or "command" in kinds:
            yield f"{node.name}: {', '.join(changed) or 'its command'}"


def _with_params_of_the_run(root: Path, tree: str, model: Model) -> tuple[str, list[str]]:
    """The tree with the parameters by which the model was made and measured, and a sentence where they differ."""
    stages = yaml.safe_load(git(root, "show", f"{tree}:./dvc.lock"))["stages"]
    text = git(root, "show", f"{tree}:./params.yaml") + "\n"
    values = yaml.safe_load(text) or {}
    now, then = dict(flatten(values)), dict[str, Any]()
    for name in _made_of(stages, {model.folder, model.metrics}):
        for param, value in stages[name].get("params", {}).get("params.yaml", {}).items():
            leaves = dict(flatten(value, f"{param}.")) if isinstance(value, Mapping) else {param: value}
            then |= {key: leaves[key] for key in changed_keys(param, value, values) if key in leaves and key in now}
    if not then:
        return tree, []
    with temporary_folder() as folder:
        path = folder / "params.yaml"
        path.write_text(text, encoding="utf-8")
        patch_params(path.parent, None, [f"{key}={json.dumps(value)}" for key, value in then.items()], check=False)
        tree = with_file(root, tree, "params.yaml", path.read_text(encoding="utf-8"))
    changes = ", ".join(f"{key}: {value} then, {now[key]} now" for key, value in then.items())
    return tree, [f"params.yaml has changed since {model.name} was made ({changes}): recorded are the values of then"]


def _made_of(stages: Mapping[str, Any], paths: set[str]) -> list[str]:
    """The stages of dvc.lock that made these outputs, and those that made what these were made of."""
    makers = {out["path"]: name for name, entry in stages.items() for out in entry.get("outs", [])}
    found: dict[str, None] = {}
    waiting = [makers[path] for path in sorted(paths) if path in makers]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += [makers[dep["path"]] for dep in stages[name].get("deps", []) if dep["path"] in makers]
    return list(found)
