"""Parameters of a running node over its own services: the gate gets stricter, never looser."""

from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from support import write_policy

from .conftest import NodeStarter, Probe

pytestmark = pytest.mark.ros


def set_one(probe: Probe, name: str, value: object) -> tuple[bool, str]:
    message = Parameter(name, value=value).to_parameter_msg()
    (result,) = probe.call(SetParameters, "/policy/set_parameters", parameters=[message]).results
    return result.successful, result.reason


def change(probe: Probe, transition: int) -> bool:
    request = ChangeState.Request().transition
    request.id = transition
    return bool(probe.call(ChangeState, "/policy/change_state", transition=request).success)


def test_a_running_gate_is_tightened_at_once_and_never_loosened(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(write_policy(tmp_path / "policy.onnx"))
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    for name, value in (("caution", 0.9), ("latch", False), ("dwell", 0.5), ("overruns", 4)):
        done, reason = set_one(probe, name, value)
        assert not done
        assert "could loosen the gate" in reason
    assert not set_one(probe, "fallback", "halt")[0]
    assert not set_one(probe, "policy", "other.onnx")[0]
    assert not set_one(probe, "require_signature", True)[0]  # read-only
    done, reason = set_one(probe, "use_sim_time", True)  # nobody publishes /clock
    assert (done, "while configured: fixed" in reason) == (False, True)
    probe.feed(0.5)
    assert probe.state == "NOMINAL"
    assert set_one(probe, "caution", 0.1) == (True, "")  # the scores are at 0.1 of theirs
    probe.feed(0.5)
    assert probe.state == "CAUTION"
    assert not set_one(probe, "caution", 0.8)[0]
    for transition in (
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
    ):
        assert change(probe, transition)
    assert set_one(probe, "caution", 0.8) == (True, "")  # an unconfigured node takes it
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert change(probe, transition)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL with the old caution")


def test_descriptors_tell_range_and_rule(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(write_policy(tmp_path / "policy.onnx"), autostart=False)
    names = ["caution", "overruns", "fallback", "trusted_keys"]
    answer = probe.call(DescribeParameters, "/policy/describe_parameters", names=names)
    caution, overruns, fallback, trusted_keys = answer.descriptors
    assert caution.floating_point_range[0].to_value == 1.0
    assert caution.additional_constraints == "while configured: lower"
    assert overruns.integer_range[0].to_value == 1000
    assert fallback.description == "What drives in FALLBACK: stop, hold or topic."
    assert trusted_keys.read_only
