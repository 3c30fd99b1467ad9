"""What the node tells about itself: gate status, uncertainty, and the 1 Hz diagnostics."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from offrl_policy.controller import LATE, SOON, Controller, Decision
from offrl_policy.gate import State

LEVELS = {
    State.NOMINAL: DiagnosticStatus.OK,
    State.CAUTION: DiagnosticStatus.WARN,
    State.FALLBACK: DiagnosticStatus.ERROR,
    State.STOP: DiagnosticStatus.ERROR,
}


_SILENCE = 1.0  # [s]


class TickStatistics:
    """Tick times of the last minute or so, and late ticks since `activate`."""

    def __init__(self, period: float) -> None:
        self.period = period
        self.overruns = 0
        self._behind = 0.0
        """Periods that ticks in a row came late by, at most one for each."""
        self._tick: int | None = None
        self._seconds: deque[float] = deque(maxlen=1000)
        self._begun: deque[float] = deque(maxlen=100)

    def add(self, begun: float, seconds: float, tick: int) -> int:
        """Count a tick that began at `begun` [s] and took `seconds`; return how many are missing.

        Late is one that took too long, or came too long after the one before, by its own time
        `tick` [ns]. By so much the next ones are behind, until one comes in time; one that comes
        too soon makes up for one.
        """
        self._seconds.append(seconds)
        self._begun.append(begun)
        periods = 1.0 if self._tick is None else (tick - self._tick) / 1e9 / self.period
        self._tick = tick
        if seconds > self.period or periods >= LATE:
            self.overruns += 1
            self._behind += 1.0 if seconds > self.period else min(periods - 1.0, 1.0)
        else:
            self._behind = 0.0 if periods > SOON else max(self._behind - 1.0, 0.0)
        return int(self._behind + 1e-9)

    @property
    def rate(self) -> float:
        """Measured tick rate [Hz], by the wall clock."""
        if len(self._begun) < 2:
            return 0.0
        return (len(self._begun) - 1) / (self._begun[-1] - self._begun[0])

    def silence(self, now: float) -> str:
        """Say for how long nothing ticked, where that is too long; "" otherwise."""
        silent = now - self._begun[-1] if self._begun else 0.0
        return f"no tick for {silent:.1f} s" if silent > max(_SILENCE, 3 * self.period) else ""

    def latency(self, percent: float) -> float:
        """Return a percentile of the tick time [s]."""
        return float(np.percentile(list(self._seconds), percent)) if self._seconds else 0.0


def gate_status(
    name: str, controller: Controller, decision: Decision, stale: bool = False
) -> DiagnosticStatus:
    """Return the gate's state, reason, tick, and scores over thresholds."""
    values = {"state": decision.state.value, "reason": decision.reason}
    values["tick [ns]"] = str(decision.tick)
    values |= {f"{key}/threshold": f"{level:.4f}" for key, level in decision.levels.items()}
    for score in controller.policy.gate.scores:
        values[f"{score.name} threshold"] = f"{score.threshold:.6g}"
        values[f"{score.name} cusum threshold"] = f"{score.cusum_threshold:.6g}"
    return DiagnosticStatus(
        level=DiagnosticStatus.STALE if stale else LEVELS[decision.state],
        name=f"{name}: gate",
        message=f"{decision.state.value}: {decision.reason}",
        hardware_id=controller.policy.robot.robot,
        values=_pairs(values),
    )


def node_diagnostics(
    name: str,
    stamp: Any,
    controller: Controller,
    statistics: TickStatistics,
    decision: Decision | None,
    problems: Sequence[str],
    engaged: bool,
) -> DiagnosticArray:
    """Return mode, rate, tick latency, overruns, staleness per term, model, and problems."""
    robot = controller.policy.robot
    values = {
        "mode": "engaged" if engaged else "shadow",
        "rate [Hz]": f"{statistics.rate:.2f} of {robot.rate:g}",
        "tick p50 [ms]": f"{statistics.latency(50) * 1e3:.3f}",
        "tick p99 [ms]": f"{statistics.latency(99) * 1e3:.3f}",
        "overruns": str(statistics.overruns),
        "messages buffered": str(controller.live.buffered),
        "policy": controller.policy.path.name,
        "algorithm": str(controller.policy.about.get("algorithm", "")),
        "robot digest": robot.digest(),
    }
    if decision is not None:
        for term, age in decision.ages.items():
            values[f"age of {term} [s]"] = f"{age / 1e9:.3f}" if age >= 0 else "none"
    values |= {f"problem {count}": text for count, text in enumerate(problems, 1)}
    level = LEVELS[decision.state] if decision else DiagnosticStatus.STALE
    status = DiagnosticStatus(
        level=max(level, DiagnosticStatus.WARN) if problems else level,
        name=f"{name}: policy",
        message=f"{decision.state.value}: {decision.reason}" if decision else "no tick yet",
        hardware_id=robot.robot,
        values=_pairs(values),
    )
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array


def _pairs(values: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in values.items()]
