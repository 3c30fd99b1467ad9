"""The node's parameters as `parameters.yaml` has them, in generate_parameter_library's format.

Without ROS, so that tables and checks can be made anywhere. Format:
https://github.com/PickNikRobotics/generate_parameter_library
"""

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal

from offrl_contract.robot import Spec
from offrl_contract.yaml_text import from_yaml
from pydantic import Field

NODE = "offrl_policy"


class Validation(Spec):
    """What values are allowed."""

    bounds: Annotated[tuple[float, float] | None, Field(alias="bounds<>")] = None
    """Lowest and highest."""
    one_of: Annotated[tuple[tuple[str, ...]] | None, Field(alias="one_of<>")] = None
    """The choices, as the one argument of the validator."""


class Parameter(Spec):
    """A parameter of the node."""

    type: Literal["bool", "int", "double", "string"]
    default_value: bool | int | float | str
    description: str
    read_only: bool = False
    """Set when the node starts, or never."""
    validation: Validation = Validation()
    additional_constraints: Literal[
        "",
        "while configured: lower",
        "while configured: higher",
        "while configured: to stop",
        "while configured: to true",
    ] = ""
    """Changes that tighten the gate, and are allowed while the node is configured."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The values allowed; () where there is no list of them."""
        return self.validation.one_of[0] if self.validation.one_of else ()

    def tightens(self, old: Any, new: Any) -> bool:
        """Whether a change leaves the gate at least as strict."""
        if new == old:
            return True
        way = self.additional_constraints.removeprefix("while configured: ")
        return bool(
            (way == "lower" and new < old)
            or (way == "higher" and new > old)
            or (way == "to stop" and new == "stop")
            or (way == "to true" and new is True)
        )


def load() -> dict[str, Parameter]:
    """Return the parameters by name."""
    content = from_yaml(files(NODE).joinpath("parameters.yaml").read_text())
    return {name: Parameter.model_validate(row) for name, row in _flat(content[NODE])}


def _flat(rows: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield parameters by name; those of a group have its name before theirs, and a dot."""
    for name, row in rows.items():
        if "type" in row:
            yield name, row
        else:
            yield from ((f"{name}.{key}", each) for key, each in _flat(row))


PARAMETERS = load()


def table() -> str:
    """Return the README's table."""
    rows = [
        "| parameter | default | range | while configured | meaning |",
        "|---|---|---|---|---|",
    ]
    for name, row in PARAMETERS.items():
        bounds, default = row.validation.bounds, row.default_value
        span = f"{bounds[0]:g} to {bounds[1]:g}" if bounds else ", ".join(row.choices)
        shown = str(default).lower() if isinstance(default, bool) else default
        may = row.additional_constraints.removeprefix("while configured: ")
        may = "read-only" if row.read_only else may or "fixed"
        rows.append(f"| `{name}` | {shown} | {span} | {may} | {row.description} |")
    return "\n".join(rows)
