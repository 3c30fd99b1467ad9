"""Receive, publish or header time: what each means for a bag, and clocks that are refused."""

from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer
from offrl_contract import InputError, load_robot, robot_from_yaml
from offrl_data.conversion import convert_bags
from offrl_data.dataset import load_dataset
from offrl_data.message_definitions import MessageDefinitions

from .conftest import KIND, STORE

STAMPED = "geometry_msgs/msg/TwistStamped"
ROBOT = f"""
robot: test
rate: 10.0
observation:
  - {{name: speed, topic: /speed, type: {STAMPED}, field: twist.linear.x, clock: CLOCK, max_age: 0.3}}
action:
  - {{name: cmd, topic: /cmd, type: {KIND}, field: linear.x, limits: [[-9, 9]], safe: [0]}}
reward: "next_speed_0"
episode: {{gap: 1.0, min_length: 3}}
"""  # noqa: E501


def log(path: Path, published: np.ndarray, headers: np.ndarray, senders: int = 1) -> Path:
    """A speed that counts, received every 50 ms from 100 s on; other publish and header times.

    Several senders take turns, each with a channel of its own.
    """
    types = STORE.types
    vector = types["geometry_msgs/msg/Vector3"]
    zero = vector(0.0, 0.0, 0.0)
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start(profile="ros2")
        channels = {}
        for topic, kind in (("/speed", STAMPED), ("/cmd", KIND)):
            text = STORE.generate_msgdef(kind, ros_version=2)[0]
            schema = writer.register_schema(kind, "ros2msg", text.encode())
            channels[topic] = [
                writer.register_channel(topic, "cdr", schema, metadata={"sender": str(sender)})
                for sender in range(senders)
            ]
        for k, (sent, head) in enumerate(zip(published, headers, strict=True)):
            received = 100_000_000_000 + k * 50_000_000
            twist = types[KIND](vector(float(k), 0.0, 0.0), zero)
            time = types["builtin_interfaces/msg/Time"](*divmod(int(head), 10**9))
            stamped = types[STAMPED](types["std_msgs/msg/Header"](time, ""), twist)
            for topic, kind, message in (("/speed", STAMPED, stamped), ("/cmd", KIND, twist)):
                raw = bytes(STORE.serialize_cdr(message, kind))
                writer.add_message(channels[topic][k % senders], received, raw, int(sent))
        writer.finish()
    return path


RECEIVED = 100_000_000_000 + np.arange(60) * 50_000_000
EARLY = RECEIVED - 120_000_000  # [ns]


def speeds(path: Path, clock: str, tmp_path: Path) -> tuple[list[float], float]:
    """The speeds of the rows, and the time of the first [s]."""
    robot = robot_from_yaml(ROBOT.replace("CLOCK", clock), "test.yaml")
    convert_bags([path], robot, tmp_path / "data.h5")
    data = load_dataset(tmp_path / "data.h5")
    return data.observations[:, 0].tolist(), data.stamps[0] / 1e9


def test_each_clock_times_by_its_own_stamps(tmp_path: Path) -> None:
    path = log(tmp_path / "log.mcap", EARLY, RECEIVED - 250_000_000)
    by_reception, first = speeds(path, "receive", tmp_path)
    assert (first, by_reception[:3]) == (100.0, [0.0, 2.0, 4.0])
    # stamps lie earlier, but no tick knows a message before it has come
    by_sending, first = speeds(path, "publish", tmp_path)
    assert first == pytest.approx(100.08)  # ticks count from the first stamp, 99.88
    assert by_sending[:3] == [1.0, 3.0, 5.0]
    by_header, first = speeds(path, "header", tmp_path)
    assert first == pytest.approx(100.05)  # from 99.75
    assert by_header[:3] == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("clock", ["receive", "publish", "header"])
def test_two_senders_of_a_topic_are_one(clock: str, tmp_path: Path) -> None:
    one = log(tmp_path / "one.mcap", EARLY, RECEIVED - 250_000_000)
    two = log(tmp_path / "two.mcap", EARLY, RECEIVED - 250_000_000, senders=2)
    assert speeds(one, clock, tmp_path) == speeds(two, clock, tmp_path)


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        (np.full(60, 7_000_000_000), r"all 60 stamps are 7.000"),
        (RECEIVED + 6 * 86400 * 10**9, r"it is \+518400.000 s from the receive clock"),
        (np.where(np.arange(60) == 30, RECEIVED - 10**9, RECEIVED), r"goes backwards 1 times"),
    ],
)
@pytest.mark.parametrize("clock", ["header", "publish"])
def test_a_clock_that_cannot_time_a_policy_is_refused(
    clock: str, headers: np.ndarray, sentence: str, tmp_path: Path
) -> None:
    path = log(tmp_path / "log.mcap", headers, headers)
    with pytest.raises(InputError, match=f"asks for clock: {clock}, but.*{sentence}.*clock: rec"):
        speeds(path, clock, tmp_path)
    assert not (tmp_path / "data.h5").exists()


@pytest.mark.parametrize(
    ("name", "robot", "term", "figure"),
    [
        ("ackermann_gps", "ackermann", "speed", r"-5700748\.\d+ s"),
        ("neato_sim_drive_square", "neato", "scan", r"-16635\d+\.\d+ s"),
        ("neato_sim_person_follower", "neato", "twist", r"-16635\d+\.\d+ s"),
    ],
)
def test_real_header_clocks_that_are_off(
    name: str, robot: str, term: str, figure: str, bags: Path, msgs: Path, tmp_path: Path
) -> None:
    text = load_robot(robot).to_yaml().replace(f"name: {term}", f"name: {term}\n  clock: header")
    with pytest.raises(InputError, match=f"{figure} from the receive clock"):
        convert_bags(
            [bags / name],
            robot_from_yaml(text, "off.yaml"),
            tmp_path / "data.h5",
            MessageDefinitions("humble", msgs),
        )


def test_publish_times_are_in_mcap_alone(bags: Path, msgs: Path, tmp_path: Path) -> None:
    text = load_robot("ackermann").to_yaml().replace("name: speed", "name: speed\n  clock: publish")
    with pytest.raises(InputError, match="only mcap files carry publish times"):
        convert_bags(
            [bags / "ackermann_gps"],
            robot_from_yaml(text, "off.yaml"),
            tmp_path / "data.h5",
            MessageDefinitions("humble", msgs),
        )
