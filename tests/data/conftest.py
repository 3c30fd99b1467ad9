"""Small bags written for a test: ROS 2 mcap and db3, ROS 1."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from offrl_contract import Robot, robot_from_yaml
from offrl_contract.definitions import distro_definitions
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

STORE = distro_definitions()
STORE1 = get_typestore(Stores.ROS1_NOETIC)
KIND = "geometry_msgs/msg/Twist"
ROBOT = """
robot: test
rate: 10.0
observation:
  - {name: pose, topic: /pose, type: geometry_msgs/msg/Twist, field: [linear.x, linear.y], max_age: 0.15}
action:
  - {name: cmd, topic: /cmd, type: geometry_msgs/msg/Twist, field: linear.x, limits: [[-1, 1]], hold: 0.25, safe: [0]}
reward: "next_pose_0 - pose_0 + 100 * cmd"
terminal: "next_pose_1 > 0.5"
episode: {gap: 1.0, min_length: 3}
"""  # noqa: E501

Message = tuple[str, float, float, float]
"""Topic, receive time [s], linear.x, linear.y."""
BagMaker = Callable[..., Path]


@pytest.fixture
def robot() -> Robot:
    return robot_from_yaml(ROBOT, "test.yaml")


def drive(
    seconds: float, start: float = 100.0, ends: tuple[float, ...] = (), gap: float = 0.0
) -> list[Message]:
    """A pose every 50 ms whose x is the time, a command 5 ms after each tick whose value counts."""
    messages: list[Message] = []
    for k in range(round(seconds * 20)):
        t = k / 20
        shift = gap if t >= seconds / 2 else 0.0
        done = any(abs(t - end) < 1e-9 for end in ends)
        messages.append(("/pose", start + t + shift, t, float(done)))
        if k % 2 == 0:
            messages.append(("/cmd", start + t + shift + 0.005, 0.01 * (k // 2), 0.0))
    return messages


@pytest.fixture
def make_bag(tmp_path: Path) -> BagMaker:
    def make(messages: list[Message], name: str = "bag", kind: str = "mcap") -> Path:
        ros1 = kind == "bag"
        store = STORE1 if ros1 else STORE
        path = tmp_path / (f"{name}.bag" if ros1 else name)
        twist, vector = store.types[KIND], store.types["geometry_msgs/msg/Vector3"]
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        writer = Writer1(path) if ros1 else Writer2(path, version=9, storage_plugin=plugin)
        with writer:
            topics = {
                topic: writer.add_connection(topic, KIND, typestore=store)
                for topic in dict.fromkeys(message[0] for message in messages)
            }
            for topic, t, x, y in messages:
                content = twist(linear=vector(x, y, 0.0), angular=vector(0.0, 0.0, 0.0))
                serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
                writer.write(topics[topic], round(t * 1e9), serialize(content, KIND))
        return path

    return make


def read(path: Path) -> dict[str, np.ndarray]:
    """Read a dataset the way D4RL's own code does: every flat array by its name."""
    import h5py

    with h5py.File(path) as file:
        return {name: file[name][()] for name in file if hasattr(file[name], "shape")}
