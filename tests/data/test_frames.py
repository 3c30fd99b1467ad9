"""A goal in the robot's frame: through the transforms of a bag, as a live robot has it."""

from pathlib import Path

import numpy as np
import pytest
from offrl_contract import InputError, Robot, load_robot, robot_from_yaml
from offrl_contract.live import Live
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.message_definitions import MessageDefinitions
from rosbags.rosbag2 import StoragePlugin, Writer

from .conftest import KIND, STORE

TF, GOAL = "tf2_msgs/msg/TFMessage", "geometry_msgs/msg/PoseStamped"
ROBOT = f"""
robot: walker
rate: 10.0
observation:
  - {{name: goal, topic: /goal, type: {GOAL}, field: pose, frame: base, max_age: 60, frame_max_age: 0.3}}
action:
  - {{name: cmd, topic: /cmd, type: {KIND}, field: linear.x, limits: [[-1, 1]], safe: [0]}}
reward: "hypot(goal_0, goal_1) - hypot(next_goal_0, next_goal_1)"
"""  # noqa: E501


def header(frame: str) -> object:
    stamp = STORE.types["builtin_interfaces/msg/Time"](0, 0)
    return STORE.types["std_msgs/msg/Header"](stamp, frame)


def turn(yaw: float) -> object:
    return STORE.types["geometry_msgs/msg/Quaternion"](0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2))


def transforms(*edges: tuple[str, str, float, float, float]) -> object:
    """A TF message of edges (parent, child, x, y, yaw)."""
    types = STORE.types
    entries = [
        types["geometry_msgs/msg/TransformStamped"](
            header(parent),
            child,
            types["geometry_msgs/msg/Transform"](
                types["geometry_msgs/msg/Vector3"](x, y, 0.0), turn(yaw)
            ),
        )
        for parent, child, x, y, yaw in edges
    ]
    return types[TF](entries)


def messages() -> list[tuple[float, str, str, object]]:
    """A goal at (3, 1) in the map, once; a robot that drives along x and turns; pauses of /tf."""
    types = STORE.types
    place = types["geometry_msgs/msg/Point"](3.0, 1.0, 0.0)
    goal = types[GOAL](header("map"), types["geometry_msgs/msg/Pose"](place, turn(0.5)))
    vector = types["geometry_msgs/msg/Vector3"]
    rows = [(0.0, "/goal", GOAL, goal)]
    rows.append((0.01, "/tf_static", TF, transforms(("map", "odom", 1.0, 0.0, np.pi / 2))))
    for k in range(400):
        t = 0.02 + k / 100
        if not 1.5 < t < 2.2:
            wheel = ("base", "wheel", 0.0, 0.3, 0.1 * k)
            rows.append((t, "/tf", TF, transforms(("odom", "base", 0.5 * t, 0.0, 0.2 * t), wheel)))
        if k % 5 == 0:
            twist = types[KIND](vector(0.1, 0.0, 0.0), vector(0.0, 0.0, 0.0))
            rows.append((t, "/cmd", KIND, twist))
    return rows


def write(path: Path) -> Path:
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = {topic: kind for _, topic, kind, _ in messages()}
        topics = {t: writer.add_connection(t, k, typestore=STORE) for t, k in kinds.items()}
        for at, topic, kind, message in messages():
            raw = STORE.serialize_cdr(message, kind)
            writer.write(topics[topic], round((100 + at) * 1e9), raw)
    return path


def expected(t: float) -> list[float]:
    """By hand: the robot is at odom (0.5 t, 0), which is map (1, 0.5 t), heading 90 deg + 0.2 t."""
    yaw = np.pi / 2 + 0.2 * t
    dx, dy = 3.0 - 1.0, 1.0 - 0.5 * t
    return [
        np.cos(yaw) * dx + np.sin(yaw) * dy,
        -np.sin(yaw) * dx + np.cos(yaw) * dy,
        0.5 - yaw,
    ]


def test_goal_in_the_frame_of_the_robot(tmp_path: Path) -> None:
    robot = robot_from_yaml(ROBOT, "walker.yaml")
    (report,) = convert_bags([write(tmp_path / "log")], robot, tmp_path / "data.h5")
    data = load_dataset(tmp_path / "data.h5")
    assert report.dropped["goal: stale"] >= 3
    assert data.lengths.tolist() == [17, 17]
    times = np.concatenate(
        [
            stamp / 1e9 - 100 + 0.1 * np.arange(length)
            for stamp, length in zip(data.stamps, data.lengths, strict=True)
        ]
    )
    for row, t in zip(data.observations, times, strict=True):
        held = np.floor((t - 0.02 + 1e-9) * 100) / 100 + 0.02  # the newest transform by then
        held = 1.5 if 1.5 < t < 2.2 else held
        np.testing.assert_allclose(row, expected(held), atol=1e-6)


def test_bag_equals_live(tmp_path: Path) -> None:
    robot = robot_from_yaml(ROBOT, "walker.yaml")
    convert_bags([write(tmp_path / "log")], robot, tmp_path / "data.h5")
    data = load_dataset(tmp_path / "data.h5")
    live = Live(robot, STORE)
    rows = [(round((100 + at) * 1e9), t, STORE.serialize_cdr(m, k)) for at, t, k, m in messages()]
    for episode in range(len(data.lengths)):
        live.reset()
        waiting = iter(rows)
        row = next(waiting)
        for step in range(int(data.lengths[episode])):
            tick = int(data.stamps[episode]) + step * robot.period
            while row is not None and row[0] <= tick:
                live.push(row[1], row[0], bytes(row[2]))
                row = next(waiting, None)
            seen = live.observe(tick)
            assert not seen.faults
            np.testing.assert_array_equal(
                seen.vector, data.observations[data.starts[episode] + step]
            )


def test_without_transforms_no_tick_is_usable(tmp_path: Path) -> None:
    robot = robot_from_yaml(ROBOT.replace("frame: base,", "frame: bse,"), "walker.yaml")
    with pytest.raises(InputError, match=r"no transition in 1 bags: goal: no message yet"):
        convert_bags([write(tmp_path / "log")], robot, tmp_path / "data.h5")


def test_a_real_robot_is_at_the_origin_of_its_own_frame(
    bags: Path, msgs: Path, tmp_path: Path
) -> None:
    content = load_robot("neato").model_dump(mode="json", exclude_defaults=True)
    content["observation"] = [
        {
            "name": "here",
            "topic": "/odom",
            "type": "nav_msgs/msg/Odometry",
            "field": "pose.pose",
            "frame": "base_footprint",
        }
    ]
    content |= {"signals": [], "reward": "0", "terminal": "False"}
    robot = Robot.model_validate(content)
    out = tmp_path / "data.h5"
    (report,) = convert_bags(
        [bags / "neato_sim_person_follower"], robot, out, MessageDefinitions("humble", msgs)
    )
    data = load_dataset(out)
    assert report.transitions > 100
    assert np.abs(data.observations).max() < 0.15  # /odom and /tf are a few ms apart
    assert np.ptp(data.path, axis=0).max() > 0.5  # while it drove
