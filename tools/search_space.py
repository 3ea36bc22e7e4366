"""The schema of sweep.yaml: what a sweep may change, as strict as params.yaml."""

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from common import params
from common.errors import InputError
from common.params import Count, Section, Seed

import pydantic
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial
from pydantic import Field

from analysis import dvc_lock

# a change of these changes what a figure on val means, or its chance
NOT_SEARCHED = ("data.", "split.", "evaluate.", "train.epochs", "train.seed")


class Values(Section):
    """The values of one parameter: from `low` to `high`, both included, or one of `choices`."""

    low: int | float | None = None  # both integers: integers alone
    high: int | float | None = None
    log: bool = False  # as likely between 0.01 and 0.1 as between 0.1 and 1
    choices: list[pydantic.JsonValue] | None = None

    @pydantic.model_validator(mode="after")
    def _range_or_choices(self) -> "Values":
        given = self.model_dump(exclude_defaults=True).keys() - {"log"}
        if given != {"low", "high"} and (given != {"choices"} or self.log):
            raise ValueError("must have low and high, or choices alone")
        self.distribution()  # which has rules of its own
        return self

    def distribution(self) -> BaseDistribution:
        """As Optuna knows it: choices as JSON, since Optuna knows no lists."""
        if self.choices is not None:
            return CategoricalDistribution([json.dumps(choice) for choice in self.choices])
        kind: Any = IntDistribution if isinstance(self.low, int) and isinstance(self.high, int) else FloatDistribution
        return kind(self.low, self.high, log=self.log)


class Search(Section):
    metric: Literal["accuracy", "macro_f1", "loss", "calibration_error"]  # of metrics/val.json
    trials: Count
    seed: Seed
    epochs: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    space: Annotated[dict[str, Values], Field(min_length=1)]

    @pydantic.field_validator("epochs")
    @classmethod
    def _one_factor(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a or b != a * (epochs[1] // epochs[0]) for a, b in itertools.pairwise(epochs)):
            raise ValueError("must grow by one whole factor, as in [2, 6, 18]")
        return epochs

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        return "minimize" if self.metric in ("loss", "calibration_error") else "maximize"

    def distributions(self) -> dict[str, BaseDistribution]:
        return {key: values.distribution() for key, values in self.space.items()}

    def encoded(self, known: dict[str, Any]) -> dict[str, Any]:
        """The searched ones of these parameters as Optuna stores them; none where one lies outside the space."""
        stored = json.loads(json.dumps({key: known[key] for key in self.space}))  # lists for tuples, as in choices
        try:
            for key, choices in [(key, values.choices) for key, values in self.space.items() if values.choices]:
                stored[key] = json.dumps(choices[choices.index(stored[key])])  # where 0.0 may be written 0
            return create_trial(params=stored, distributions=self.distributions(), value=0.0).params
        except (TypeError, ValueError):
            return {}

    def decoded(self, stored: dict[str, Any]) -> dict[str, Any]:
        """The values of params.yaml for those that Optuna stores."""
        return {key: json.loads(value) if self.space[key].choices else value for key, value in stored.items()}


def load(current: params.Params) -> Search:
    """Reads sweep.yaml, whose values, each and up to three together, must be valid as changes of `current`.

    No rule involves four.

    Raises:
        InputError: the file is missing, is not YAML, or breaks a rule, its own or one of params.yaml.
    """
    search: Search = params.read_yaml(Path("sweep.yaml"), Search)
    known = dvc_lock.leaves(params.read_yaml(Path("params.yaml"), dict[str, Any]))  # DVC changes what stands there
    for key in search.space:
        if key not in known or key.startswith(NOT_SEARCHED):
            raise InputError(
                "sweep.yaml: space must name single parameters of params.yaml other than "
                f"{', '.join(NOT_SEARCHED)}; received {key}"
            )
    # the ends of a range will do: if they pass, all between them do
    extremes = [(key, value) for key, v in search.space.items() for value in v.choices or (v.low, v.high)]
    for chosen in itertools.combinations_with_replacement(extremes, 3):
        try:
            params.changed(current, {"evaluate.parts": ["val"]} | dict(chosen))
        except pydantic.ValidationError as error:
            raise InputError(f"sweep.yaml: space must give valid parameters; {params.first_rule(error)}") from None
    return search
