"""Settings from YAML, checked: errors name the file, the key, the value and what is allowed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from offrl_contract.errors import InputError, nearest
from offrl_contract.yaml_text import from_yaml, where_and_what

M = TypeVar("M", bound=BaseModel)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file whose keys are names. Raises InputError."""
    try:
        content = from_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {where_and_what(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: not a mapping of names to values, such as 'steps: 100000'")
    return content


def validated(kind: type[M], content: Any, where: str) -> M:
    """Return content as a model of some kind. Raises InputError for the first thing wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown_key(where, key, kind.model_fields) from error
        given = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise InputError(f"{where}: {key}: {first['msg']}{given}") from error


def unknown_key(where: str, key: str, allowed: Iterable[str]) -> InputError:
    """Return the error for a key that there is not, with the nearest that there is."""
    return InputError(f"{where}: {key}: unknown key.{nearest(key, allowed)}")
