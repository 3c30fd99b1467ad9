"""What the demo refuses before it begins."""

import sys
from pathlib import Path
from typing import Any

import pytest
from offrl_contract import InputError

pytest.importorskip("rclpy", reason="rclpy is not installed: pip install 'offrl[ros]'")
sys.path.append(str(Path(__file__).resolve().parents[2] / "sim"))

from demo import DemoConfig, check

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("episodes", 7),
        ("steps", 1),
        ("drives", 0),
        ("disturbed", 0),
        ("speed", 0.0),
        ("seed", -1),
        ("seed", 100),
    ],
)
def test_what_would_come_to_nothing(tmp_path: Path, option: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^--{option} {value:g}: must be "):
        check(DemoConfig(**{"out": tmp_path, option: value}))


def test_only_a_demo_makes_room_for_a_demo(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for out in (tmp_path, tmp_path / "new"):
        check(DemoConfig(out))
    logs.mkdir()
    drive = logs / "drive.mcap"
    drive.write_text("a user's recording")
    for out in (tmp_path, drive):
        with pytest.raises(InputError, match="holds something else than a demo"):
            check(DemoConfig(out))
    (logs / "01_offrl_record.log").touch()
    check(DemoConfig(tmp_path))


def test_no_recording_reaches_the_scenarios_of_the_drives(tmp_path: Path) -> None:
    check(DemoConfig(tmp_path, seed=99, episodes=10_000))
    with pytest.raises(InputError, match="from 1000000 on"):
        check(DemoConfig(tmp_path, seed=99, episodes=10_001))
