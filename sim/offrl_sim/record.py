"""Records a task's driver into rosbag2 bags, as a logger on a robot would.

Where the robot file says by a topic whether an episode runs, somebody stands by who stops some of
the drives; the sensors run on until the robot is carried away.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from offrl_contract import InputError
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from offrl_sim import messages
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import behaviour_rng
from offrl_sim.session import AFTERMATH
from offrl_sim.simulation import EPOCH, Delivery

PAUSE = (1.5, 3.0)
"""Between episodes nothing is recorded: an operator puts the robot at its next start [s]."""
_HOURS = 100_000  # a bag begins at the hour of its first scenario; ROS has stamps until 2038
STOPPED = 0.15
"""Share of drives that are stopped by hand, where a topic says so."""
CARRIED_AFTER = 1.5
"""Time from such a stop to the end of the recording [s]."""
_BOOL = "std_msgs/msg/Bool"
_FOREVER = QosTime(9_223_372_036, 854_775_807)  # as ROS 2 itself writes an infinite duration
_QOS = Qos(
    QosHistory.KEEP_LAST,
    10,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    _FOREVER,
    _FOREVER,
    QosLiveliness.AUTOMATIC,
    _FOREVER,
    avoid_ros_namespace_conventions=False,
)


@dataclass(frozen=True)
class Recorded:
    """What one bag holds."""

    path: Path
    episodes: int
    successes: int
    collisions: int
    mean_return: float
    messages: int
    seconds: float
    """From the first message to the last [s]."""


class BagWriter:
    """Writes deliveries to one rosbag2 bag with mcap storage, definitions embedded."""

    def __init__(self, path: Path, types: Mapping[str, str]) -> None:
        """Open a new bag for topics of these message types."""
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = {
            topic: self._writer.add_connection(
                topic, type_name, typestore=messages.definitions(), offered_qos_profiles=[_QOS]
            )
            for topic, type_name in types.items()
        }
        self.count = 0
        self.first = 0
        self.last = 0

    def take(self, delivery: Delivery) -> None:
        """Write one message under its time of reception."""
        connection = self._connections[delivery.topic]
        content = messages.definitions().serialize_cdr(delivery.message, connection.msgtype)
        self._writer.write(connection, delivery.stamp, content)
        self.first = self.first or delivery.stamp
        self.last = delivery.stamp
        self.count += 1

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the bag, or give it up after an error."""
        if kind is None:
            self._writer.close()
        else:
            self._writer.abort()


def record_bags(
    env: TaskEnv, out: Path, episodes: int, seed: int, bags: int, advance: Callable[[], None]
) -> list[Recorded]:
    """Record `episodes` episodes into `bags` bags below `out`; call `advance` after each episode.

    Episode i has the scenario of seed + i. `out` appears only when all bags are whole. Raises
    InputError where `out` exists, cannot be written, or there are fewer episodes than bags.
    """
    if episodes < 1:
        raise InputError(f"--episodes {episodes}: at least 1 is needed")
    if not 1 <= bags <= episodes:
        raise InputError(f"--bags {bags}: must be from 1 to the number of episodes ({episodes})")
    if os.path.lexists(out):
        raise InputError(f"--out {out}: exists already. Give a new directory, or remove this one.")
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        beside.mkdir(parents=True)
        recorded = []
        for index, part in enumerate(np.array_split(np.arange(seed, seed + episodes), bags)):
            name = f"drive_{index:03d}"
            recorded.append(_record_bag(env, beside / name, out / name, part.tolist(), advance))
        os.replace(beside, out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return recorded


def _record_bag(
    env: TaskEnv, beside: Path, final: Path, scenarios: list[int], advance: Callable[[], None]
) -> Recorded:
    """Record one bag; its clock runs on through the pauses between episodes."""
    returns: list[float] = []
    outcomes = np.zeros(2, np.int64)
    running = env.robot.episode.running
    command = env.simulation.command_topic
    types = env.simulation.published | {command: env.simulation.types[command]}
    if running is not None:
        types[running.topic] = _BOOL
    with BagWriter(beside, types) as writer:
        env.listener = writer.take
        clock = EPOCH + (scenarios[0] % _HOURS) * 3600 * 10**9
        for scenario in scenarios:
            total, outcome, end = _drive(env, scenario, clock)
            returns.append(total)
            outcomes += outcome
            pause = np.random.default_rng([scenario, 2]).uniform(*PAUSE)
            # Whole periods: the controller's timer runs on while the robot is carried.
            clock = end + round(pause * env.robot.rate) * env.robot.period
            advance()
        env.listener = None
    _sync(beside)
    seconds = (writer.last - writer.first) / 1e9
    return Recorded(
        path=final,
        episodes=len(scenarios),
        successes=int(outcomes[0]),
        collisions=int(outcomes[1]),
        mean_return=float(np.mean(returns)),
        messages=writer.count,
        seconds=seconds,
    )


def _drive(env: TaskEnv, scenario: int, clock: int) -> tuple[float, tuple[bool, bool], int]:
    """Drive one episode; return its return, (success, collided), and when its last beat was."""
    behaviour = env.task.behaviour(env.robot)
    behaviour.begin(behaviour_rng(scenario))
    stop_at = _stop_at(env, scenario)
    _say_running(env, clock, True)
    observation, _ = env.reset(seed=scenario, options={"start": clock})
    total = 0.0
    terminal = timeout = stopped = False
    while not (terminal or timeout or stopped):
        observation, reward, terminal, timeout, info = env.step(behaviour(observation))
        total += reward
        stopped = env.now >= clock + stop_at
    _say_running(env, env.tick + 1, False)
    if terminal:
        env.rest(AFTERMATH)
    elif stopped and not timeout:
        env.rest(CARRIED_AFTER)
    return total, (info["success"], info["collided"]), env.now


def _stop_at(env: TaskEnv, scenario: int) -> float:
    """Return the time from an episode's first moment to the stop by hand [ns], or infinity."""
    rng = np.random.default_rng([scenario, 3])
    if env.robot.episode.running is None or rng.random() >= STOPPED:
        return float("inf")
    return 1e9 * rng.uniform(0.1, 0.9) * env.simulation.time_limit


def _say_running(env: TaskEnv, stamp: int, running: bool) -> None:
    topic = env.robot.episode.running
    if topic is not None and env.listener is not None:
        env.listener(Delivery(topic.topic, stamp, messages.boolean(running)))


def _sync(directory: Path) -> None:
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
