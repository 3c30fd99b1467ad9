"""The robot file's `collision`: time until the nearest thing that a term sees is too near."""

from offrl_contract import Robot
from offrl_contract.live import Live, Observation

Approach = tuple[int, float, float]
"""When the nearest thing was seen [ns], how far away [m], and how fast it neared [m/s]."""


class Collisions:
    """Follows the nearest reading of each term with `collision`, wherever that thing is.

    The nearest distance shrinks at the speed of an approach, at whatever angle, and not at all in
    passing: no beam's angle and no footprint is needed.
    """

    def __init__(self, robot: Robot) -> None:
        self._terms = [term for term in robot.observation if term.collision]
        self.approaches: dict[str, Approach] = {}
        """By term; forgotten with the messages."""

    def check(self, now: int, observation: Observation, live: Live) -> str:
        """Take the samples of a tick at `now` [ns]; return what comes too near, or ""."""
        for term in self._terms:
            assert term.collision is not None
            seen = live.taken(term.name, now)  # the newest of the term's history
            nearest = float(observation.terms[term.name].values[0, -term.parts :].min())
            before = self.approaches.get(term.name)
            if before is None or seen > before[0]:
                speed = _speed(before, seen, nearest, term.max_age, term.collision.noise)
                self.approaches[term.name] = seen, nearest, speed
            _, nearest, speed = self.approaches[term.name]
            ahead = speed * (term.collision.time + (now - seen) / 1e9)  # [m]
            if speed > 0.0 and nearest - ahead < term.collision.range:
                return (
                    f"{term.name}: collision ahead: {nearest:.2f} m to the nearest thing, "
                    f"which nears at {speed:.2f} m/s"
                )
        return ""


def _speed(
    before: Approach | None, seen: int, nearest: float, max_age: float, noise: float
) -> float:
    """Return how fast the nearest thing came nearer since the message before [m/s], or 0."""
    if before is None or seen - before[0] > max_age * 1e9 or before[1] - nearest < noise:
        return 0.0
    return (before[1] - nearest) * 1e9 / (seen - before[0])
