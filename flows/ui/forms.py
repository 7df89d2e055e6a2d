"""The fields of the form in the Prefect UI. Empty means: as committed, so a deployment freezes no value."""

import contextlib
import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema

from flows.registry.models import read_models
from flows.repository.graph import find_root
from flows.repository.parameters import recipes


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


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


def _empty(schema: dict[str, Any]) -> None:
    """Remove the defaults: with them the form sends empty fields as null, which it then refuses.

    Unknown fields are refused by the run, whose sentence has the nearest name.
    """
    for field in schema["properties"].values():
        field.pop("default", None)
    schema.pop("additionalProperties", None)


def _field(title: str, description: str) -> Any:
    return Field(None, title=title, description=description)


class Values(BaseModel):
    """The parameters that people change most; a field's title is its name in params.yaml."""

    model_config = ConfigDict(extra="forbid", title="Values of params.yaml", json_schema_extra=_empty)

    digits_source: Text | Empty = _field("ingest.digits.source", "A folder or .zip with train.csv, or MNIST idx files")
    scenes_source: Text | Empty = _field("ingest.scenes.source", "A folder or .zip with seg_train/CLASS/*.jpg")
    digits_epochs: Count | Empty = _field("train.digits.epochs", "Epochs of the digits' network")
    digits_learning_rate: Rate | Empty = _field("train.digits.learning_rate", "Peak of the one-cycle schedule")
    digits_batch_size: Count | Empty = _field("train.digits.batch_size", "Images of a step, over all workers")
    digits_optimizer: Literal["adamw", "sgd"] | Empty = _field("train.digits.optimizer", "Of the digits' network")
    scenes_epochs: Count | Empty = _field("train.scenes.epochs", "Epochs of the scenes' network")
    scenes_learning_rate: Rate | Empty = _field("train.scenes.learning_rate", "Peak of the one-cycle schedule")
    scenes_batch_size: Count | Empty = _field("train.scenes.batch_size", "Images of a step, over all workers")

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, data: Any) -> Any:
        names = list(cls.model_fields)
        for name in data if isinstance(data, dict) else ():
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"its fields are {', '.join(names)}"
                raise ValueError(f"values has no field {name}; {hint}")
        return data

    @model_serializer(mode="wrap")
    def _without_empty(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if value is not None}

    def overrides(self) -> Iterator[str]:
        for name, field in type(self).model_fields.items():
            if (value := getattr(self, name)) is not None:
                yield f"{field.title}={value}"


NO_VALUES = Values()
