"""Parameters of the node: declared with description and range, read into frozen settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl_contract import InputError, Robot
from offrl_contract.errors import nearest
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)

from offrl_policy.controller import Settings
from offrl_policy.gate import GateSettings
from offrl_policy.parameter_file import PARAMETERS, Parameter

# declared by rclpy; a node that turns to a /clock which nobody publishes ticks no more
_JUDGED = PARAMETERS | {
    "use_sim_time": Parameter(type="bool", default_value=False, description="Follow /clock.")
}


@dataclass(frozen=True)
class Parameters:
    """The node's parameters, checked."""

    policy: Path
    trusted_keys: Path | None
    """None where no signature is required."""
    engaged: bool
    backup_topic: str
    settings: Settings


@dataclass(frozen=True)
class Process:
    """How the node's process runs."""

    events: bool
    """Whether by rclpy's EventsExecutor."""
    priority: int
    """Of SCHED_FIFO; 0 for none."""
    lock_memory: bool


def declare(node: Any) -> None:
    """Declare every parameter on a node, and have its changes judged."""
    for name, row in PARAMETERS.items():
        descriptor = ParameterDescriptor(
            description=row.description,
            read_only=row.read_only,
            additional_constraints=row.additional_constraints or ", ".join(row.choices),
        )
        bounds = row.validation.bounds
        if bounds and row.type == "double":
            span = FloatingPointRange(from_value=bounds[0], to_value=bounds[1])
            descriptor.floating_point_range = [span]
        elif bounds:
            whole = IntegerRange(from_value=int(bounds[0]), to_value=int(bounds[1]), step=1)
            descriptor.integer_range = [whole]
        node.declare_parameter(name, row.default_value, descriptor)


def judge(node: Any, changes: list[Any], configured: bool) -> SetParametersResult:
    """Judge changes of parameters: a configured node only gets stricter."""
    for change in changes:
        row = _JUDGED.get(change.name)
        if row is None:  # of rclpy
            continue
        now = node.get_parameter(change.name).value
        reason = ""
        if row.choices and change.value not in row.choices:
            hint = nearest(str(change.value), row.choices)
            reason = f"parameter {change.name}: '{change.value}' is not allowed.{hint}"
        elif configured and not row.tightens(now, change.value):
            may = row.additional_constraints or "while configured: fixed"
            reason = (
                f"parameter {change.name}: {now} to {change.value} could loosen the gate ({may}). "
                "Deactivate, clean up, set it, and configure again."
            )
        if reason:
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def read(node: Any) -> Parameters:
    """Read the parameters. Raises InputError naming the parameter and what is allowed."""
    value = {name: node.get_parameter(name).value for name in PARAMETERS}
    for name, row in PARAMETERS.items():
        if row.choices and value[name] not in row.choices:
            hint = nearest(value[name], row.choices)
            raise InputError(f"parameter {name}: '{value[name]}' is not allowed.{hint}")
    if not value["policy"]:
        raise InputError("parameter policy: missing, the path of a policy file (.onnx)")
    if value["require_signature"] and not value["trusted_keys"]:
        raise InputError("parameter trusted_keys: missing, require_signature needs a PEM file")
    if value["fallback"] == "topic" and not value["backup_topic"]:
        raise InputError("parameter backup_topic: missing, fallback: topic needs it")
    gate = GateSettings(
        caution=value["caution"],
        release=value["release"],
        dwell=value["dwell"],
        latch=value["latch"],
    )
    settings = Settings(
        gate=gate,
        fallback=value["fallback"],
        hold_time=value["hold_time"],
        blend_time=value["blend_time"],
        caution_scale=value["caution_scale"],
        overruns=value["overruns"],
    )
    keys = Path(value["trusted_keys"]).expanduser() if value["require_signature"] else None
    return Parameters(
        Path(value["policy"]).expanduser(),
        keys,
        value["mode"] == "engaged",
        value["backup_topic"],
        settings,
    )


def process(node: Any) -> Process:
    """Read how the node's process is to run."""
    executor, priority, lock = (
        node.get_parameter(name).value
        for name in ("executor", "realtime.priority", "realtime.lock_memory")
    )
    return Process(executor == "events", priority, lock)


def publish_clock(node: Any, robot: Robot) -> bool:
    """Return whether a term is timed by publish stamps.

    Raises InputError where these are wrong, or nobody tells them.
    """
    timed = [term.name for term in robot.observation if robot.clock_of(term) == "publish"]
    if timed and node.get_parameter("use_sim_time").value:
        raise InputError(
            f"parameter use_sim_time: term '{timed[0]}' has clock: publish, "
            "which is wall time. Use clock: receive."
        )
    if timed and process(node).events:
        raise InputError(
            f"parameter executor: term '{timed[0]}' has clock: publish, which the "
            "EventsExecutor does not tell. Use executor: single."
        )
    return bool(timed)
