"""The safety gate: decides, tick by tick, whether the policy may drive.

A score alarms by its value (a jump) or by its CUSUM (a small shift that lasts; Page 1954). The
thresholds come from whole held-out episodes, so that a normal episode alarms with probability at
most alpha (split conformal on the episode's maximum).
"""

from dataclasses import dataclass
from enum import Enum

from offrl_contract.robot import Spec
from pydantic import Field, PositiveFloat

from offrl_policy.record import GateState


class ScoreCalibration(Spec):
    """What is normal for one score."""

    name: str
    """critic_std, knn, dynamics_std or dynamics_error."""
    mean: float
    """Over the training episodes."""
    std: PositiveFloat
    """Over the training episodes."""
    threshold: PositiveFloat
    """Alarm at this value."""
    cusum_threshold: PositiveFloat
    """Alarm at this value of the CUSUM."""
    quantiles: dict[str, float]
    """Of the score on held-out episodes, per tick."""


class FalseAlarms(Spec):
    """Alarms in normal driving, seen in the held-out episodes.

    Each half of them, in the order of recording, is judged by thresholds from the other half. Where
    half of them are too few for alpha, its largest is the threshold: more than alpha may alarm.
    """

    episodes: int
    alarms: int
    rate: float
    """Alarms per episode."""
    interval: tuple[float, float]
    """Clopper-Pearson 95 % interval of the rate."""
    hours: float
    per_hour: float


class Reliability(Spec):
    """What came of an alpha that was asked for, counted as in FalseAlarms."""

    alpha: float
    rate: float
    """Alarms per episode."""
    interval: tuple[float, float]
    """Clopper-Pearson 95 % interval of the rate."""


class GateCalibration(Spec):
    """Everything the gate needs to know, as the policy file carries it."""

    alpha: float = Field(gt=0.0, lt=1.0)
    """Probability that a normal episode alarms, at most."""
    episodes: int
    """Held-out episodes (or windows) that the thresholds come from."""
    window: float | None
    """Length of the windows that long logs were cut into [s]; None for whole episodes."""
    slack: float
    """CUSUM reference value k, in standard deviations."""
    scores: tuple[ScoreCalibration, ...] = Field(min_length=1)
    """In the order of the policy's output `uncertainty`."""
    false_alarms: FalseAlarms
    assumption: str
    """What the guarantee rests on."""
    reliability: tuple[Reliability, ...] = ()
    """Of as many alphas as half the held-out episodes allow."""


class State(Enum):
    """States of the gate."""

    STOP = "STOP"
    """A check failed, or nothing was checked yet: the safe command."""
    NOMINAL = "NOMINAL"
    """The policy drives."""
    CAUTION = "CAUTION"
    """The policy drives, a score is close to its threshold."""
    FALLBACK = "FALLBACK"
    """Unfamiliar: the fallback drives."""


@dataclass(frozen=True)
class GateSettings:
    """How the gate behaves; parameters of the node."""

    caution: float = 0.8
    """CAUTION from this fraction of a threshold on."""
    release: float = 0.7
    """FALLBACK may be left below this fraction of every threshold."""
    dwell: float = 1.0
    """How long scores must stay below `release` [s]."""
    latch: bool = True
    """Leaving FALLBACK also needs a reset."""


class Cusum:
    """One-sided CUSUM of standardised scores: C <- max(0, C + (x - mean) / std - k)."""

    def __init__(self, calibration: GateCalibration) -> None:
        self._parameters = [
            (s.mean, s.std, calibration.slack, 2.0 * s.cusum_threshold) for s in calibration.scores
        ]
        self.reset()

    def reset(self) -> None:
        """Begin a new episode."""
        self.values = [0.0] * len(self._parameters)

    def update(self, scores: list[float]) -> list[float]:
        """Take one tick's scores and return the sums; capped at twice the threshold."""
        self.values = [
            min(max(0.0, value + (score - mean) / std - slack), most)
            for value, score, (mean, std, slack, most) in zip(
                self.values, scores, self._parameters, strict=True
            )
        ]
        return self.values


