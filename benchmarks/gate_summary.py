"""What the units of benchmarks/gate.py come to, with 95 % intervals (Clopper, Pearson 1934)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata

Unit = Mapping[str, Any]
"""Columns over the drives: `ticks`, `alarm` and `level` by detector, and of the policy's own drives
`bump`, `success` and `gated`."""

PERIOD = 0.1
"""Of a tick [s]."""
BRAKING = 3
"""Ticks from an alarm to standstill, from full speed: an alarm that comes later is too late."""


def summary(units: Mapping[str, Unit]) -> dict[str, Any]:
    """Return the figures of every unit, and those over all drives of the policy."""
    found: dict[str, Any] = {name: _of_unit(unit) for name, unit in units.items()}
    driven = [unit for unit in units.values() if "bump" in unit]
    if driven:
        found["all drives of the policy"] = {"AUROC of bumps": _auroc(driven)}
    return found


def share(count: int, of: int) -> dict[str, Any]:
    """Return a share with its interval."""
    interval = binomtest(count, of).proportion_ci(0.95, method="exact") if of else (0.0, 1.0)
    return {
        "count": count,
        "of": of,
        "share": round(count / of, 3) if of else None,
        "interval": [round(float(bound), 3) for bound in interval],
    }


def _of_unit(unit: Unit) -> dict[str, Any]:
    drives, hours = len(unit["ticks"]), sum(unit["ticks"]) * PERIOD / 3600.0
    found: dict[str, Any] = {
        "drives": drives,
        "hours": round(hours, 3),
        "alarms": {name: _alarms(column, hours) for name, column in unit["alarm"].items()},
    }
    if "bump" not in unit:
        return found
    bumps, gated = _ticks(unit["bump"]), unit["gated"]
    bumped = np.isfinite(bumps)
    behind = np.isfinite(_ticks(gated["bump"]))
    before, after = int(bumped.sum()), int(behind.sum())
    return found | {
        "bumps": before,
        "bumps behind the gate": after,
        "avoided": share(int((bumped & ~behind).sum()), before),
        "stopped by a score": int(np.isfinite(_ticks(gated["stopped"])).sum()),
        "stopped by a check": int(np.isfinite(_ticks(gated["halted"])).sum()),
        "braked": int(np.count_nonzero(gated["braked"])),
        "goals": int(sum(unit["success"])),
        "goals behind the gate": int(sum(gated["success"])),
        "bumps announced in time": {
            name: share(int((_ticks(column) <= bumps - BRAKING)[bumped].sum()), before)
            for name, column in unit["alarm"].items()
        },
    }


def _alarms(column: list[int | None], hours: float) -> dict[str, Any]:
    ticks = _ticks(column)
    alarmed = np.isfinite(ticks)
    count = int(alarmed.sum())
    return share(count, len(column)) | {
        "per hour": round(count / hours, 2) if hours else None,
        "median delay": round(float(np.median(ticks[alarmed])) * PERIOD, 1) if count else None,
    }


def _auroc(units: list[Unit]) -> dict[str, float]:
    """Return how often a drive with a bump has a higher level than one without, by detector.

    Levels are the highest of a drive, up to the bump.
    """
    bumped = np.concatenate([np.isfinite(_ticks(unit["bump"])) for unit in units])
    with_bump = int(bumped.sum())
    pairs = with_bump * (len(bumped) - with_bump)
    found = {}
    for name in units[0]["level"]:
        ranks = rankdata(np.concatenate([unit["level"][name] for unit in units]))
        above = ranks[bumped].sum() - with_bump * (with_bump + 1) / 2
        found[name] = round(float(above / pairs), 3) if pairs else float("nan")
    return found


def _ticks(column: list[int | None]) -> NDArray[np.float64]:
    """Return ticks (n,), inf where there is none."""
    return np.array([np.inf if tick is None else tick for tick in column], np.float64)
