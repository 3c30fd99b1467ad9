"""What is replayed: the base of a task, and windows of a log side by side."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_contract.errors import nearest

from offrl_sim.fit.log import Floats, Stretch
from offrl_sim.physics import STEPS_PER_SECOND, DrivingPhysics
from offrl_sim.response import Role
from offrl_sim.simulation import Simulation
from offrl_sim.tasks import Task

RUN_IN = 1.0
"""Each replay begins this long before what is compared, so that its start is forgotten [s]."""
LENGTH = 2.0
"""Length of a window [s]."""
STEPS = round((RUN_IN + LENGTH + 0.1) * STEPS_PER_SECOND)
"""Physics steps of a replay: run-in and window, and a little more for a delay below 0."""
TAIL = 0.6
"""Left out at the end of each stretch, where the robot may stand at an obstacle [s]."""
REST = (0.05, 0.1)
"""A base slower than this stands [m/s], [rad/s]."""
FEWEST = 5
"""Windows with motion or commands in them that an estimate needs."""
MOST = 200
"""Windows that are replayed, spread evenly, where a log has more."""


@dataclass(frozen=True)
class Base:
    """How a task's base is commanded."""

    roles: tuple[Role, ...]
    max_rate: Floats
    """(a,) largest change of a command per second."""
    safe: Floats
    """(a,) command of a silent driver."""
    acceleration: float
    """What the driving motors allow [m/s^2]."""
    wheelbase: float
    """Of a car [m]."""

    @property
    def driving(self) -> int:
        """Which number of a command is the forward speed."""
        return self.roles.index("speed")

    @property
    def turning(self) -> int:
        """Which number of a command makes the base turn."""
        return 1 - self.driving


def base_of(task: Task, robot: Robot, physics: DrivingPhysics) -> tuple[Base, list[int]]:
    """Return the base of a task under a robot file, and where its command is in the file's action.

    Raises InputError where the robot's action lacks a field that the base is commanded by.
    """
    order = _order(task.simulation, robot)
    base = Base(
        roles=task.simulation.roles,
        max_rate=np.array(robot.max_rate)[order],
        safe=np.array(robot.safe_action)[order],
        acceleration=physics.acceleration,
        wheelbase=physics.wheelbase,
    )
    return base, order


def _order(simulation: type[Simulation], robot: Robot) -> list[int]:
    """Find each command field in a robot's action; the message around it may be another."""
    fields = [field for term in robot.action for field in term.field]
    order = []
    for wanted in simulation.command_fields:
        name = wanted.removeprefix("drive.")
        found = [i for i, field in enumerate(fields) if f".{field}".endswith(f".{name}")]
        if not found:
            raise InputError(
                f"robot '{robot.robot}': its action has no field {name}, which this task's base "
                f"is commanded by.{nearest(name, fields)}"
            )
        order.append(found[0])
    return order


@dataclass(frozen=True)
class Window:
    """Where a replay is compared with a log."""

    stretch: Stretch
    start: float
    """Time at which the comparison begins [s]."""

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the stretch that are compared."""
        times = self.stretch.times
        first, last = np.searchsorted(times, [self.start, self.start + LENGTH], side="right")
        return np.arange(first, last)

    @property
    def launch(self) -> Floats:
        """Motion at the begin of the run-in (2,): forward speed [m/s], yaw rate [rad/s]."""
        times = self.stretch.times
        at = int(np.searchsorted(times, self.start - RUN_IN))
        motion: Floats = self.stretch.motion[max(at - 2, 0) : at + 3].mean(axis=0)
        return motion


class Windows:
    """Windows side by side: W of them, with up to M measurements each."""

    def __init__(self, windows: list[Window]) -> None:
        """Lay out measurements and the steps of a replay that they belong to."""
        self.windows = windows
        count = max(len(window.rows) for window in windows)
        self.known = np.zeros((len(windows), count), np.bool_)
        """(W, M) which measurements there are."""
        self.motion = np.zeros((len(windows), count, 2))
        """(W, M, 2) forward speed [m/s], yaw rate [rad/s]."""
        self.moved = np.zeros((len(windows), 2))
        """(W, 2) way from first to last measurement [m], in the odometry's frame."""
        self.launch = np.array([window.launch for window in windows])
        """(W, 2) motion at the begin of the run-in."""
        self._position = np.zeros((len(windows), count))
        for row, window in enumerate(windows):
            mine = window.rows
            times = window.stretch.times[mine]
            self.known[row, : len(mine)] = True
            self.motion[row, : len(mine)] = window.stretch.motion[mine]
            since = times - (window.start - RUN_IN)
            self._position[row, : len(mine)] = since * STEPS_PER_SECOND - 1.0
            self.moved[row] = window.stretch.place[mine[-1]] - window.stretch.place[mine[0]]

    def __len__(self) -> int:
        return len(self.windows)

    def only(self, rows: Iterable[int]) -> "Windows":
        """Return some of the windows."""
        return Windows([self.windows[row] for row in rows])

    def targets(self, delay: float = 0.0) -> Floats:
        """Return the command (STEPS, W, a) that reaches the base at each step, late by a delay."""
        since = (1.0 + np.arange(STEPS)) / STEPS_PER_SECOND - RUN_IN - delay
        since = since + 1e-7  # stamps are whole nanoseconds, steps are not
        found = [window.stretch.commands.at(window.start + since) for window in self.windows]
        return np.stack(found, axis=1)

    def sampled(self, replayed: Floats, delays: Floats) -> Floats:
        """Return what replays (STEPS, P, W, d) give at the measurements (P, W, M, d).

        Each is late by its delay (P,) [s].
        """
        late = delays[:, None, None] * STEPS_PER_SECOND
        position = np.clip(self._position - late, 0.0, STEPS - 1.0)  # (P, W, M)
        below = np.minimum(position.astype(np.int64), STEPS - 2)
        share = (position - below)[..., None]
        rows = np.arange(len(delays))[:, None, None], np.arange(len(self))[:, None]
        before, after = replayed[below, *rows], replayed[below + 1, *rows]
        between: Floats = before + share * (after - before)
        return between


def windows_of(stretches: list[Stretch], base: Base) -> Windows:
    """Cut stretches into windows with motion or commands in them. Raises InputError for too few."""
    found = [
        window
        for stretch in stretches
        for window in _cut(stretch)
        if _moves(window, base) and len(window.rows) >= 5
    ]
    if len(found) < FEWEST:
        seconds = sum(stretch.times[-1] - stretch.times[0] for stretch in stretches)
        raise InputError(
            f"{len(found)} windows of {LENGTH:g} s with motion or commands in {seconds:.0f} s of "
            f"odometry: at least {FEWEST} are needed"
        )
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST)).round().astype(int))
    return Windows([found[index] for index in chosen])


def _cut(stretch: Stretch) -> Iterable[Window]:
    """Yield the windows of a stretch; a base that does not stand at its begin needs a run-in."""
    begin = stretch.times[0]
    stands = (np.abs(stretch.motion[:5].mean(axis=0)) < REST).all()
    first = begin if stands else max(begin, stretch.commands.times[0]) + RUN_IN
    for start in np.arange(first, stretch.times[-1] - TAIL - LENGTH, LENGTH):
        at = int(np.searchsorted(stretch.times, start))
        yield Window(stretch, float(stretch.times[at]))


def _moves(window: Window, base: Base) -> bool:
    moved = np.quantile(np.abs(window.stretch.motion[window.rows]), 0.9, axis=0) > REST
    times = window.stretch.times[window.rows]
    commanded = window.stretch.commands.at(times) != base.safe
    return bool(moved.any() or commanded.any())