class Gate:
    """The state machine. Time is an argument [ns]."""

    def __init__(self, calibration: GateCalibration, settings: GateSettings) -> None:
        self._thresholds = [
            (each.name, each.threshold, f"{each.name}_cusum", each.cusum_threshold)
            for each in calibration.scores
        ]
        self.settings = settings
        self._cusum = Cusum(calibration)
        self.state = State.STOP
        self.reason = "not started"
        self.levels: dict[str, float] = {}
        """Score over threshold, for each score and its CUSUM."""
        self._fallen = False
        """In FALLBACK, or in STOP with FALLBACK behind it."""
        self._latched = False
        self._calm_since: int | None = None

    def stop(self, reason: str) -> None:
        """A check failed: STOP. A FALLBACK stays behind it."""
        self.state = State.STOP
        self.reason = reason
        self.levels = {}
        self._calm_since = None

    def fall_back(self, reason: str) -> None:
        """Hand over to the fallback."""
        self.state = State.FALLBACK
        self.reason = reason
        self._fallen = self._latched = True
        self._calm_since = None

    def restart_dwell(self) -> None:
        """Count the dwell time anew: nothing was seen for a while."""
        self._calm_since = None

    def reset(self) -> None:
        """Release the latch; FALLBACK is left once scores are calm for the dwell time.

        What led to it is dealt with: its sums, which would alarm on for a while, begin anew.
        """
        self._latched = False
        if self._fallen:
            self._cusum.reset()

    def snapshot(self) -> GateState:
        """Return everything that the next step depends on."""
        return GateState(
            state=self.state.value,
            reason=self.reason,
            fallen=self._fallen,
            latched=self._latched,
            calm_since=self._calm_since,
            cusum=tuple(self._cusum.values),
        )

    def restore(self, known: GateState) -> None:
        """Go on from a snapshot."""
        self.state, self.reason = State(known.state), known.reason
        self._fallen, self._latched = known.fallen, known.latched
        self._calm_since = known.calm_since
        self._cusum.values = list(known.cusum)

    def step(self, now: int, scores: list[float]) -> State:
        """Take the scores of a tick whose checks all passed; return the state."""
        if self.state is State.STOP and not self._fallen:
            self._cusum.reset()
        level, cause = self._level(scores)
        if level >= 1.0:
            self.fall_back(f"unfamiliar: {cause} at {level:.2f} of its threshold")
        elif self._fallen:
            self._hold_fallback(now, level)
        elif level >= self.settings.caution:
            self.state, self.reason = State.CAUTION, f"{cause} at {level:.2f} of its threshold"
        else:
            self.state, self.reason = State.NOMINAL, "familiar"
        return self.state

    def _level(self, scores: list[float]) -> tuple[float, str]:
        """Return the greatest score over threshold, and its name."""
        sums = self._cusum.update(scores)
        levels: dict[str, float] = {}
        for score, total, known in zip(scores, sums, self._thresholds, strict=True):
            name, threshold, cusum, cusum_threshold = known
            levels[name] = score / threshold
            levels[cusum] = total / cusum_threshold
        self.levels = levels
        cause = max(levels, key=levels.__getitem__)
        return levels[cause], cause

    def _hold_fallback(self, now: int, level: float) -> None:
        """Stay in FALLBACK until scores are calm for the dwell time and the latch is released."""
        latched = self._latched and self.settings.latch
        if level >= self.settings.release:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        calm = self._calm_since is not None and (
            now - self._calm_since >= self.settings.dwell * 1e9
        )
        if calm and not latched:
            self.state, self.reason = State.NOMINAL, "familiar again"
            self._fallen = self._latched = False
            self._cusum.reset()
        elif self.state is State.STOP:
            waits = "latched: call reset" if latched else "not yet calm for the dwell time"
            self.state, self.reason = State.FALLBACK, waits
        elif calm:
            self.reason = "familiar again, latched: call reset"
