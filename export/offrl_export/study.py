"""What benchmarks/gate.py found about a policy's gate, as far as its page shows it."""

import json
from pathlib import Path

from offrl_contract import InputError
from offrl_policy.policy_file import Policy
from pydantic import BaseModel, Field, ValidationError

GATE = "gate"
"""The detector that is the gate; the others are for comparison."""
_OVERALL = "all drives of the policy"


class Share(BaseModel):
    """So many of so many."""

    count: int
    of: int
    interval: tuple[float, float]
    """Clopper-Pearson 95 % interval of the share."""


class Alarms(Share):
    """Drives in which a detector alarmed."""

    per_hour: float | None = Field(alias="per hour")
    median_delay: float | None = Field(alias="median delay")
    """From the first tick [s]."""


class Drives(BaseModel):
    """Drives under one condition."""

    drives: int
    hours: float
    alarms: dict[str, Alarms]
    """By detector."""
    bumps: int | None = None
    """Without the gate; None where a log was judged."""
    behind_gate: int | None = Field(None, alias="bumps behind the gate")
    checked: int | None = Field(None, alias="stopped by a check")
    """Drives behind the gate in which a check stopped the robot at some time."""
    braked: int | None = None
    """Drives behind the gate in which the robot file's `collision` braked at some time."""
    avoided: Share | None = None
    """Bumps that did not happen behind the gate."""


class Study(BaseModel):
    """All conditions, and how well each detector tells drives with a bump from others."""

    conditions: dict[str, Drives]
    auroc: dict[str, float]
    """By detector."""


def read_study(path: Path, policy: Policy) -> Study:
    """Read a study of this policy. Raises InputError."""
    try:
        content = json.loads(path.read_text())
        made_with, summary = content["policy"], content["summary"]
        overall = summary.pop(_OVERALL, {"AUROC of bumps": {}})
        study = Study.model_validate({"conditions": summary, "auroc": overall["AUROC of bumps"]})
    except OSError as error:
        raise InputError(f"--study {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise InputError(f"--study {path}: not what benchmarks/gate.py writes: {reason}") from error
    if not study.conditions:
        raise InputError(f"--study {path}: holds no drives")
    if made_with != policy.checksum:
        raise InputError(
            f"--study {path}: is of the policy {made_with[:12]}…, this one is "
            f"{policy.checksum[:12]}…"
        )
    return study
