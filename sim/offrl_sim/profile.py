"""How the simulated robot differs from the nominal one: delays, sensors, body, ground."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from offrl_contract.settings import read_mapping, validated
from offrl_contract.terms import Spec
from pydantic import AfterValidator, BeforeValidator, Field


def _as_interval(value: Any) -> Any:
    return (value, value) if isinstance(value, (int, float)) else value


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"{interval[0]} is above {interval[1]}")
    return interval


_Delay = Annotated[float, Field(ge=0.0, le=1.0)]
_Noise = Annotated[float, Field(ge=0.0)]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Factor = Annotated[float, Field(gt=0.0)]
_BEFORE, _AFTER = BeforeValidator(_as_interval), AfterValidator(_in_order)
Delay = Annotated[tuple[_Delay, _Delay], _BEFORE, _AFTER]
Noise = Annotated[tuple[_Noise, _Noise], _BEFORE, _AFTER]
Share = Annotated[tuple[_Share, _Share], _BEFORE, _AFTER]
Factor = Annotated[tuple[_Factor, _Factor], _BEFORE, _AFTER]


@dataclass(frozen=True)
class Conditions:
    """One episode's draw from a profile; units as there."""

    observation_latency: float
    observation_jitter: float
    action_latency: float
    action_jitter: float
    lidar_noise: float
    lidar_dropout: float
    mass: float
    friction: float
    motor: float
    speed_gain: float
    steering_gain: float
    speed_lag: float


class SimProfile(Spec):
    """Each setting is a number, or [low, high] to draw from anew in each episode."""

    observation_latency: Delay = (0.0, 0.0)
    """Time by which each sensor message arrives later than nominal [s]."""
    observation_jitter: Delay = (0.0, 0.0)
    """Longest further delay of a sensor message, drawn for each [s]; none overtakes another of its
    topic."""
    action_latency: Delay = (0.0, 0.0)
    """Time from a command's arrival to its effect [s]."""
    action_jitter: Delay = (0.0, 0.0)
    """Longest further delay of a command, drawn for each [s]."""
    lidar_noise: Noise = (0.01, 0.01)
    """Standard deviation of a reading [m]."""
    lidar_dropout: Share = (0.0, 0.0)
    """Share of readings that are lost and read inf, as where nothing is in reach (REP-117). Above
    the robot file's `max_missing` the node stops, and a conversion drops the ticks."""
    mass: Factor = (1.0, 1.0)
    """Factor of the robot's masses and inertias."""
    friction: Factor = (1.0, 1.0)
    """Coefficient of friction of the ground."""
    motor: Factor = (1.0, 1.0)
    """Factor of the driving motors' torque."""
    speed_gain: Factor = (1.0, 1.0)
    """Speed of the wheels per commanded speed."""
    steering_gain: Factor = (1.0, 1.0)
    """Steering angle, or turning rate of driven wheels, per commanded one."""
    speed_lag: Delay = (0.0, 0.0)
    """Time constant with which driven wheels follow, of first order [s]."""

    @property
    def longest_delay(self) -> float:
        """Longest time by which a command's effect is seen later than nominal [s]."""
        delays = (
            self.observation_latency,
            self.observation_jitter,
            self.action_latency,
            self.action_jitter,
        )
        return sum(high for _, high in delays)

    def draw(self, rng: np.random.Generator) -> Conditions:
        """Draw an episode's conditions."""
        return Conditions(**{name: float(rng.uniform(*interval)) for name, interval in self})


def load_profile(path: Path | None) -> SimProfile:
    """Read a profile, or return the nominal one where there is no path. Raises InputError."""
    if path is None:
        return SimProfile()
    return validated(SimProfile, read_mapping(path), str(path))
