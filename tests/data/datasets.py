"""A small dataset with everything a dataset file can hold, for the tests of formats."""

from pathlib import Path

import h5py
import numpy as np
from offrl_contract import robot_from_yaml
from offrl_data.dataset import Dataset, Episode, load_dataset
from offrl_data.dataset_writer import DatasetWriter

ROBOT = """
robot: rover
rate: 10.0
observation:
  - {name: pose, topic: /pose, type: geometry_msgs/msg/Twist, field: [linear.x, linear.y], clip: [-9, 9]}
  - {name: turn, topic: /pose, type: geometry_msgs/msg/Twist, field: angular.z}
action:
  - {name: cmd, topic: /cmd, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-0.3, 0.7], [-1.5, 1.5]], safe: [0, 0]}
reward: "pose_0"
"""  # noqa: E501
LENGTHS = (4, 1, 6)
TERMINAL = (True, False, False)


def write_dataset(path: Path, images: bool = False, robot_text: str = ROBOT) -> Dataset:
    """Three episodes: one ends by a terminal, one has a single transition, two by a timeout."""
    generator = np.random.default_rng(0)
    robot = robot_from_yaml(robot_text, "rover.yaml")
    low, high = np.array(robot.limits).T
    with DatasetWriter(path, robot) as writer:
        for index, (length, terminal) in enumerate(zip(LENGTHS, TERMINAL, strict=True)):
            shape = (length + 1, robot.observation_size)
            writer.append(
                Episode(
                    observations=generator.normal(size=shape).astype(np.float32),
                    actions=generator.uniform(low, high, (length, len(low))).astype(np.float32),
                    rewards=generator.normal(size=length).astype(np.float32),
                    terminal=terminal,
                    source=f"bag_{index}",
                    stamp=1_700_000_000_000_000_000 + index,
                    path=generator.normal(size=(length, 2)).astype(np.float32),
                )
            )
            if images:
                pixels = generator.integers(0, 256, (length + 1, 5, 4, 3), np.uint8)
                writer.append_images("images/cam", pixels[:-1])
                writer.append_images("episodes/final_images/cam", pixels[-1:])
        writer.finish({"report": [{"bag": "bag_0"}], "definitions": {}, "definition_hashes": {}})
    return load_dataset(path)


def image_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every image array of a dataset file, by its key."""
    with h5py.File(path) as file:
        keys = ("images/cam", "episodes/final_images/cam")
        return {key: file[key][()] for key in keys if key in file}
