"""Parameters of the node: declared with description and range, read into frozen settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offrl_contract import InputError
from offrl_contract.errors import nearest
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from offrl_policy.controller import Settings
from offrl_policy.gate import GateSettings

CHOICES = {"mode": ("engaged", "shadow"), "fallback": ("stop", "hold", "topic")}
# name: default, lowest, highest, description
_PARAMETERS: dict[str, tuple[Any, float | None, float | None, str]] = {
    "policy": ("", None, None, "Policy file (.onnx)."),
    "mode": ("engaged", None, None, "engaged, or shadow: everything but the command."),
    "require_signature": (False, None, None, "Refuse a policy file that is not signed."),
    "trusted_keys": ("", None, None, "PEM file of the Ed25519 public keys that may sign."),
    "autostart": (False, None, None, "Configure and activate without a lifecycle manager."),
    "fallback": ("stop", None, None, "What drives in FALLBACK: stop, hold or topic."),
    "backup_topic": ("", None, None, "Command topic of the backup controller, for `topic`."),
    "hold_time": (0.5, 0.0, 10.0, "How long `hold` keeps the last command [s]."),
    "blend_time": (0.3, 0.0, 10.0, "Length of a hand-over between drivers [s]."),
    "caution": (0.8, 0.0, 1.0, "CAUTION from this fraction of a threshold on."),
    "caution_scale": (1.0, 0.0, 1.0, "Share of the action that is kept in CAUTION."),
    "release": (0.7, 0.0, 1.0, "FALLBACK may be left below this fraction of the thresholds."),
    "dwell": (1.0, 0.0, 60.0, "How long scores must stay below `release` [s]."),
    "latch": (True, None, None, "Leaving FALLBACK also needs the service ~/reset."),
    "overruns": (3, 1, 1000, "Late ticks in a row that hand over to the fallback."),
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


def declare(node: Any) -> None:
    """Declare every parameter on a node."""
    for name, (default, low, high, text) in _PARAMETERS.items():
        descriptor = ParameterDescriptor(description=text)
        if isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        elif low is not None and high is not None:
            span = IntegerRange(from_value=int(low), to_value=int(high), step=1)
            descriptor.integer_range = [span]
        node.declare_parameter(name, default, descriptor)


def read(node: Any) -> Parameters:
    """Read the parameters. Raises InputError naming the parameter and what is allowed."""
    value = {name: node.get_parameter(name).value for name in _PARAMETERS}
    for name, allowed in CHOICES.items():
        if value[name] not in allowed:
            hint = nearest(value[name], allowed)
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
