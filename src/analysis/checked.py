"""YAML files that people write, held against their rules."""

from pathlib import Path
from typing import Any

import pydantic
from ruamel.yaml import YAML

from common import params
from common.errors import InputError


def read(path: Path, form: Any) -> Any:
    """The content of `path` as a `form`, a type that pydantic knows.

    Raises:
        InputError: the file is missing, is not YAML, or breaks a rule of its form.
    """
    try:
        content = YAML(typ="safe").load(path.read_text("utf-8"))
    except Exception as error:  # tags and odd scalars make the parser raise much besides YAMLError
        reason = " ".join(str(error).split())
        raise InputError(f"{path} must be there and be YAML; received: {reason}") from None
    try:
        return pydantic.TypeAdapter(form).validate_python(content)
    except pydantic.ValidationError as error:
        raise InputError(f"{path}: {params.first_rule(error)}") from None
