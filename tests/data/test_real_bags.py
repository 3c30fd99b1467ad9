"""The real recordings: rows against rosbags, and figures worked out once by hand."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from offrl_contract import load_robot
from offrl_contract.cli import run
from offrl_contract.sampling import nanoseconds
from offrl_data.bags import Bag
from offrl_data.dataset import load_dataset
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

NEATO = (
    "neato_drive_square",
    "neato_finite_state",
    "neato_obstacle_avoider",
    "neato_person_follower",
    "neato_teleop",
)


def convert(bags: list[Path], robot: str, msgs: Path, out: Path) -> None:
    paths = [str(bag) for bag in bags]
    assert run(["convert", *paths, "--robot", robot, "--msgs", str(msgs), "--out", str(out)]) == 0


def test_neato_recordings_give_rows(bags: Path, msgs: Path, tmp_path: Path) -> None:
    out = tmp_path / "neato.h5"
    convert([bags / name for name in NEATO], "neato", msgs, out)
    data = load_dataset(out)
    kept = {report["bag"]: report["transitions"] for report in data.metadata["report"]}
    assert set(kept) == set(NEATO)
    assert all(count > 100 for count in kept.values()), kept
    assert len(data) == sum(kept.values()) == 920
    assert data.terminals.sum() == 2  # the bumper, decoded with the user's .msg
    for report in data.metadata["report"]:
        assert report["transitions"] + sum(report["dropped"].values()) == report["ticks"]


@pytest.mark.parametrize("name", NEATO)
def test_rows_equal_a_plain_reading_with_rosbags(
    name: str, bags: Path, msgs: Path, tmp_path: Path
) -> None:
    """Recompute every observation row by a loop over rosbags' messages, sharing no code."""
    out = tmp_path / "one.h5"
    convert([bags / name], "neato", msgs, out)
    data = load_dataset(out)
    store = get_typestore(Stores.ROS2_HUMBLE)
    scans, twists, commands = [], [], []
    with AnyReader([next((bags / name).glob("*.db3"))], default_typestore=store) as reader:
        wanted = [c for c in reader.connections if c.topic in ("/scan", "/odom", "/cmd_vel")]
        for connection, stamp, raw in reader.messages(wanted):
            message = reader.deserialize(raw, connection.msgtype)
            if connection.topic == "/scan":
                edges = [i * 361 // 36 for i in range(36)] + [361]
                parts = [message.ranges[a:b].min() for a, b in pairwise(edges)]
                scans.append((stamp, np.clip(np.array(parts, np.float64), 0.1, 5.0)))
            elif connection.topic == "/odom":
                twist = message.twist.twist
                twists.append((stamp, [twist.linear.x, twist.angular.z]))
            else:
                low, high = [-0.5, -3.15], [0.5, 3.15]
                twist = np.clip([message.linear.x, message.angular.z], low, high)
                commands.append((stamp, twist))

    def held(samples: list, at: int) -> np.ndarray:
        return next(value for stamp, value in reversed(samples) if stamp <= at)

    begin, period = max(scans[0][0], twists[0][0]), nanoseconds(0.2)
    rows = {}
    for k in range(2000):
        at = begin + k * period
        if commands[0][0] <= at <= scans[-1][0] + 10**9:
            parts = [held(scans, at), held(twists, at), held(commands, at)]
            rows[np.concatenate(parts).astype(np.float32).tobytes()] = k
    found = [rows.get(row.tobytes()) for row in data.observations]
    assert None not in found
    assert sorted(found) == found  # in order of time


def test_ackermann_recording_gives_rows(bags: Path, msgs: Path, tmp_path: Path) -> None:
    out = tmp_path / "ackermann.h5"
    convert([bags / "ackermann_gps"], "ackermann", msgs, out)
    data = load_dataset(out)
    assert len(data) == 1033
    (report,) = data.metadata["report"]
    offsets = {topic["topic"]: topic["header_offset"] for topic in report["topics"]}
    assert offsets["/odometry"] / 86400 == pytest.approx(-66.0, abs=0.05)


@pytest.mark.parametrize(
    "name",
    [
        "autoware_ego_trajectory",
        "biped_imu_joints",
        "crazyflie_roll",
        "husky_localization.bag",
        "neato_sim_drive_square",
        "neato_sim_person_follower",
        "no_messages.bag",
        "renamed_file",
        "replay_fixtures",
        "service_events",
        "talker",
        "turtlesim_bz2.bag",
        "turtlesim_lz4.bag",
        "unsorted_chunks.bag",
    ],
)
def test_odd_bag_can_be_inspected(name: str, bags: Path) -> None:
    assert run(["inspect", str(bags / name)]) == 0


def test_long_names_stay_in_one_piece_in_a_pipe(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(bags / "husky_localization.bag")]) == 0
    shown = capsys.readouterr().out.split()
    assert "/husky_velocity_controller/odom" in shown
    assert "sensor_msgs/msg/NavSatFix" in shown


def test_metadata_that_names_another_file_is_noted(bags: Path) -> None:
    with Bag(bags / "renamed_file") as bag:
        assert "names rosbag2_2026_01_30-15_32_05_0.db3, which is not there" in bag.notes[0]


def test_neato_limits_hold_every_logged_command(bags: Path, msgs: Path, tmp_path: Path) -> None:
    convert([bags / name for name in NEATO], "neato", msgs, tmp_path / "n.h5")
    reports = load_dataset(tmp_path / "n.h5").metadata["report"]
    assert [report["clipped_commands"] for report in reports] == [0] * len(NEATO)
    assert load_robot("neato").limits == ((-0.5, 0.5), (-3.15, 3.15))


TURTLE = """
robot: turtle
rate: 10.0
observation:
  - {name: pose, topic: /turtle1/pose, type: turtlesim/msg/Pose, field: [x, y, theta]}
  - {name: other, topic: /turtle2/pose, type: turtlesim/msg/Pose, field: [x, y]}
action:
  - {name: cmd, topic: /turtle1/cmd_vel, type: geometry_msgs/msg/Twist, field: linear.x, limits: [[-2, 2]], safe: [0]}
reward: next_pose_0
"""  # noqa: E501


def test_a_type_that_only_ros_1_defines_is_said_before_training(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = tmp_path / "turtle.yaml"
    robot.write_text(TURTLE)
    out = tmp_path / "t.h5"
    bag = bags / "turtlesim.bag"
    assert run(["convert", str(bag), "--robot", str(robot), "--out", str(out)]) == 0
    (remark,) = [line for line in capsys.readouterr().out.splitlines() if "of ROS 1" in line]
    assert "turtlesim/msg/Pose" in remark
    assert "--msgs DIR" in remark
