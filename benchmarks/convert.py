"""Bags to a dataset: ours end to end, against rosbags, mcap-ros2-support and bare decompression.

Writes one bag of sensor data in three formats and times each reader in a process of its own, in CPU
seconds. Run it alone on the machine: `.venv/bin/python benchmarks/convert.py`.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import tyro
import zstandard
from offrl_contract import robot_from_yaml
from offrl_contract.memory import keep_freed_memory
from offrl_data.conversion import convert_bags
from offrl_data.storage.mcap import Mcap
from rosbags import rosbag1, rosbag2
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "convert.json"
JOINTS = [f"joint_{index:02d}" for index in range(12)]
ROBOT = f"""
robot: bench
rate: 20.0
observation:
  - {{name: gyro, topic: /imu, type: sensor_msgs/msg/Imu, field: [angular_velocity.x, angular_velocity.y, angular_velocity.z]}}
  - {{name: force, topic: /imu, type: sensor_msgs/msg/Imu, field: [linear_acceleration.x, linear_acceleration.y, linear_acceleration.z]}}
  - {{name: twist, topic: /odom, type: nav_msgs/msg/Odometry, field: [twist.twist.linear.x, twist.twist.angular.z]}}
  - {{name: joints, topic: /joint_states, type: sensor_msgs/msg/JointState, field: [position, velocity], select: [{", ".join(JOINTS)}]}}
  - {{name: scan, topic: /scan, type: sensor_msgs/msg/LaserScan, field: ranges, bins: 36, clip: [0.1, 10.0]}}
action:
  - {{name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-1, 1], [-2, 2]], safe: [0, 0]}}
reward: "next_twist_0"
"""  # noqa: E501
RATES = {"/imu": 200, "/odom": 50, "/joint_states": 100, "/scan": 20, "/cmd_vel": 20}
FIELDS = {
    "/imu": ["angular_velocity.x", "linear_acceleration.z"],
    "/odom": ["twist.twist.linear.x", "twist.twist.angular.z"],
    "/joint_states": ["position", "velocity"],
    "/scan": ["ranges"],
    "/cmd_vel": ["linear.x", "angular.z"],
}


@dataclass(frozen=True)
class Config:
    """Time the conversion of a bag."""

    megabytes: int = 200
    """Payload of the bag."""
    repeats: int = 6
    """Runs of each reader; the fastest counts."""
    laps: int = 10
    """How often the mcap log is repeated for the measurement of memory."""
    measure: tuple[str, Path] | None = None
    """Internal: run one reader on one bag, in this process."""


def build(store: Any, kind: str, **given: Any) -> Any:
    """Build a message whose other fields are zero."""
    values = []
    for name, (tag, what) in store.fielddefs[kind][1]:
        if name in given:
            values.append(given[name])
        elif tag == 2:
            values.append(build(store, what, **given))
        elif tag == 1:
            values.append("" if what[0] == "string" else 0)
        else:
            values.append(np.zeros(what[1] if tag == 3 else 0))
    return store.types[kind](*values)


def messages(store: Any, seconds: float) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, stamp [ns], message) of a robot's log in order of time."""
    rng = np.random.default_rng(0)
    due = sorted(
        (round(k * 1e9 / rate), topic)
        for topic, rate in RATES.items()
        for k in range(round(seconds * rate))
    )
    vector = store.types["geometry_msgs/msg/Vector3"]
    time, header = store.types["builtin_interfaces/msg/Time"], store.types["std_msgs/msg/Header"]
    sequence = [0] if "seq" in dict(store.fielddefs["std_msgs/msg/Header"][1]) else []
    types = robot_from_yaml(ROBOT, "bench").topics()
    for at, topic in due:
        stamp = 1_700_000_000 * 10**9 + at
        head = header(*sequence, time(*divmod(stamp, 10**9)), "base_link")
        x, y, z = rng.normal(0.0, 0.3, 3)
        content: dict[str, Any] = {"header": head}
        if topic == "/imu":
            content |= {"angular_velocity": vector(x, y, z), "linear_acceleration": vector(z, y, x)}
        elif topic in ("/odom", "/cmd_vel"):
            content |= {"linear": vector(x, 0.0, 0.0), "angular": vector(0.0, 0.0, z)}
        elif topic == "/joint_states":
            empty = np.zeros(0)
            content |= {"name": JOINTS, "effort": empty}
            content |= {"position": rng.normal(0, 1, 12), "velocity": rng.normal(0, 1, 12)}
        else:
            ranges = np.round(rng.uniform(0.5, 9.0, 720), 3).astype(np.float32)
            empty32 = np.zeros(0, np.float32)
            content |= {"ranges": ranges, "intensities": empty32, "range_max": 10.0}
        yield topic, stamp, build(store, types[topic], **content)


