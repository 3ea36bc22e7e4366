"""params.yaml and its one schema: strict and frozen, with every value in the file.

Only keys added later have a default, the earlier behaviour, so that older files stay valid.

A stage calls `load()` and passes on the values it needs. The file is YAML 1.2, as DVC reads it, so `1e-3` is a number.
"""

import functools
import operator
from pathlib import Path
from typing import Annotated, Any, Literal

from common.errors import InputError, first_line, shorten

import pydantic
from pydantic import ConfigDict, Field
from ruamel.yaml import YAML

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Rows = Annotated[int, Field(ge=0)]
Optimizer = Literal["sgd", "adam", "adamw", "adamax", "adagrad", "adadelta", "rmsprop", "nadam", "lion", "muon"]
NORMALISING = ("adam", "adamw", "adamax", "nadam", "rmsprop", "lion")  # a step's length is not the gradient's
Fraction = Annotated[float, Field(ge=0, le=1)]


def _rows_or_share(value: Any) -> int | float:
    if not (type(value) is int and value >= 0) and not (type(value) is float and 0 < value < 1):
        raise ValueError(f"must be a number of rows, or a share between 0 and 1; received {shorten(value)}")
    return value


class Section(pydantic.BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Synthetic(Section):
    train_images: Annotated[int, Field(ge=10, le=1_000_000)]
    test_images: Annotated[int, Field(ge=10, le=1_000_000)]
    seed: Seed


class Data(Section):
    source: Literal["fashion-mnist", "csv", "folder", "idx", "synthetic"]
    height: Annotated[int, Field(ge=8, le=512)]
    width: Annotated[int, Field(ge=8, le=512)]
    channels: int
    synthetic: Synthetic

    @pydantic.model_validator(mode="after")
    def _shape_fits(self) -> "Data":
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3; received {self.channels}")
        shape = (self.height, self.width, self.channels)
        if self.source in ("fashion-mnist", "csv", "synthetic") and shape != (28, 28, 1):
            raise ValueError(
                f"height, width and channels must be 28, 28 and 1 for source {self.source}; "
                f"received {', '.join(map(str, shape))}"
            )
        if self.source == "idx" and self.channels != 1:
            raise ValueError("channels must be 1 for source idx; received 3")
        return self


class Split(Section):
    train_size: Count | None
    val_size: Annotated[int | float, pydantic.PlainValidator(_rows_or_share)]
    seed: Seed
    train_slice: Annotated[tuple[Rows, ...], Field(strict=False, min_length=2, max_length=2)] | None = None
    group_duplicates: bool = False


class Model(Section):
    architecture: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # a file name, never a path
    options: dict[str, dict[str, Any]]  # by architecture


class Augmentation(Section):
    flip: Literal["none", "random", "alternating"]
    shift: Annotated[int, Field(ge=0, le=8)]
    cutout: Annotated[int, Field(ge=0, le=28)]
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ProgressiveResizing(Section):
    scale: Annotated[float, Field(gt=0, le=1)]
    share: Annotated[float, Field(ge=0, lt=1)]


class Train(Section):
    seed: Seed
    epochs: Count
    batch_size: Count
    least_steps: Count = 1
    optimizer: Optimizer
    optimizer_options: dict[Optimizer, dict[str, Annotated[float | bool | None, Field(union_mode="left_to_right")]]]
    learning_rate: Annotated[float, Field(gt=0)] | None  # None: as the optimizer's options or Keras have it
    schedule: Literal["constant", "linear", "cosine"]
    warmup: Fraction
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    averaging: Annotated[float, Field(ge=0, lt=1)]
    keep: Literal["last", "best"]
    early_stopping: Count | None
    reduce_on_plateau: Count | None
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    plateau_floor: Annotated[float, Field(ge=0)] = 0.0
    rate_falls: Annotated[tuple[Count, ...], Field(strict=False)] = ()
    normalisation: Literal["standard", "unit"]
    augmentation: Augmentation
    data_pruning: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    progressive_resizing: ProgressiveResizing = ProgressiveResizing(scale=1.0, share=0.0)
    shards: Annotated[int, Field(ge=1, le=1024)] = 1
    precision: Literal["float32", "bfloat16"]
    device: Literal["auto", "cpu", "cuda"]

    @pydantic.model_validator(mode="after")
    def _rate_fits(self) -> "Train":
        options = self.optimizer_options.get(self.optimizer, {})
        rate = self.learning_rate or options.get("learning_rate") or 0
        if not self.learning_rate and options.get("learning_rate") == 0:
            raise ValueError(f"{self.optimizer}'s learning_rate must be above 0; received 0")
        if wrong := [value for value in (rate, *options.values()) if not 0 <= (value or 0) <= 1e6]:
            raise ValueError(f"learning_rate and {self.optimizer}'s options must be from 0 to 1e6; received {wrong[0]}")
        if factor := options.get("loss_scale_factor"):
            raise ValueError(f"loss_scale_factor must be null: no loss is scaled here; received {factor}")
        if self.optimizer in NORMALISING and rate > 0.1:
            raise ValueError(f"learning_rate must be at most 0.1 for {self.optimizer} (try 0.001); received {rate}")
        return self


class Evaluate(Section):
    parts: Annotated[tuple[Literal["val", "test"], ...], Field(min_length=1, strict=False)]


class Params(Section):
    data: Data
    split: Split
    model: Model
    train: Train
    evaluate: Evaluate

    @pydantic.model_validator(mode="after")
    def _fit_together(self) -> "Params":
        train = self.train
        if self.split.val_size == 0:
            for key, needs_val in {
                "train.keep: best": train.keep == "best",
                "train.early_stopping": train.early_stopping is not None,
                "train.reduce_on_plateau": train.reduce_on_plateau is not None,
                "evaluate.parts: val": "val" in self.evaluate.parts,
            }.items():
                if needs_val:
                    raise ValueError(f"{key} must come with val rows; received split.val_size 0")
        for key, is_set in {"reduce_on_plateau": train.reduce_on_plateau, "rate_falls": train.rate_falls}.items():
            if is_set and train.schedule != "constant":
                raise ValueError(f"train.{key} must come with train.schedule: constant; received {train.schedule}")
        return self


def small_epochs(resizing: ProgressiveResizing, epochs: int) -> int:
    """How many of the epochs, the first ones, have smaller images; of 90, a share of 0.7 is 63, not 62.99."""
    return int(resizing.share * epochs + 1e-9) * (resizing.scale < 1)


def load(path: Path = Path("params.yaml")) -> Params:
    """The parameters of the working directory; errors are those of `read_yaml`."""
    return read_yaml(path, Params)


def read_yaml(path: Path, schema: Any) -> Any:
    """The content of a YAML 1.2 file, validated by `schema`, a type that pydantic accepts.

    Raises:
        InputError: the file is missing, is not YAML, or breaks a rule of the schema; the message is `first_rule`.
    """
    try:
        content = YAML(typ="safe").load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path} must be a file in the working directory; received: {error.strerror}") from None
    except Exception as error:  # tags and odd scalars make the parser raise much besides YAMLError
        where = getattr(error, "problem_mark", None)
        line = f" on line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise InputError(f"{path} must be valid YAML in UTF-8; received {reason}{line}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold sections of keys and values; received {shorten(content)}")
    try:
        return pydantic.TypeAdapter(schema).validate_python(content)
    except pydantic.ValidationError as error:
        raise InputError(f"{path}: {first_rule(error)}") from None


def changed(current: Params, changes: dict[str, Any]) -> Params:
    """`current` with other values for keys such as `train.epochs`; raises pydantic.ValidationError for a broken rule."""
    content = current.model_dump()
    set_keys(content, changes)
    return Params.model_validate(content)


def set_keys(content: Any, changes: dict[str, Any]) -> None:
    """Sets values in nested mappings in place; keys as in `train.epochs`."""
    for key, value in changes.items():
        *sections, name = key.split(".")
        functools.reduce(operator.getitem, sections, content)[name] = value


def first_rule(error: pydantic.ValidationError) -> str:
    """The first broken rule, with its key and the value received."""
    first = error.errors()[0]
    rule = first["msg"].removeprefix("Value error, ").replace("tuple", "list")  # as YAML calls it
    rule = rule[0].lower() + rule[1:]
    if not first["loc"]:  # a rule over several sections names its keys itself
        return rule
    key = ".".join(repr(str(part))[1:-1] for part in first["loc"] if part != "float")  # of a union
    # a rule over several keys of one section has already said what it received
    complete = first["type"] == "missing" or "; received " in rule
    return f"{key}: {rule}" if complete else f"{key}: {rule}; received {shorten(first['input'])}"
