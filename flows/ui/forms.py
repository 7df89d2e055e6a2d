"""The fields of the form in the Prefect UI. Empty means: as committed, so a deployment freezes no value."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema

from cnn_core.params import read_yaml
from flows.registry.models import read_models
from flows.repository.graph import find_root
from flows.repository.recipes import recipes


class _Choices:
    """Offers names of this checkout as a field's choices, when Prefect asks for the form."""

    def __init__(self, names: Callable[[Path], list[str]]) -> None:
        self._names = names

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        answer = handler(schema)
        with contextlib.suppress(ValueError):  # the form is asked for outside a checkout
            if names := self._names(find_root()):
                answer["enum"] = names
        return answer


# None, which a form leaves out. A field that may be null has a choice of schemas: of a wrong value it says only, with
# the whole of it, that it fits none of them. So the flows' empty fields with a choice or a bound are "", [] or {}.
Empty = SkipJsonSchema[None]
Recipe = Annotated[str, _Choices(lambda root: ["", *names] if (names := recipes(root)) else [])]
ModelName = Annotated[str, _Choices(lambda root: list(read_models(root)))]
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]  # the form alone checks it
Override = Annotated[str, Field(json_schema_extra={"examples": ["train.digits.seed=1"]})]
NOTHING: list[Any] = []


class _Field(NamedTuple):
    """What the form says of a parameter, and what it takes."""

    words: str
    schema: Mapping[str, Any]


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_RATE = {"type": "number", "exclusiveMinimum": 0}
_FIELDS: Mapping[str, Mapping[str, _Field]] = {  # of each section's entries, those that people change most
    "ingest": {"source": _Field("A folder or .zip", _TEXT)},
    "train": {
        "epochs": _Field("Epochs of the training", _COUNT),
        "learning_rate": _Field("Peak of the one-cycle schedule", _RATE),
        "batch_size": _Field("Images of a step, over all workers", _COUNT),
        "optimizer": _Field("Of the network", {"type": "string", "enum": ["adamw", "sgd"]}),
    },
    "train_detector": {
        "source": _Field("A folder with data.yaml, a data.yaml, or a COCO JSON", _TEXT),
        "epochs": _Field("Epochs of the training", _COUNT),
        "lr0": _Field("Peak learning rate", _RATE),
        "batch": _Field("Images at a time", _COUNT),
    },
    "train_segmenter": {
        "source": _Field("A folder with masks, a data.yaml of polygons, or a COCO JSON", _TEXT),
        "epochs": _Field("Epochs of the training", _COUNT),
        "learning_rate": _Field("Peak learning rate", _RATE),
        "batch": _Field("Images of a step", _COUNT),
    },
}
_DOT = "__"  # stands for the dots of a parameter's name, which the form takes for a path of its own


def form_fields(root: Path) -> dict[str, Any]:
    """The JSON schemas of the form's fields for the entries of ``params.yaml``, by parameter, with `_DOT` for dots."""
    content = read_yaml(root / "params.yaml")
    return {
        _DOT.join((section, entry, name)): {
            **field.schema, "title": f"{section}.{entry}.{name}", "description": field.words
        }
        for section, fields in _FIELDS.items()
        for entry, values in (content.get(section) or {}).items()
        for name, field in fields.items()
        if name in values
    }  # fmt: skip


class Values(BaseModel):
    """Parameters by their names in ``params.yaml``, with dots or with ``__``; the form offers those most changed."""

    model_config = ConfigDict(extra="allow", title="Values of params.yaml")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        answer = handler(schema)
        with contextlib.suppress(ValueError):  # the form is asked for outside a checkout
            answer["properties"] = form_fields(find_root())
        answer.pop("additionalProperties", None)  # unknown names are refused by the run, whose sentence has the nearest
        return answer

    def overrides(self) -> Iterator[str]:
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                yield f"{name.replace(_DOT, '.')}={value}"


NO_VALUES = Values()
