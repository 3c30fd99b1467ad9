"""Storage files hold what rosbags reads message by message."""

from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer
from offrl_contract import robot_from_yaml
from offrl_data.bags import Bag
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.storage import chunked
from offrl_data.storage.mcap import Mcap
from rosbags.highlevel import AnyReader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.typesys import Stores, get_typestore

from .conftest import KIND, ROBOT, STORE, BagMaker, drive

Contents = dict[str, list[tuple[int, bytes]]]


def contents(path: Path) -> Contents:
    """Every message that our blocks hold, by topic, in order of time."""
    found: Contents = {}
    with Bag(path) as bag:
        for channel, block in bag.blocks(bag.topics):
            batch = block.pick(np.arange(len(block.received)))
            rows = [(int(t), batch.message(i)) for i, t in enumerate(block.received)]
            found.setdefault(channel.topic, []).extend(rows)
        assert bag.losses.lines == []
    return {topic: sorted(rows) for topic, rows in found.items()}


def expected(path: Path) -> Contents:
    """The same by rosbags."""
    found: Contents = {}
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_KILTED)) as reader:
        for connection, stamp, raw in reader.messages():
            found.setdefault(connection.topic, []).append((stamp, bytes(raw)))
    return {topic: sorted(rows) for topic, rows in found.items()}


@pytest.mark.parametrize("kind", ["mcap", "db3", "bag"])
def test_blocks_hold_every_message(kind: str, make_bag: BagMaker) -> None:
    path = make_bag(drive(5.0), kind=kind)
    assert contents(path) == expected(path)


REAL = [
    "ackermann_gps",
    "biped_imu_joints",
    "crazyflie_roll",
    "husky_localization.bag",
    "neato_teleop",
    "neato_sim_drive_square",
    "replay_fixtures/cmd_vel_only.mcap",
    "replay_fixtures/cmd_vel_only_2.mcap",
    "turtlesim.bag",
    "turtlesim_bz2.bag",
    "turtlesim_lz4.bag",
    "unsorted_chunks.bag",
]


@pytest.mark.parametrize("name", REAL)
def test_blocks_of_real_bags(name: str, bags: Path) -> None:
    found = contents(bags / name)
    assert found == expected(bags / name)
    assert sum(map(len, found.values())) > 0


def write_chunks(path: Path, messages: list[tuple[str, int, float]], size: int) -> Path:
    """An mcap file of topic, receive time [0.1 s] and linear.x, in chunks of so many bytes."""
    twist, vector = STORE.types[KIND], STORE.types["geometry_msgs/msg/Vector3"]
    text = STORE.generate_msgdef(KIND, ros_version=2)[0]
    with path.open("wb") as stream:
        writer = Writer(stream, chunk_size=size)
        writer.start("ros2")
        schema = writer.register_schema(KIND, "ros2msg", text.encode())
        topics = ("/goal", "/pose", "/cmd")
        channels = {name: writer.register_channel(name, "cdr", schema) for name in topics}
        for topic, k, x in messages:
            message = twist(vector(x, 0.0, 0.0), vector(0.0, 0.0, 0.0))
            stamp = k * 100_000_000
            writer.add_message(channels[topic], stamp, STORE.serialize_cdr(message, KIND), stamp)
        writer.finish()
    return path


def observed(path: Path, pose: str) -> np.ndarray:
    """Convert with a goal before the pose, which has other settings."""
    goal = "{name: goal, topic: /goal, type: geometry_msgs/msg/Twist, field: linear.x, max_age: 60}"
    text = ROBOT.replace("max_age: 0.15", pose)
    text = text.replace("observation:", f"observation:\n  - {goal}")
    convert_bags([path], robot_from_yaml(text, "test"), path.with_suffix(".h5"))
    return load_dataset(path.with_suffix(".h5")).observations


def test_a_goal_long_before_the_first_tick_is_still_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every message is a block of its own: far more come after the goal than wait for a tick."""
    monkeypatch.setattr(chunked, "_READ_TOGETHER", 1)
    sent = [("/goal", 0, 7.0), *(("/cmd", k, 0.1) for k in range(100))]
    sent += [("/pose", k, 1.0) for k in range(90, 100)]
    path = write_chunks(tmp_path / "bag.mcap", sent, size=1)
    assert (observed(path, "max_age: 0.15")[:, 0] == 7.0).all()


def test_a_history_reaches_back_beyond_the_blocks_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block has several poses, and a hundred blocks come before the first goal."""
    monkeypatch.setattr(chunked, "_READ_TOGETHER", 1)
    sent = [(topic, k, k / 10) for k in range(600) for topic in ("/pose", "/cmd")]
    sent += [("/goal", k, 7.0) for k in range(550, 600)]
    sent.sort(key=lambda message: message[1])
    path = write_chunks(tmp_path / "bag.mcap", sent, size=1000)
    seen = observed(path, "max_age: 2.0, history: 500")
    newest_x = np.arange(550, 550 + len(seen))[:, None] / 10
    expected_x = newest_x - np.arange(499, -1, -1) / 10
    np.testing.assert_allclose(seen[:, 1::2], expected_x, atol=1e-4)


def test_an_index_that_lies_is_not_believed(make_bag: BagMaker) -> None:
    """The message index is moved by one byte: the chunk is read record by record instead."""
    path = make_bag(drive(2.0))
    (file,) = path.glob("*.mcap")
    before = expected(path)
    storage = McapReader(file)
    storage.open()
    offsets = [at for chunk in storage.chunks for at in chunk.message_index_offsets.values()]
    storage.close()
    content = bytearray(file.read_bytes())
    for at in offsets:
        length = int.from_bytes(content[at + 11 : at + 15], "little")
        entries = np.frombuffer(content, "<u8", length // 8, at + 15).copy()
        entries[1::2] += 1
        content[at + 15 : at + 15 + length] = entries.tobytes()
    file.write_bytes(bytes(content))
    assert contents(path) == before
    with Mcap(file) as storage:
        for _ in range(2):  # as for images
            list(storage.blocks(storage.channels))
        assert "index unusable" in storage.notes[0]
        assert len(storage.notes) == len(storage.chunks)
