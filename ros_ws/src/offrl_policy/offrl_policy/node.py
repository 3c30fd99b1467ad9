"""The policy node: a managed (lifecycle) node around the controller.

`configure` loads the policy file and replays its golden vectors, `activate` starts ticking in STOP,
`deactivate` publishes one safe command. See the package's README for topics and parameters.
"""

import functools
import signal
import sys
import time
import traceback
import uuid
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from offrl_contract import InputError
from offrl_contract.message_class import message_class
from offrl_contract.reader import MalformedMessageError, TermReader
from offrl_contract.sampling import observation_names
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.qos import qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float32MultiArray, String
from std_srvs.srv import SetBool, Trigger

from offrl_policy import parameters, qos
from offrl_policy.controller import Controller, Decision
from offrl_policy.diagnostics import TickStatistics, gate_status, node_diagnostics
from offrl_policy.executors import make_executor
from offrl_policy.gate import State
from offrl_policy.messages import CommandMessages
from offrl_policy.neighbours import Neighbours
from offrl_policy.policy_file import Policy
from offrl_policy.realtime import set_up

_LONGEST_END = 5  # [s] Fast DDS may spin for ever when a peer leaves as we do (Fast-DDS#6513)
EXIT_NOT_CONFIGURED = 2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PolicyNode(LifecycleNode):
    """Runs a policy file behind the safety gate."""

    def __init__(self, **options: Any) -> None:
        super().__init__("policy", **options)
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._judge_parameters)
        self.add_post_set_parameters_callback(self._use_parameters)
        self.controller: Controller | None = None
        self.decision: Decision | None = None
        self.active = False
        self.failure = ""
        """Why the last configure failed."""
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._entities: list[tuple[Any, Any]] = []

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the policy file and check it; stay unconfigured where anything is wrong."""
        try:
            self._configure(parameters.read(self))
        except InputError as error:
            self.failure = str(error)
            self.get_logger().error(f"configure failed: {error}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        except Exception:  # noqa: BLE001  (rclpy would hide what is not expected)
            self.get_logger().error(f"configure failed:\n{traceback.format_exc()}")
            self._release()
            return TransitionCallbackReturn.ERROR
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start ticking, in STOP."""
        assert self.controller is not None
        self.controller.stop("just activated")
        self.controller.late = 0
        self._statistics = TickStatistics(1.0 / self.controller.policy.robot.rate)
        self._keyframe_due = True
        self.active = True
        self._tick_timer.reset()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish one safe command and stop ticking."""
        self.publish_safe()
        self.active = False
        self.decision = None
        self._tick_timer.cancel()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the policy."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish one safe command where the node was active."""
        self.publish_safe()
        self._release()
        return super().on_shutdown(state)

    def publish_safe(self) -> None:
        """Publish the safe command at once, if this node drives."""
        if self.active and self.engaged and self.controller is not None:
            robot = self.controller.policy.robot
            self._publish_command(np.array(robot.safe_action))
            for publisher in self._commands.values():
                publisher.wait_for_all_acked(Duration(seconds=0.2))
        self.active = False

    def _halt(self, reason: str) -> None:
        """Publish the safe command at once and go on ticking, from STOP."""
        assert self.controller is not None
        active = self.active
        self.publish_safe()
        self.controller.stop(reason)
        self.active = active

    # Parameters

    def _judge_parameters(self, changes: list[Any]) -> Any:
        return parameters.judge(self, changes, configured=self.controller is not None)

    def _use_parameters(self, changes: list[Any]) -> None:  # noqa: ARG002
        if self.controller is not None:
            self.controller.change(parameters.read(self).settings)
            self._keyframe_due = True

    # Setup

    def _configure(self, given: parameters.Parameters) -> None:
        policy = Policy(given.policy, given.trusted_keys)
        policy.self_check()
        robot = policy.robot
        self._told_when = parameters.publish_clock(self, robot)
        self.controller = Controller(policy, given.settings)
        self.engaged = given.engaged
        self._messages = CommandMessages(robot)
        self._statistics = TickStatistics(1.0 / robot.rate)
        self._names = observation_names(robot)
        self._session, self._count = uuid.uuid4().hex[:12], 0
        self._keyframe_due = False
        topics = robot.topics(signals=False)
        self._resolved = {topic: self.resolve_topic_name(topic) for topic in topics}
        self._create_topics()
        if given.backup_topic:
            self._create_backup(given.backup_topic)
        self._add(self.create_service(SetBool, "~/engage", self._on_engage), self.destroy_service)
        self._add(self.create_service(Trigger, "~/reset", self._on_reset), self.destroy_service)
        # on wall time by a steady clock: on the system's own, set back, nothing ticks for as long
        clock = None if self.get_parameter("use_sim_time").value else self._steady
        self._tick_timer = self.create_timer(1.0 / robot.rate, self._tick, clock=clock)
        self._tick_timer.cancel()
        self._add(self._tick_timer, self.destroy_timer)
        self._add(self.create_timer(1.0, self._each_second, clock=self._steady), self.destroy_timer)
        self.get_logger().info(
            f"{policy.path.name}: robot {robot.robot} ({robot.digest()}), {robot.rate:g} Hz, "
            f"{'engaged' if self.engaged else 'shadow'}"
        )

    def _create_topics(self) -> None:
        assert self.controller is not None
        robot = self.controller.policy.robot
        topics = robot.topics(signals=False)
        heard: dict[str, Any] = {}
        for topic, type_name in topics.items():
            subscription = self.create_subscription(
                message_class(type_name),
                topic,
                functools.partial(self._on_timed if self._told_when else self._on_message, topic),
                qos.of_subscription(topic),
                raw=True,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            self._add(subscription, self.destroy_subscription)
            heard[topic] = subscription
        self._commands = {
            topic: self._publisher(kind, topic, qos.COMMANDS)
            for topic, kind in self._messages.classes.items()
        }
        hashes = self.controller.policy.definition_hashes
        self._neighbours = Neighbours(self, topics, hashes, heard, self._commands)
        self._gate = self._publisher(DiagnosticStatus, "~/gate", 10)
        self._uncertainty = self._publisher(Float32MultiArray, "~/uncertainty", 10)
        self._observation = self._publisher(JointState, "~/observation", 10)
        self._record = self._publisher(String, "~/decision", 100)
        self._diagnostics = self._publisher(DiagnosticArray, "/diagnostics", 10)

    def _create_backup(self, topic: str) -> None:
        """Listen to a backup controller, whose messages are of the first command's type."""
        assert self.controller is not None
        robot = self.controller.policy.robot
        if len(self._messages.classes) > 1:
            raise InputError("parameter backup_topic: this robot has more than one command topic")
        if self.resolve_topic_name(topic) in map(self.resolve_topic_name, self._commands):
            raise InputError(
                f"parameter backup_topic: {topic} is the topic of this node's commands"
            )
        live = self.controller.live
        readers = [live.reader(term.name) for term in robot.action]
        subscription = self.create_subscription(
            message_class(robot.action[0].type),
            topic,
            functools.partial(self._on_backup, readers),
            qos_profile_sensor_data,
        )
        self._add(subscription, self.destroy_subscription)

    def _publisher(self, kind: Any, topic: str, profile: Any) -> Any:
        # a plain publisher: a managed one would drop the safe command while deactivating
        publisher = super(LifecycleNode, self).create_publisher(kind, topic, profile)
        self._add(publisher, self.destroy_publisher)
        return publisher

    def _add(self, entity: Any, destroy: Any) -> None:
        self._entities.append((entity, destroy))

    def _release(self) -> None:
        for entity, destroy in reversed(self._entities):
            destroy(entity)
        self._entities.clear()
        self.controller = None
        self.decision = None
        self.active = False

    # Callbacks

    def _on_timed(self, topic: str, raw: bytes, info: dict[str, Any]) -> None:
        self._take(topic, raw, info["source_timestamp"])

    def _on_message(self, topic: str, raw: bytes) -> None:
        self._take(topic, raw, None)

    def _take(self, topic: str, raw: bytes, published: int | None) -> None:
        """Hand a message to the controller, sent at `published` [ns] where that is told."""
        assert self.controller is not None
        if self.engaged and topic in self._commands:
            return  # our own commands, known without the network's delay
        if topic not in self._neighbours.seen:
            self.controller.fault = self._neighbours.definition_fault()
        self.controller.push(topic, self.get_clock().now().nanoseconds, raw, published)

    def _on_backup(self, readers: list[TermReader], message: Any) -> None:
        assert self.controller is not None
        try:
            command = [
                value for reader in readers for value in reader.values(reader.fields(message))
            ]
        except MalformedMessageError as error:
            self.get_logger().warning(f"backup command: {error}", throttle_duration_sec=1.0)
            return
        self.controller.back_up(self.get_clock().now().nanoseconds, command)

    def _on_engage(self, request: Any, response: Any) -> Any:
        assert self.controller is not None
        if self.engaged and not request.data:
            self._halt("disengaged")
        self.engaged = request.data
        response.success = True
        response.message = "engaged" if request.data else "shadow: no command is published"
        return response

    def _on_reset(self, request: Any, response: Any) -> Any:  # noqa: ARG002
        assert self.controller is not None
        self.controller.reset()
        response.success = True
        response.message = f"released; {self.controller.gate.state.value}"
        return response

    def _tick(self) -> None:
        if not self.active or self.controller is None:
            return
        begun = time.perf_counter()
        now = self.get_clock().now()
        if self.controller.clock_jumped_back(now.nanoseconds):
            self.get_logger().warning("the clock jumped back: state forgotten, STOP")
        before = self.decision
        self.decision = decision = self.controller.tick(now.nanoseconds, self.engaged)
        if self.engaged:
            self._publish_command(decision.command)
        self._report(decision, before is None or before.state is not decision.state)
        spent = time.perf_counter() - begun
        self.controller.late = self._statistics.add(begun, spent, decision.tick)

    def _publish_command(self, command: Any) -> None:
        assert self.controller is not None
        now = self.get_clock().now()
        messages = self._messages.build(command, now.to_msg())
        for topic, message in messages.items():
            self._commands[topic].publish(message)
        # one past the tick even where simulated time stands still: in force from here on
        tick = self.decision.tick if self.decision else 0
        self.controller.sent(max(now.nanoseconds, tick) + 1, command, messages)

    def _report(self, decision: Decision, changed: bool) -> None:
        assert self.controller is not None
        if changed:
            log = self.get_logger()
            quiet = decision.state in (State.NOMINAL, State.CAUTION)
            text = f"{decision.state.value}: {decision.reason}"
            log.info(text) if quiet else log.warning(text)
            self._gate.publish(gate_status(self.get_name(), self.controller, decision))
        if self._uncertainty.get_subscription_count():  # building a message costs more than asking
            levels = [float(level) for level in decision.levels.values()]
            self._uncertainty.publish(Float32MultiArray(data=levels))
        if self._observation.get_subscription_count():
            seen = JointState(name=self._names, position=decision.observation.vector.tolist())
            seen.header.stamp.sec, seen.header.stamp.nanosec = divmod(decision.tick, 10**9)
            self._observation.publish(seen)
        self._publish_record(decision)

    def _publish_record(self, decision: Decision) -> None:
        """Publish what the decision was made from, if anybody listens."""
        assert self.controller is not None
        count, self._count = self._count, self._count + 1
        if self._record.get_subscription_count():
            every = max(1, round(self.controller.policy.robot.rate))
            topics = self._resolved if count % every == 0 or self._keyframe_due else None
            self._keyframe_due = False
            record = self.controller.record(decision, self._session, count, topics)
            self._record.publish(String(data=record.model_dump_json()))

    def _each_second(self) -> None:
        if self.controller is None:
            return
        self.controller.fault = self._neighbours.definition_fault()
        problems = self._neighbours.problems(self.engaged)
        if self.decision is not None:
            if silence := self._statistics.silence(time.perf_counter()):
                problems.append(silence)
                self._halt(silence)  # whoever listens would drive on by the last command
                self.decision = self.decision.stopped(silence)
            status = gate_status(self.get_name(), self.controller, self.decision, bool(silence))
            self._gate.publish(status)
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name()
        told = node_diagnostics(
            name, stamp, self.controller, self._statistics, self.decision, problems, self.engaged
        )
        self._diagnostics.publish(told)


def spin(node: PolicyNode, executor: Executor, stopped: list[int]) -> None:
    """Spin until a signal is in `stopped`, then publish a safe command."""
    try:
        while not stopped and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
    except ExternalShutdownException:
        pass
    finally:
        node.publish_safe()


def main(arguments: list[str] | None = None) -> None:
    """Run the node; exit code 0 after a signal, 2 where it is given what it cannot use."""
    stopped: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda received, frame: stopped.append(received))  # noqa: ARG005
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = PolicyNode()
    except ParameterException as error:
        get_logger("policy").error(str(error))
        sys.exit(EXIT_NOT_CONFIGURED)
    how = parameters.process(node)
    executor, otherwise = make_executor(how.events)
    if otherwise:
        node.get_logger().warning(f"parameter executor: {otherwise}; single is used")
    executor.add_node(node)
    code = 0
    if node.get_parameter("autostart").value:
        if node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            node.trigger_activate()
        else:
            code = EXIT_NOT_CONFIGURED
    for problem in set_up(how.priority, how.lock_memory):
        node.get_logger().warning(problem)
    if code == 0:
        spin(node, executor, stopped)
    for number in STOP_SIGNALS:  # launch and Ctrl-C may signal again while the node winds up
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(_LONGEST_END)
    node.destroy_node()
    rclpy.try_shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
