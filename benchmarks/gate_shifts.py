"""What no log has shown: the robot of DiffDriveNav with a defect or in a changed world."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from offrl_contract import Robot
from offrl_sim.diffdrive.simulation import DiffDrive
from offrl_sim.diffdrive.world import ARENA, World
from offrl_sim.messages import Message
from offrl_sim.profile import SimProfile

Floats = NDArray[np.float64]

_BESIDE = np.deg2rad(25.0)  # [rad] to each side of the nearest obstacle


class Altered(DiffDrive):
    """DiffDriveNav at some strength of a shift."""

    def __init__(self, robot: Robot, strength: float) -> None:
        self.strength = strength
        super().__init__(robot, SimProfile())


class FarSighted(Altered):
    """The lidar reads too far by so many metres."""

    def _as_read(self, ranges: Floats, angles: Floats) -> Floats:
        return super()._as_read(ranges + self.strength, angles)


class DeadSector(Altered):
    """A sector ahead, so many radians wide, sees nothing (inf)."""

    def _as_read(self, ranges: Floats, angles: Floats) -> Floats:
        read = super()._as_read(ranges, angles)
        return np.where(np.abs(angles) < self.strength / 2.0, np.inf, read)


class Walkers(Altered):
    """The obstacles walk to and fro across the robot's way, so many metres a second."""

    def _place(self, rng: np.random.Generator) -> World:
        world = super()._place(rng)
        middle = (np.array(world.start[:2]) + world.goal) / 2.0
        away = middle - world.obstacles[:, :2]
        self._walk = self.strength * away / np.linalg.norm(away, axis=1, keepdims=True)
        return world

    def _physics_step(self) -> None:
        obstacles = self.world.obstacles.copy()
        room = ARENA / 2.0 - obstacles[:, 2:]
        outward = (np.abs(obstacles[:, :2]) >= room) & (obstacles[:, :2] * self._walk > 0.0)
        self._walk = np.where(outward, -self._walk, self._walk)
        obstacles[:, :2] += self._walk / 240.0
        self.world = replace(self.world, obstacles=obstacles)
        self._physics.place(self.world)
        super()._physics_step()


class Adversary(Altered):
    """Goal and lidar drift, so many metres a second, as one who wants a bump would have them.

    The goal moves towards the obstacle that is nearest to the robot, and the beams towards it
    lengthen.
    """

    def _goal(self, now: int) -> Message:
        message = super()._goal(now)
        angle, _ = self._nearest()
        drift = self.strength * self.elapsed
        message.pose.position.x += drift * np.cos(angle)
        message.pose.position.y += drift * np.sin(angle)
        return message

    def _as_read(self, ranges: Floats, angles: Floats) -> Floats:
        angle, _ = self._nearest()
        towards = np.abs((angles - angle + np.pi) % (2.0 * np.pi) - np.pi) < _BESIDE
        return super()._as_read(ranges + self.strength * self.elapsed * towards, angles)

    def _nearest(self) -> tuple[float, float]:
        """Return the angle in the robot's frame [rad] and the distance [m] of the nearest one."""
        offset = self.world.obstacles[:, :2] - (self.body.x, self.body.y)
        distances = np.linalg.norm(offset, axis=1) - self.world.obstacles[:, 2]
        nearest = int(distances.argmin())
        angle = np.arctan2(offset[nearest, 1], offset[nearest, 0]) - self.body.yaw
        return float(angle), float(distances[nearest])


def profiled(**settings: Callable[[float], float]) -> Callable[[Robot, float], DiffDrive]:
    """Return a builder of the nominal robot under a profile, whose settings are of the strength."""

    def build(robot: Robot, strength: float) -> DiffDrive:
        values: dict[str, Any] = {name: of(strength) for name, of in settings.items()}
        return DiffDrive(robot, SimProfile(**values))

    return build


@dataclass(frozen=True)
class Shift:
    """One kind of change."""

    build: Callable[[Robot, float], DiffDrive]
    strengths: tuple[float, float, float]
    """Mild, medium, strong."""
    what: str
    """Of the strength, with its unit."""


def _same(strength: float) -> float:
    return strength


class Shifts:
    """All of them by name."""

    NOMINAL: ClassVar[Shift] = Shift(profiled(), (0.0, 0.0, 0.0), "nothing")
    ALL: ClassVar[Mapping[str, Shift]] = {
        "lidar reads too far": Shift(FarSighted, (0.1, 0.2, 0.4), "by [m]"),
        "dead lidar sector": Shift(DeadSector, (0.5, 1.0, 2.0), "width, ahead [rad]"),
        "lidar dropout": Shift(profiled(lidar_dropout=_same), (0.5, 0.8, 0.95), "share of beams"),
        "action latency": Shift(profiled(action_latency=_same), (0.15, 0.3, 0.6), "[s]"),
        "slippery ground": Shift(profiled(friction=_same), (0.3, 0.1, 0.05), "friction"),
        "heavier": Shift(profiled(mass=_same), (2.0, 4.0, 8.0), "factor"),
        "actuator gain": Shift(profiled(speed_gain=_same), (1.5, 2.0, 3.0), "factor of the speed"),
        "walking obstacles": Shift(Walkers, (0.3, 0.6, 1.2), "[m/s]"),
        "adversarial drift": Shift(Adversary, (0.05, 0.1, 0.2), "[m/s]"),
    }
