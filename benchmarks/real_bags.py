"""The real recordings: messages recovered and lost, rows of a dataset, and CPU seconds of each.

`.venv/bin/python benchmarks/real_bags.py FOLDER` with the folder of recordings.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from offrl_contract import InputError, Robot, load_robot, robot_from_yaml
from offrl_data.bags import Bag, find_bags
from offrl_data.conversion import convert_bags
from offrl_data.message_definitions import MessageDefinitions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "real_bags.json"
CRAZYFLIE = """
robot: crazyflie
rate: 20.0
observation:
  - {name: position, topic: /vicon/Group466CF/Group466CF/pose, type: geometry_msgs/msg/PoseStamped, field: [pose.position.x, pose.position.y, pose.position.z]}
action:
  - {name: target, topic: /cf_controll, type: geometry_msgs/msg/Pose, field: [position.x, position.y, position.z], limits: [[-3, 3], [-3, 3], [-3, 3]], safe: [0, 0, 0]}
reward: "-norm(next_position - target)"
"""  # noqa: E501
TURTLE = """
robot: turtle
rate: 10.0
observation:
  - {name: pose, topic: /turtle1/pose, type: turtlesim/msg/Pose, field: [x, y, theta]}
action:
  - {name: cmd, topic: /turtle1/cmd_vel, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-2, 2], [-2, 2]], safe: [0, 0]}
reward: "hypot(next_pose_0 - pose_0, next_pose_1 - pose_1)"
"""  # noqa: E501


@dataclass(frozen=True)
class Config:
    """Read and convert every real recording."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of recordings."""


def robot_for(topics: set[str]) -> Robot | None:
    """Return a robot file whose topics a bag has; None for a log without commands."""
    texts = [robot_from_yaml(text, "benchmark") for text in (CRAZYFLIE, TURTLE)]
    for robot in [load_robot("neato"), load_robot("ackermann"), *texts]:
        if set(robot.topics()) <= topics:
            return robot
    return None


def measure(path: Path, definitions: MessageDefinitions) -> dict[str, Any]:
    """Read all messages of a bag, then convert it."""
    try:
        with Bag(path) as bag:
            messages = sum(len(block.received) for _, block in bag.blocks(bag.topics))
            found: dict[str, Any] = {
                "messages": messages,
                "lost": bag.losses.lines,
                "notes": bag.notes,
            }
            robot = robot_for(set(bag.topics))
    except InputError as error:
        return {"refused": str(error).removeprefix(f"{path}: ")}
    if robot is None:
        return found | {"rows": "no command in it"}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        (report,) = convert_bags([path], robot, Path(folder) / "data.h5", definitions)
        seconds = time.process_time() - begin
    rows = {"rows": report.transitions, "ticks": report.ticks, "cpu_seconds": round(seconds, 3)}
    return found | rows


def main(config: Config) -> None:
    """Print and keep the figures."""
    definitions = MessageDefinitions("humble", config.folder / "msg")
    definitions.ros2, definitions.ros1  # noqa: B018  (built once, as for many bags)
    figures: dict[str, Any] = {}
    for path in find_bags([config.folder]):
        figures[path.name] = measure(path, definitions)
        print(path.name, json.dumps(figures[path.name]), flush=True)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    RESULTS.write_text(json.dumps({"commit": commit.strip(), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
