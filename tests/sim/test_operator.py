"""The demo's operator: when an episode is disturbed, and what counts as a stop of the gate."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install 'offrl[ros]'")
sys.path.append(str(Path(__file__).resolve().parents[2] / "sim"))

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue  # noqa: E402
from operator_node import DISTURB_AFTER, Drive, Operator, operator  # noqa: E402

pytestmark = pytest.mark.ros
TICK = 10**8


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with operator() as node:
        yield node


def tell(node: Operator, *states: str) -> None:
    for tick, state in enumerate(states):
        values = [KeyValue(key="state", value=state), KeyValue(key="tick [ns]", value=str(tick))]
        node._on_gate(DiagnosticStatus(values=values))


@pytest.mark.parametrize(
    ("states", "begun"),
    [
        (("STOP", "NOMINAL", "CAUTION", "NOMINAL"), 1),
        (("STOP", "FALLBACK", "NOMINAL"), 2),
        (("STOP", "CAUTION", "NOMINAL"), 2),
        (("CAUTION", "NOMINAL"), None),
    ],
)
def test_an_episode_is_disturbed_once_the_policy_drives(
    watching: Operator, states: tuple[str, ...], begun: int | None
) -> None:
    """Also where the gate still waits for calm, from the episode before."""
    tell(watching, *states)
    expected = None if begun is None else begun + round(DISTURB_AFTER * 1e9)
    assert watching._disturb_at == expected


@pytest.mark.parametrize(
    ("states", "falls_back"),
    [
        (["STOP", "FALLBACK", "NOMINAL"], False),
        (["STOP", "NOMINAL", "FALLBACK"], True),
        (["STOP", "FALLBACK"], True),
        (["STOP", "NOMINAL", "CAUTION"], False),
    ],
)
def test_only_a_policy_that_drove_is_stopped(states: list[str], falls_back: bool) -> None:
    report = {"start": 0, "period": TICK, "path": [[0.0, 0.0]] * (len(states) + 1)}
    drive = Drive(report, [(tick * TICK, state) for tick, state in enumerate(states)])
    assert drive.falls_back is falls_back
