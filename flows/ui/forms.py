"""The fields of the form in the Prefect UI, with descriptions, bounds and choices.

All are empty by default, and empty means: as committed. So a deployment freezes no value.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from flows.repository.graph import find_root
from flows.repository.parameters import recipes


def _choices(schema: dict[str, Any]) -> None:
    """Offer the recipes of this checkout as choices, when Prefect asks for the form."""
    try:
        names = recipes(find_root())
    except ValueError:  # the form is asked for outside a checkout
        return
    if names:
        schema["enum"] = names


# None, which the form leaves out: it shows a field to fill, and no choice of types.
Empty = SkipJsonSchema[None]
Recipe = Annotated[str, Field(json_schema_extra=_choices)]
# The form alone checks these; the command line has messages of its own.
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
Override = Annotated[str, Field(json_schema_extra={"pattern": "=", "examples": ["train.digits.seed=1"]})]


def _empty(schema: dict[str, Any]) -> None:
    """Remove the defaults: with them the form sends empty fields as null, which it then refuses."""
    for field in schema["properties"].values():
        field.pop("default", None)


class Values(BaseModel):
    """The parameters that people change most; a field's title is its name in params.yaml."""

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
        """Give an override, such as ``train.digits.epochs=3``, for each field that is filled."""
        for name, field in type(self).model_fields.items():
            if (value := getattr(self, name)) is not None:
                yield f"{field.title}={value}"
