"""The policy node over real DDS: its interface, and every row of the failure table."""

import math
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from in_process import policy_node
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.lifecycle import TransitionCallbackReturn
from signing import make_keys
from std_srvs.srv import SetBool, Trigger
from support import ROBOT, encode, golden, odometry, scan, write_policy

from .conftest import NodeStarter, Probe, log

pytestmark = pytest.mark.ros


def test_drives_at_its_rate_inside_the_limits_and_reports(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(policy)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.commands.clear()
    probe.feed(3.0)
    times = np.array([t for t, _ in probe.commands])
    assert 1.0 / np.median(np.diff(times)) == pytest.approx(20.0, rel=0.1)
    last = probe.commands[-1][1]
    assert (last.linear.x, last.angular.z) == (0.5, 0.25)
    assert all(abs(m.linear.x) <= 1 and abs(m.angular.z) <= 2 for _, m in probe.commands)
    assert len(probe.uncertainties[-1]) == 4
    (status,) = probe.diagnostics[-1].status
    values = {pair.key: pair.value for pair in status.values}
    assert values["rate [Hz]"].endswith("of 20")
    assert float(values["age of scan [s]"]) < 0.3
    assert values["algorithm"] == "constant"
    seen = probe.observations[-1]
    assert list(seen.name) == [f"scan_{k}" for k in range(4)] + [
        "twist_0",
        "twist_1",
        "last_action_0",
        "last_action_1",
    ]
    np.testing.assert_array_equal(
        np.array(seen.position, np.float32), np.float32([1, 1, 1, 1, 0.2, 0.2, 0.5, 0.25])
    )


def test_silence_then_stop_within_max_age(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(policy)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.feed(0.5)
    silent = time.monotonic()
    while probe.state != "STOP":
        probe.spin(0.01)
        assert time.monotonic() - silent < 2.0
    stopped = time.monotonic() - silent
    assert stopped < 0.3 + 2 / 20 + 0.2  # max_age, two ticks, the machine's noise
    assert "s old" in probe.reason
    probe.spin(0.5)
    assert probe.commands[-1][1].linear.x == 0.0
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL again")


def test_no_observation_yet_is_stop_with_the_safe_command(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(policy)
    probe.wait_for(lambda: len(probe.commands) > 5, "commands", feed=False)
    assert all(m.linear.x == 0.0 and m.angular.z == 0.0 for _, m in probe.commands)
    probe.wait_for(lambda: bool(probe.gates), "gate status", feed=False)
    assert probe.state == "STOP"
    assert "scan: no message yet" in probe.reason


ODOMETRY = "nav_msgs/msg/Odometry"


@pytest.mark.parametrize(
    ("topic", "type_name", "content", "reason"),
    [
        ("/odom", ODOMETRY, odometry(float("nan"), 0.0), "twist_0: not finite"),
        ("/odom", ODOMETRY, encode(odometry(), ODOMETRY)[:100], f"{ODOMETRY} of 100 bytes"),
        (
            "/scan",
            "sensor_msgs/msg/LaserScan",
            scan([1.0, *[math.inf] * 5, 1.0, 1.0]),
            "scan: 5 of 8 readings are missing, at most 4 may be",
        ),
    ],
)
def test_bad_message_stops_and_the_next_good_one_drives(
    topic: str,
    type_name: str,
    content: object,
    reason: str,
    policy: Path,
    start_node: NodeStarter,
    probe: Probe,
) -> None:
    start_node(policy)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    for _ in range(10):
        probe.feed(0.05)
        probe.send(topic, content, type_name)
        probe.spin(0.05)
        if probe.state == "STOP":
            break
    assert reason in probe.reason
    assert all(np.isfinite([m.linear.x, m.angular.z]).all() for _, m in probe.commands)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL again")


def test_brakes_while_something_comes_too_near_and_goes_on_after(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    text = ROBOT.replace("max_age: 0.3}", "max_age: 0.3, collision: {range: 0.3, time: 0.5}}", 1)
    start_node(write_policy(tmp_path / "p.onnx", text=text))
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    near = 1.0  # as in `feed`
    while probe.state == "NOMINAL" and near > 0.0:
        near -= 0.05
        probe.send("/scan", scan([near] * 8), "sensor_msgs/msg/LaserScan")
        probe.send("/odom", odometry(0.2, 0.2), "nav_msgs/msg/Odometry")
        probe.spin(0.05)
    assert probe.state == "STOP"
    assert "scan: collision ahead: " in probe.reason
    assert near > 0.3
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")


def test_unfamiliar_falls_back_latched_until_reset(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(policy, dwell=0.2)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.feed(0.2, x=2.4)
    assert probe.state == "FALLBACK"
    assert probe.reason.startswith("unfamiliar: critic_std")
    probe.feed(3.0)
    assert probe.state == "FALLBACK"
    assert probe.commands[-1][1].linear.x == 0.0
    assert probe.call(Trigger, "/policy/reset").success
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL after reset")


def test_backup_controller_drives_in_fallback_while_it_is_fresh(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    from geometry_msgs.msg import Twist

    start_node(policy, fallback="topic", backup_topic="/cmd_vel_backup")
    backup = probe.create_publisher(Twist, "/cmd_vel_backup", 10)
    slow = Twist()
    slow.linear.x = 0.1
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    for _ in range(20):
        backup.publish(slow)
        probe.feed(0.05, x=2.4)
    assert probe.state == "FALLBACK"
    assert probe.commands[-1][1].linear.x == pytest.approx(0.1)
    probe.feed(1.0, x=2.4)
    assert probe.commands[-1][1].linear.x == 0.0


def test_a_flood_does_not_grow_the_queue_and_the_rate_holds(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(policy)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.commands.clear()
    probe.feed(3.0, rate=400.0)
    times = np.array([t for t, _ in probe.commands])
    assert 1.0 / np.median(np.diff(times)) == pytest.approx(20.0, rel=0.1)
    assert probe.state == "NOMINAL"
    values = {pair.key: pair.value for pair in probe.diagnostics[-1].status[0].values}
    assert int(values["messages buffered"]) < 300


def mode(probe: Probe) -> str:
    """The mode in the newest diagnostics, which come once a second."""
    values = [pair for each in probe.diagnostics[-1:] for pair in each.status[0].values]
    return next((pair.value for pair in values if pair.key == "mode"), "")


def test_shadow_publishes_all_but_the_command_and_engage_starts_it(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    from geometry_msgs.msg import Twist

    start_node(policy, mode="shadow")
    driver = probe.create_publisher(Twist, "/cmd_vel", 10)
    other = Twist()
    other.linear.x = 0.7

    def driven() -> bool:
        driver.publish(other)
        return probe.state == "NOMINAL"

    assert probe.call(SetBool, "/policy/engage", data=False).success  # later calls are quick
    probe.wait_for(lambda: driven() and mode(probe) == "shadow", "NOMINAL and its mode")
    assert all(m.linear.x == 0.7 for _, m in probe.commands)
    # the command in force is the other driver's, and that is what the policy saw in training
    assert np.float32(probe.observations[-1].position[6]) == np.float32(0.7)
    assert probe.call(SetBool, "/policy/engage", data=True).success
    probe.commands.clear()
    probe.feed(1.0)
    assert probe.commands[-1][1].linear.x == 0.5
    probe.wait_for(lambda: mode(probe) == "engaged", "its mode")
    assert 0.5 < probe.commands[0][1].linear.x <= 0.7  # taken over from 0.7, not from zero
    assert probe.call(SetBool, "/policy/engage", data=False).success
    probe.spin(0.2)
    assert probe.commands[-1][1].linear.x == 0.0  # one safe command at the end
    probe.commands.clear()
    probe.feed(0.5)
    assert probe.commands == []


def test_activation_begins_at_the_safe_command(policy: Path, ros: None) -> None:  # noqa: ARG001
    """Not at the command that was in force when the node was last active or engaged."""
    with policy_node(policy) as (node, _):
        assert node.controller is not None
        node.controller.limiter.last = np.array([0.8, 0.8])
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node.controller.limiter.last.tolist() == [0.0, 0.0]
        node.controller.limiter.last = np.array([0.8, 0.8])
        for engaged in (False, True):
            node._on_engage(SetBool.Request(data=engaged), SetBool.Response())
        assert node.controller.limiter.last.tolist() == [0.0, 0.0]


def test_a_pause_between_activations_is_not_late(policy: Path, ros: None) -> None:  # noqa: ARG001
    with policy_node(policy) as (node, _):
        assert node.controller is not None
        for _ in range(2):
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            node._tick()
            assert node.controller.late == 0
            time.sleep(0.2)
            node._tick()
            assert node.controller.late == 1
            assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
            time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_publishes_one_safe_command_and_exits_0(
    number: signal.Signals, policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    process = start_node(policy)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.feed(0.5)
    assert probe.commands[-1][1].linear.x == 0.5
    process.send_signal(number)
    assert process.wait(10) == 0
    probe.spin(0.3)
    assert probe.commands[-1][1].linear.x == 0.0


def test_managed_by_hand_and_deactivate_is_safe(
    policy: Path, start_node: NodeStarter, probe: Probe
) -> None:
    start_node(policy, autostart=False)

    def change(transition: int) -> bool:
        request = ChangeState.Request().transition
        request.id = transition
        return bool(probe.call(ChangeState, "/policy/change_state", transition=request).success)

    def state() -> str:
        return str(probe.call(GetState, "/policy/get_state").current_state.label)

    assert state() == "unconfigured"
    assert change(Transition.TRANSITION_CONFIGURE)
    assert state() == "inactive"
    probe.feed(0.5)
    assert probe.commands == []
    assert change(Transition.TRANSITION_ACTIVATE)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    probe.feed(0.5)
    assert change(Transition.TRANSITION_DEACTIVATE)
    probe.spin(0.2)
    assert probe.commands[-1][1].linear.x == 0.0
    probe.commands.clear()
    probe.gates.clear()
    probe.feed(1.5)
    assert probe.commands == []
    assert probe.gates == []  # nothing is decided any more
    assert probe.diagnostics[-1].status[0].message == "no tick yet"
    assert change(Transition.TRANSITION_CLEANUP)
    assert state() == "unconfigured"
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL after a second configure")


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        ("missing", "no such policy file"),
        ("corrupt", "damaged: its content does not match its checksum"),
        ("golden", "golden vectors differ"),
        ("digest", "changed after export"),
    ],
)
def test_bad_policy_file_keeps_the_node_unconfigured(
    break_it: str, sentence: str, tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    path = tmp_path / "policy.onnx"
    if break_it == "golden":
        write_policy(path, golden=golden(actions=[0.6, 0.25]))
    elif break_it != "missing":
        write_policy(path, **({"robot_digest": "0" * 16} if break_it == "digest" else {}))
    if break_it == "corrupt":
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(bytes(content))
    process = start_node(path, autostart=False)
    request = ChangeState.Request().transition
    request.id = Transition.TRANSITION_CONFIGURE
    assert not probe.call(ChangeState, "/policy/change_state", transition=request).success
    assert probe.call(GetState, "/policy/get_state").current_state.label == "unconfigured"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert sentence in log(tmp_path)
    assert "Traceback" not in log(tmp_path)


def test_unsigned_policy_file_is_refused_where_a_signature_is_required(
    policy: Path, start_node: NodeStarter, tmp_path: Path
) -> None:
    _, public = make_keys(tmp_path)
    assert start_node(policy, require_signature=True, trusted_keys=public).wait(20) == 2
    assert "not signed, and a signature is required" in log(tmp_path)
    assert start_node(policy, require_signature=True).wait(20) == 2
    assert "parameter trusted_keys: missing" in log(tmp_path)


def test_wrong_parameter_is_refused_with_what_is_allowed(
    policy: Path, start_node: NodeStarter, tmp_path: Path
) -> None:
    assert start_node(policy, fallback="halt").wait(20) == 2
    assert "parameter fallback: 'halt' is not allowed" in log(tmp_path)
    assert start_node(policy, backup_topic="cmd_vel").wait(20) == 2
    assert "parameter backup_topic: cmd_vel is the topic of this node's commands" in log(tmp_path)


def test_serve_starts_the_same_node(policy: Path, probe: Probe, tmp_path: Path) -> None:
    import sys

    command = [sys.executable, "-m", "offrl_contract.cli", "serve", str(policy)]
    with (tmp_path / "serve.log").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        probe.wait_for(lambda: probe.state == "NOMINAL", "NOMINAL")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_publisher_of_another_definition_stops_the_node(
    tmp_path: Path, start_node: NodeStarter, probe: Probe
) -> None:
    """The policy was trained on another Odometry than the one that is published."""
    import json

    from offrl_contract.definitions import definition_hashes
    from support import STORE, robot

    hashes = definition_hashes(STORE, set(robot().topics().values()))
    hashes["nav_msgs/msg/Odometry"] = "RIHS01_" + "0" * 64
    path = write_policy(tmp_path / "p.onnx", definition_hashes=json.dumps(hashes))
    start_node(path)
    probe.wait_for(lambda: "definition of nav_msgs/msg/Odometry" in probe.reason, "the reason")
    assert probe.state == "STOP"
    probe.feed(0.5)
    assert probe.commands[-1][1].linear.x == 0.0
