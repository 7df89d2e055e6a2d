"""The fields of the form in the Prefect UI: what `pipeline` takes, with descriptions, bounds and choices.

All are empty by default, and empty means: as committed. So a deployment freezes no value.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from flows.repository.graph import find_root
from flows.repository.parameters import recipes


def _choices(schema: dict[str, Any]) -> None:
    """The recipes of this checkout, when Prefect asks for the form."""
    try:
        found = recipes(find_root())
    except ValueError:  # the form is asked for outside a checkout
        return
    if found:
        schema["enum"] = found


Empty = SkipJsonSchema[None]  # None, of which the form does not speak: a field to fill, and no choice of types
Recipe = Annotated[str, Field(json_schema_extra=_choices)]
# Checked by the form alone: the command line says it in sentences of its own.
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
Override = Annotated[str, Field(json_schema_extra={"pattern": "=", "examples": ["train.digits.seed=1"]})]


def _empty(schema: dict[str, Any]) -> None:
    """No defaults, or the form sends each empty field as null, which its own check then refuses."""
    for field in schema["properties"].values():
        field.pop("default", None)


class Values(BaseModel):
    """The values that people change most; each field's title is its name in params.yaml."""

    model_config = ConfigDict(extra="forbid", title="Values of params.yaml", json_schema_extra=_empty)

    digits_source: Text | Empty = Field(
        None, title="ingest.digits.source", description="Digits: a folder or .zip with train.csv, or MNIST idx files"
    )
    scenes_source: Text | Empty = Field(
        None, title="ingest.scenes.source", description="Scenes: a folder or .zip with seg_train/CLASS/*.jpg"
    )
    digits_epochs: Annotated[int, Field(ge=1)] | Empty = Field(
        None, title="train.digits.epochs", description="Epochs of the digits' network"
    )
    digits_learning_rate: Annotated[float, Field(gt=0)] | Empty = Field(
        None, title="train.digits.learning_rate", description="Peak of the one-cycle schedule"
    )
    digits_batch_size: Annotated[int, Field(ge=1)] | Empty = Field(
        None, title="train.digits.batch_size", description="Images of a step, over all workers"
    )
    digits_optimizer: Literal["adamw", "sgd"] | Empty = Field(
        None, title="train.digits.optimizer", description="Of the digits' network"
    )
    scenes_epochs: Annotated[int, Field(ge=1)] | Empty = Field(
        None, title="train.scenes.epochs", description="Epochs of the scenes' network"
    )
    scenes_learning_rate: Annotated[float, Field(gt=0)] | Empty = Field(
        None, title="train.scenes.learning_rate", description="Peak of the one-cycle schedule"
    )
    scenes_batch_size: Annotated[int, Field(ge=1)] | Empty = Field(
        None, title="train.scenes.batch_size", description="Images of a step, over all workers"
    )

    def overrides(self) -> Iterator[str]:
        """``train.digits.epochs=3`` for each field that is filled."""
        for name, field in type(self).model_fields.items():
            if (value := getattr(self, name)) is not None:
                yield f"{field.title}={value}"
