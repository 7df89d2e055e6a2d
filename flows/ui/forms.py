"""The fields of the form in the Prefect UI. Empty means: as committed, so a deployment freezes no value."""

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


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


def _empty(schema: dict[str, Any]) -> None:
    """Remove the defaults: with them the form sends empty fields as null, which it then refuses."""
    for field in schema["properties"].values():
        field.pop("default", None)


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

    def overrides(self) -> Iterator[str]:
        for name, field in type(self).model_fields.items():
            if (value := getattr(self, name)) is not None:
                yield f"{field.title}={value}"
