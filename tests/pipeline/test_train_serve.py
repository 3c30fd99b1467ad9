"""What the policy saw in training is what it sees on the robot: a real bag, over real DDS."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: pip install 'offrl[ros]'")

from in_process import policy_node  # noqa: E402
from offrl_contract import load_robot  # noqa: E402
from offrl_contract.message_class import message_class  # noqa: E402
from offrl_contract.sampling import observation_vector, sample_observation  # noqa: E402
from offrl_data.bags import Bag  # noqa: E402
from offrl_data.dataset import load_dataset  # noqa: E402
from offrl_data.message_definitions import MessageDefinitions  # noqa: E402
from offrl_data.series import read_series  # noqa: E402
from offrl_policy.controller import Decision  # noqa: E402
from offrl_policy.node import PolicyNode  # noqa: E402
from offrl_policy.policy_file import Policy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from rosbags.rosbag2 import Reader  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402

from .conftest import Chain  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.bags]


class Player:
    """Publishes a bag's messages, and its receive times as /clock."""

    def __init__(self, bag: Path, topics: dict[str, str]) -> None:
        self.node = rclpy.create_node("player")
        with Reader(bag) as opened:
            wanted = [c for c in opened.connections if c.topic in topics]
            self.messages = [
                (c.topic, stamp, bytes(raw)) for c, stamp, raw in opened.messages(wanted)
            ]
        self._clock = self.node.create_publisher(Clock, "/clock", qos_profile_sensor_data)
        self._topics = {
            topic: self.node.create_publisher(message_class(kind), topic, qos_profile_sensor_data)
            for topic, kind in topics.items()
        }

    def matched(self) -> bool:
        """Whether the node listens to everything."""
        everything = [*self._topics.values(), self._clock]
        return all(publisher.get_subscription_count() for publisher in everything)

    def say_time(self, stamp: int) -> None:
        now = Clock()
        now.clock.sec, now.clock.nanosec = divmod(stamp, 10**9)
        self._clock.publish(now)

    def publish(self, topic: str, raw: bytes) -> None:
        self._topics[topic].publish(raw)


def spin_until(executor: Any, condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        executor.spin_once(timeout_sec=0.01)


def replay(
    node: PolicyNode,
    executor: SingleThreadedExecutor,
    player: Player,
    begin: int,
    ticks: np.ndarray,
) -> list[Decision]:
    """Play a bag message by message on its own clock; return the node's decision at each tick."""
    executor.add_node(player.node)
    assert node.controller is not None
    received: list[str] = []
    push = node.controller.push
    node.controller.push = lambda topic, *message: (
        received.append(topic),
        push(topic, *message),
    )
    spin_until(executor, player.matched, "discovery")

    def say_time(stamp: int) -> None:
        player.say_time(stamp)
        spin_until(executor, lambda: node.get_clock().now().nanoseconds == stamp, "the clock")

    events = [(stamp, 0, topic, raw) for topic, stamp, raw in player.messages]
    events += [(int(tick), 1, "", b"") for tick in ticks]
    seen = []
    for stamp, is_tick, topic, raw in sorted(events, key=lambda event: event[:2]):
        if not node.active and stamp >= begin:
            say_time(begin)
            node.trigger_activate()
        say_time(stamp)
        if is_tick:
            ticked = lambda at=stamp: node.decision and node.decision.tick == at  # noqa: E731
            spin_until(executor, ticked, "tick")
            seen.append(node.decision)
        else:
            before = len(received)
            player.publish(topic, raw)
            spin_until(executor, lambda n=before: len(received) == n + 1, topic)
    return seen


@pytest.mark.usefixtures("ros")
def test_node_sees_what_the_converter_wrote(
    neato: Chain, msgs: Path, record_property: Callable[[str, object], None]
) -> None:
    """The held-out bag, message by message on the bag's own clock, through a running node."""
    robot = load_robot("neato")
    with Bag(neato.held_out) as bag:
        series = read_series(bag, robot, MessageDefinitions(msgs=msgs), lambda _: None).series
    player = Player(neato.held_out, robot.topics(signals=False))
    begin = max(int(series[name].stamps[0]) for name in ("scan", "twist"))
    ticks = np.arange(begin, player.messages[-1][1], robot.period, dtype=np.int64)
    with policy_node(neato.policy, mode="shadow", use_sim_time=True) as (node, executor):
        # activated one period before the first tick, where the timer begins to count
        seen = replay(node, executor, player, begin - robot.period, ticks)
    player.node.destroy_node()

    expected = sample_observation(robot, series, ticks)
    usable = ~np.any([each.faults for each in expected.values()], axis=0)
    assert [not decision.observation.faults for decision in seen] == usable.tolist()
    mine = np.array([decision.observation.vector for decision in seen])
    difference = np.abs(mine - observation_vector(expected))[usable].max()
    assert usable.sum() > 150
    record_property("largest_difference", float(difference))
    record_property("ticks", int(usable.sum()))
    print(f"train/serve: {usable.sum()} ticks, largest difference {difference}")  # noqa: T201
    assert difference == 0.0
    # and the rows of the dataset file are among them, in order
    rows = [row.tobytes() for row in mine]
    at = -1
    for row in load_dataset(neato.held_out_data).observations:
        at = rows.index(row.tobytes(), at + 1)


@pytest.mark.usefixtures("ros")
def test_running_node_drives_on_the_held_out_bag(neato: Chain) -> None:
    """Twelve seconds of the bag in real time into the node as a process: what does it command?"""
    from geometry_msgs.msg import Twist

    robot = load_robot("neato")
    topics = {
        topic: kind for topic, kind in robot.topics(signals=False).items() if "cmd" not in topic
    }
    player = Player(neato.held_out, topics)
    heard: list[tuple[float, list[float]]] = []
    player.node.create_subscription(
        Twist,
        "/cmd_vel",
        lambda m: heard.append((time.monotonic(), [m.linear.x, m.angular.z])),
        10,
    )
    command = [sys.executable, "-m", "offrl_contract.cli", "serve", str(neato.policy)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    executor = SingleThreadedExecutor()
    executor.add_node(player.node)
    try:
        spin_until(
            executor,
            lambda: all(p.get_subscription_count() for p in player._topics.values()) and heard,
            "the node",
        )
        heard.clear()
        first, begun = player.messages[0][1], time.monotonic()
        for topic, stamp, raw in player.messages:
            due = begun + (stamp - first) / 1e9
            if due > begun + 12.0:
                break
            while (left := due - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=left)
            player.publish(topic, raw)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    executor.shutdown()
    player.node.destroy_node()
    times, commands = np.array([t for t, _ in heard]), np.array([c for _, c in heard])
    low, high = np.array(robot.limits).T
    assert np.isfinite(commands).all()
    assert (commands >= low).all()
    assert (commands <= high).all()
    assert 1.0 / np.median(np.diff(times)) == pytest.approx(robot.rate, rel=0.1)
    assert np.abs(commands).max() > 0.0  # the policy drove, it was not only stopped
    steps = np.abs(np.diff(commands, axis=0))
    assert (steps <= np.array(robot.max_rate) * 2 / robot.rate + 1e-6).all()
    assert max(Policy(neato.policy).golden_differences()) < 1e-5