def write(path: Path, kind: str, seconds: float) -> None:
    """Write the log as one bag."""
    ros1 = kind == "bag"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_KILTED)
    types = robot_from_yaml(ROBOT, "bench").topics()
    if ros1:
        writer: Any = rosbag1.Writer(path)
        writer.set_compression(rosbag1.Writer.CompressionFormat.LZ4)
    else:
        plugin = rosbag2.StoragePlugin.MCAP if kind == "mcap" else rosbag2.StoragePlugin.SQLITE3
        writer = rosbag2.Writer(path, version=9, storage_plugin=plugin)
        if kind == "mcap":
            writer.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections = {t: writer.add_connection(t, k, typestore=store) for t, k in types.items()}
        serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
        for topic, stamp, message in messages(store, seconds):
            writer.write(connections[topic], stamp, serialize(message, types[topic]))


def repeat(source: Path, out: Path, times: int) -> None:
    """Write an mcap log again and again, one after another in time."""
    writer = rosbag2.Writer(out, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP)
    writer.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
    store = get_typestore(Stores.ROS2_KILTED)
    with writer, rosbag2.Reader(source) as reader:
        topics = {
            c.topic: writer.add_connection(c.topic, c.msgtype, typestore=store)
            for c in reader.connections
        }
        for lap in range(times):
            later = lap * (reader.duration + 10**8)
            for connection, stamp, raw in reader.messages():
                writer.write(topics[connection.topic], stamp + later, raw)


def ours(path: Path) -> None:
    """Convert end to end, to HDF5, as the command does."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        robot = robot_from_yaml(ROBOT, "bench")
        out = Path(folder) / "data.h5"
        convert_bags([path], robot, out)


def rosbags(path: Path) -> None:
    """Deserialise the same topics with rosbags and pick fields."""
    getters = {topic: [attrgetter(f) for f in fields] for topic, fields in FIELDS.items()}
    with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_KILTED)) as reader:
        rows: dict[str, list[Any]] = {topic: [] for topic in FIELDS}
        for connection, _, raw in reader.messages(reader.connections):
            message = reader.deserialize(raw, connection.msgtype)
            rows[connection.topic].append([get(message) for get in getters[connection.topic]])


def mcap_ros2_support(path: Path) -> None:
    """Decode the same topics with mcap-ros2-support and pick fields."""
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    getters = {topic: [attrgetter(f) for f in fields] for topic, fields in FIELDS.items()}
    (file,) = path.glob("*.mcap")
    with file.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        rows: dict[str, list[Any]] = {topic: [] for topic in FIELDS}
        for _, channel, _, message in reader.iter_decoded_messages():
            rows[channel.topic].append([get(message) for get in getters[channel.topic]])


def decompression(path: Path) -> None:
    """Read and decompress every chunk, and nothing else."""
    (file,) = path.glob("*.mcap")
    with Mcap(file) as storage:
        decompressor = zstandard.ZstdDecompressor()
        for chunk in storage.chunks:
            decompressor.decompress(storage.stored(chunk).data)


READERS: dict[str, Callable[[Path], None]] = {
    "ours": ours,
    "rosbags": rosbags,
    "mcap_ros2_support": mcap_ros2_support,
    "decompression": decompression,
}
CASES = {
    "mcap": ("decompression", "ours", "rosbags", "mcap_ros2_support"),
    "db3": ("ours", "rosbags"),
    "bag": ("ours", "rosbags"),
}


def measure(reader: str, path: Path) -> None:
    """Run a reader in this process; print CPU seconds beyond the imports, and peak memory."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    READERS[reader](path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "megabytes": after.ru_maxrss / 1024}))


def run(reader: str, path: Path, repeats: int) -> dict[str, float]:
    """Run a reader in processes of its own; keep the fastest."""
    command = [sys.executable, __file__, "--measure", reader, str(path)]
    outputs = [
        json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        for _ in range(repeats)
    ]
    best: dict[str, float] = min(outputs, key=lambda output: output["seconds"])
    return {name: round(value, 3) for name, value in best.items()}


def main(config: Config) -> None:
    """Write the bags, time every reader, print and keep the figures."""
    per_second = 200 * 324 + 50 * 724 + 100 * 500 + 20 * 2960 + 20 * 52
    seconds = config.megabytes * 1e6 / per_second
    figures: dict[str, Any] = {"megabytes of payload": config.megabytes}
    with tempfile.TemporaryDirectory() as folder:
        for kind, readers in CASES.items():
            path = Path(folder) / (f"log.{kind}" if kind == "bag" else f"log_{kind}")
            write(path, kind, seconds)
            found = {name: run(name, path, config.repeats) for name in readers}
            mine = found["ours"]["seconds"]
            figures[kind] = found | {
                "over ours": {n: round(f["seconds"] / mine, 3) for n, f in found.items()}
            }
            print(kind, json.dumps(figures[kind]), flush=True)
        repeat(Path(folder) / "log_mcap", Path(folder) / "long", config.laps)
        long = run("ours", Path(folder) / "long", 1)
        figures["repeated mcap"] = {"payload": config.laps * config.megabytes, "ours": long}
        print("repeated mcap", json.dumps(figures["repeated mcap"]), flush=True)
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"commit": commit.strip(), **figures}, indent=1) + "\n")


if __name__ == "__main__":
    given = tyro.cli(Config)
    if given.measure is not None:
        measure(*given.measure)
    else:
        main(given)
