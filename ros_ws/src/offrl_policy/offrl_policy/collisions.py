"""The robot file's `collision`: time until the nearest thing that a term sees is too near."""

from typing import NamedTuple

from offrl_contract import Robot
from offrl_contract.live import Live, Observation


class Approach(NamedTuple):
    """How the nearest thing comes nearer."""

    since: int
    """From when on [ns]."""
    begun: float
    """How far away it was then [m]."""
    seen: int
    """When it was seen last [ns]."""
    nearest: float
    """How far away it was then [m]."""
    speed: float
    """How fast it nears [m/s], 0 where it does not."""


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
            known = self.approaches.get(term.name)
            if known is None or seen > known.seen:
                known = _follow(known, seen, nearest, term.max_age, term.collision.noise)
                self.approaches[term.name] = known
            ahead = known.speed * (term.collision.time + (now - known.seen) / 1e9)  # [m]
            if known.speed > 0.0 and known.nearest - ahead < term.collision.range:
                return (
                    f"{term.name}: collision ahead: {known.nearest:.2f} m to the nearest thing, "
                    f"which nears at {known.speed:.2f} m/s"
                )
        return ""


def _follow(
    before: Approach | None, seen: int, nearest: float, max_age: float, noise: float
) -> Approach:
    """Return the approach with one more reading.

    What comes nearer by less than `noise` may stand still; it nears no faster than that tells,
    until it has come nearer by `noise`, or has not within `max_age` [s].
    """
    anew = Approach(seen, nearest, seen, nearest, 0.0)
    if before is None or seen - before.seen > max_age * 1e9 or nearest >= before.begun:
        return anew
    elapsed, nearer = (seen - before.since) / 1e9, before.begun - nearest
    if nearer >= noise:
        return anew._replace(speed=nearer / elapsed)
    if elapsed > max_age:
        return anew
    return before._replace(seen=seen, nearest=nearest, speed=min(before.speed, noise / elapsed))
