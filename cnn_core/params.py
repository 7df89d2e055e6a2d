"""Read a stage's section of a parameter file into the frozen dataclass that stands beside the code it configures.

``params.yaml`` holds every value, the dataclass every type and bound, and a default only for a parameter that came
later than people's files. Each error message names the key in full and says what is allowed. The conversion is written
by hand, as pydantic's import adds 0.16 s to the start of every stage, and ``cnn_core`` has to run where it is not
installed.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

T = TypeVar("T")
Precision = Literal["auto", "float32", "bfloat16"]  # what a network computes in; see `cnn_core.devices.autocast_dtype`
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def bounded(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Any:
    """Declare a dataclass field whose number lies in ``[low, high]`` (or is greater than ``above``)."""
    return dataclasses.field(metadata={"low": low, "high": high, "above": above})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """The base of every parameter dataclass, which checks the bounds of its fields."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_bounds(field, getattr(self, field.name))


def load_section(cls: type[T], section: str, path: str | Path = "params.yaml") -> T:
    """Return a section, such as ``train.digits``, of the YAML file at ``path`` as an instance of ``cls``.

    Raises:
        ValueError: the section is missing, or a key of it is unknown, missing, of the wrong type or out of bounds.
    """
    node: Any = read_yaml(path)
    for depth, key in enumerate(section.split("."), start=1):
        if not isinstance(node, Mapping) or key not in node:
            raise ValueError(f"{path} has no section {'.'.join(section.split('.')[:depth])!r}, which {section} needs")
        node = node[key]
    return from_mapping(cls, node, section)


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file; raises ValueError if it does not exist or is not YAML."""
    try:
        return yaml.safe_load(Path(path).read_text()) or {}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run from the repository's root, where it lies") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def flatten(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested sections by their full names: ``[("train.digits.epochs", 16), ...]``."""
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        pairs += flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs


def from_mapping(cls: type[T], values: Any, name: str) -> T:
    """Return ``cls(**values)``; raises ValueError if a key is unknown, missing, of the wrong type or out of bounds."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be a section with keys, not {values!r}")
    kinds = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # `cls` is any dataclass
    keys = [field.name for field in fields]
    later = {field.name for field in fields if field.default is not dataclasses.MISSING}
    for key in values:
        if key not in keys:
            nearest = difflib.get_close_matches(str(key), keys, n=1)
            hint = f"; did you mean {name}.{nearest[0]}?" if nearest else "."
            raise ValueError(f"{name}.{key} is not a parameter{hint} Allowed in {name}: {', '.join(keys)}")
    for key in keys:
        if key not in values and key not in later:
            raise ValueError(f"{name}.{key} is missing")
    converted = {key: _convert(kinds[key], values[key], f"{name}.{key}") for key in keys if key in values}
    try:
        return cls(**converted)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None


def _convert(kind: Any, value: Any, name: str) -> Any:
    """Return a YAML value as ``kind``: a class, a dataclass, a ``Literal``, a ``tuple`` or one of these ``| None``."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{name} must be one of {', '.join(map(str, args))}, not {value!r}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, name)
    if origin is tuple:
        return _convert_list(args, value, name)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a section with keys, not {value!r}")
        return {str(key): _convert(args[1], item, f"{name}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return from_mapping(typing.cast(type, kind), value, name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} must be {_KINDS.get(kind, kind)}, not {value!r}")
    return value


def _convert_list(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {value!r}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{name} must be a list of {len(kinds)} values, not {value!r}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_convert(kind, item, f"{name}[{index}]") for index, (kind, item) in pairs)


def _check_bounds(field: dataclasses.Field[Any], value: Any) -> None:
    low, high, above = (field.metadata.get(key) for key in ("low", "high", "above"))
    if value is None or (low is None and high is None and above is None):
        return
    inside = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
    if not inside:  # a NaN is outside any bounds, as every comparison with it is false
        floor = f"greater than {above}" if above is not None else f"at least {low}" if low is not None else ""
        ceiling = f"at most {high}" if high is not None else ""
        raise ValueError(f"{field.name} must be {' and '.join(filter(None, (floor, ceiling)))}, not {value}")
