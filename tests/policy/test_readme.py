"""The README's parameter table and the shipped parameter file are those of the code."""

from pathlib import Path

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install 'offrl[ros]'")

from offrl_policy.parameters import _PARAMETERS  # noqa: E402

PACKAGE = Path(__file__).parents[2] / "ros_ws" / "src" / "offrl_policy"


def table() -> str:
    """Every parameter of the node."""
    rows = ["| parameter | default | range | meaning |", "|---|---|---|---|"]
    for name, (default, low, high, text) in _PARAMETERS.items():
        span = "" if low is None else f"{low:g} to {high:g}"
        shown = str(default).lower() if isinstance(default, bool) else default
        rows.append(f"| `{name}` | {shown} | {span} | {text} |")
    return "\n".join(rows)


def test_table_is_that_of_the_code() -> None:
    assert table() in (PACKAGE / "README.md").read_text(), f"paste under Parameters:\n{table()}"


def test_shipped_file_has_the_defaults() -> None:
    shipped = yaml.safe_load((PACKAGE / "config" / "policy.yaml").read_text())
    by_argument = {"policy", "mode", "autostart"}  # what the launch file sets
    expected = {name: row[0] for name, row in _PARAMETERS.items() if name not in by_argument}
    assert shipped["/**"]["ros__parameters"] == expected
