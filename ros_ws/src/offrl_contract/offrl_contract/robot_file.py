"""Reading robot files, with errors that name the key and the nearest allowed one."""

import difflib
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from offrl_contract.errors import InputError, nearest
from offrl_contract.robot import Robot, Spec
from offrl_contract.yaml_text import from_yaml, where_and_what


def robot_from_yaml(text: str, source: str) -> Robot:
    """Build a robot from YAML text; `source` names it in errors. Raises InputError."""
    try:
        content = from_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not YAML: {where_and_what(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{source}: a robot file is a mapping with robot, rate, observation, ...")
    try:
        return Robot.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        inner = {entry["loc"][:depth] for entry in found for depth in range(len(entry["loc"]))}
        lines = [f"{source}: {_explain(e)}" for e in found if not e["loc"] or e["loc"] not in inner]
        raise InputError("\n".join(dict.fromkeys(lines))) from error
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def load_robot(file: str | Path) -> Robot:
    """Load a robot file, or a shipped one by its name. Raises InputError."""
    path = Path(file)
    if os.path.isfile(path):
        try:
            return robot_from_yaml(path.read_text(), path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
    shipped = {
        entry.name.removesuffix(".yaml"): entry
        for entry in files("offrl_contract").joinpath("robots").iterdir()
        if entry.name.endswith(".yaml")
    }
    if str(file) in shipped:
        return robot_from_yaml(shipped[str(file)].read_text(), f"{file}.yaml")
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; a robot file is one YAML file")
    raise InputError(
        f"{file}: no such robot file, and no shipped robot of this name."
        f"{nearest(str(file), shipped)}"
    )


def require_same(expected: Robot, given: Robot, expected_name: str, given_name: str) -> None:
    """Raise InputError with the first differing line unless both robots have one digest."""
    if expected.digest() == given.digest():
        return
    mine, theirs = expected.to_yaml().splitlines(), given.to_yaml().splitlines()
    blocks = difflib.SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes()
    _, i, i_end, j, j_end = next(block for block in blocks if block[0] != "equal")
    lines = [f"- {line}" for line in mine[i:i_end][:1]]
    lines += [f"+ {line}" for line in theirs[j:j_end][:1]]
    raise InputError(
        f"{given_name} was made with another robot file than {expected_name} "
        f"({given.digest()} against {expected.digest()}). First difference "
        f"(- {expected_name}, + {given_name}):\n  " + "\n  ".join(lines)
    )


def _explain(entry: Any) -> str:
    """Turn one pydantic error into `observation[0].feild: unknown key. Did you mean 'field'?`."""
    location = entry["loc"]
    where = ""
    for part in location:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key.{nearest(str(location[-1]), _keys_at(location[:-1]))}"
    if entry["type"] == "missing":
        return f"{where}: missing."
    if entry["type"] == "value_error":
        return f"{where}: {entry['ctx']['error']}".removeprefix(": ")
    return f"{where}: {entry['msg']}, got {entry['input']!r}."


def _keys_at(location: tuple[int | str, ...]) -> set[str]:
    """Return the keys allowed at a location of the robot file."""
    model: type[Spec] = Robot
    for part in location:
        if isinstance(part, str):
            model = next(_models_in(model.model_fields[part].annotation))
    return set(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[Spec]]:
    """Yield the parts of a robot file that an annotation names, as tuple[Signal, ...] does."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for each in get_args(annotation):
        yield from _models_in(each)
