"""The README's parameter table and the shipped parameter file are those of `parameters.yaml`."""

from pathlib import Path

import pytest
import yaml
from offrl_policy.parameter_file import PARAMETERS, table

PACKAGE = Path(__file__).parents[2] / "ros_ws" / "src" / "offrl_policy"


def test_table_is_that_of_the_code() -> None:
    assert table() in (PACKAGE / "README.md").read_text(), f"paste under Parameters:\n{table()}"


def test_shipped_file_has_the_defaults() -> None:
    shipped = yaml.safe_load((PACKAGE / "config" / "policy.yaml").read_text())
    by_argument = {"policy", "mode", "autostart"}  # what the launch file sets
    expected = {name: p.default_value for name, p in PARAMETERS.items() if name not in by_argument}
    assert shipped["/**"]["ros__parameters"] == expected


@pytest.mark.parametrize("name", PARAMETERS)
def test_defaults_are_of_their_type_and_allowed(name: str) -> None:
    row = PARAMETERS[name]
    kind = {"bool": bool, "int": int, "double": float, "string": str}[row.type]
    assert type(row.default_value) is kind
    assert not row.choices or row.default_value in row.choices
    bounds = row.validation.bounds
    assert not bounds or bounds[0] <= row.default_value <= bounds[1]


@pytest.mark.parametrize(
    ("name", "old", "stricter", "looser"),
    [
        ("caution", 0.8, 0.5, 0.9),
        ("release", 0.7, 0.1, 0.8),
        ("dwell", 1.0, 2.0, 0.5),
        ("overruns", 3, 1, 4),
        ("hold_time", 0.5, 0.0, 1.0),
        ("caution_scale", 0.5, 0.2, 0.6),
        ("latch", False, True, None),
        ("latch", True, None, False),
        ("fallback", "topic", "stop", "hold"),
        ("blend_time", 0.3, None, 0.2),
        ("policy", "a", None, "b"),
    ],
)
def test_only_what_tightens_may_change(
    name: str, old: object, stricter: object, looser: object
) -> None:
    row = PARAMETERS[name]
    assert row.tightens(old, old)
    assert stricter is None or row.tightens(old, stricter)
    assert looser is None or not row.tightens(old, looser)
