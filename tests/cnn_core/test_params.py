"""The parameter loader: every error message has the key's full name, whatever is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from cnn_core.params import Params, bounded, from_mapping, load_section


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Params):
    degrees: float = bounded(0, 180)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Params):
    epochs: int = bounded(1, 100)
    rate: float = bounded(above=0)
    kind: Literal["a", "b"]
    name: str | None
    flag: bool
    sizes: tuple[int, ...]
    inner: Inner


GOOD = {"epochs": 3, "rate": 1, "kind": "a", "name": None, "flag": True, "sizes": [1, 2], "inner": {"degrees": 5}}


def test_a_good_section_becomes_its_dataclass() -> None:
    params = from_mapping(Outer, GOOD, "train.x")
    assert params == Outer(epochs=3, rate=1.0, kind="a", name=None, flag=True, sizes=(1, 2), inner=Inner(degrees=5.0))
    assert isinstance(params.rate, float)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "train.x.epochs must be at least 1 and at most 100, not 0"),
        ({"epochs": 2.5}, "train.x.epochs must be a whole number, not 2.5"),
        ({"epochs": True}, "train.x.epochs must be a whole number, not True"),
        ({"rate": 0}, "train.x.rate must be greater than 0"),
        ({"rate": float("nan")}, "train.x.rate must be greater than 0"),
        ({"rate": "fast"}, "train.x.rate must be a number, not 'fast'"),
        ({"kind": "c"}, "train.x.kind must be one of a, b, not 'c'"),
        ({"flag": 1}, "train.x.flag must be true or false, not 1"),
        ({"name": 7}, "train.x.name must be a text, not 7"),
        ({"sizes": 3}, "train.x.sizes must be a list, not 3"),
        ({"sizes": [1, "b"]}, r"train.x.sizes\[1\] must be a whole number"),
        ({"inner": {"degrees": 181}}, "train.x.inner.degrees must be at least 0 and at most 180, not 181"),
        ({"inner": 3}, "train.x.inner must be a section with keys, not 3"),
        ({"epoch": 3}, r"train.x.epoch is not a parameter; did you mean train.x.epochs\? Allowed in train.x: epochs, "),
        ({"zzz": 3}, r"train.x.zzz is not a parameter\. Allowed in train.x: epochs, rate, "),
    ],
)
def test_a_bad_value_is_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_mapping(Outer, {**GOOD, **change}, "train.x")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"train\.x\.kind is missing"):
        from_mapping(Outer, {key: value for key, value in GOOD.items() if key != "kind"}, "train.x")


def test_a_missing_file_a_missing_section_and_bad_yaml_are_named(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    with pytest.raises(ValueError, match="does not exist"):
        load_section(Inner, "train.x", file)
    file.write_text("train:\n  y: {degrees: 1}\n")
    with pytest.raises(ValueError, match=r"no section 'train\.x'"):
        load_section(Inner, "train.x", file)
    file.write_text("train: [\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_section(Inner, "train.x", file)
