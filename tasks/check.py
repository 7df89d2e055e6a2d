"""Check parameters against the stages' dataclasses before anything runs: ``python -m tasks.check [FILE [STAGE …]]``.

Without a STAGE it checks all of them, which takes seconds, as it imports them all. It prints one line
for each fault and exits with 3 when there is one.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cnn_core.params import from_mapping, read_yaml

TASKS = Path(__file__).parent


def faults(path: str | Path, stages: Collection[str] = ()) -> Iterator[str]:
    """Yield a sentence for each fault in the parameter file: in the sections of ``stages`` (empty = all), and for each
    section that belongs to no stage."""
    try:
        content = read_yaml(path)
    except ValueError as error:
        yield str(error)
        return
    if not isinstance(content, dict):
        yield f"{path} must hold one section for each stage"
        return
    for stage, section in content.items():
        if not (TASKS / f"{stage}.py").is_file():
            nearest = difflib.get_close_matches(str(stage), [file.stem for file in TASKS.glob("*.py")], n=1)
            yield f"{stage} is not a stage" + (f"; did you mean {nearest[0]}?" if nearest else "")
        elif not stages or stage in stages:
            yield from _stage_faults(stage, section)


def _stage_faults(stage: str, section: Any) -> Iterator[str]:
    module = importlib.import_module(f"tasks.{stage}")
    per_set = bool(inspect.signature(module.main).parameters)
    if per_set and not isinstance(section, dict):
        yield f"{stage} must hold one section for each data set"
        return
    for key in section if per_set else [None]:
        name, cls = f"{stage}.{key}" if per_set else stage, module.PARAMS
        values = section[key] if per_set else section
        try:
            if isinstance(cls, dict):  # an entry's content decides which
                cls = module.params_of(values, name)
            from_mapping(cls, values, name)
        except ValueError as error:
            yield str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what is wrong with sections of a file of parameters.")
    parser.add_argument("path", nargs="?", default="params.yaml")
    parser.add_argument("stages", nargs="*", help="the sections; none: all of them")
    options = parser.parse_args()
    sentences = list(faults(options.path, options.stages))
    print("\n".join(sentences))
    sys.exit(3 if sentences else 0)


if __name__ == "__main__":
    main()
