"""The executor of the node: rclpy's own, or the experimental one where it does its work."""

import time
from typing import Any

from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Empty

_PERIOD = 0.005  # [s]
_LONGEST_TEST = 2.0  # [s]
_ROUNDS = 20


def make_executor(events: bool) -> tuple[Executor, str]:
    """Return an executor, and why it is not the one that was asked for; "" where it is."""
    if not events:
        return SingleThreadedExecutor(), ""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(), "this rclpy has no EventsExecutor"
    if not works(EventsExecutor):
        return SingleThreadedExecutor(), "the EventsExecutor of this rclpy does not work"
    return EventsExecutor(), ""


def works(kind: Any) -> bool:
    """Whether an executor, spun once and again, runs a timer and hears a topic, and both often."""
    node = Node(  # on wall time and under its own name, whatever the process was told
        "policy_executor_test", use_global_arguments=False, start_parameter_services=False
    )
    heard: list[bytes] = []
    fired: list[None] = []
    publisher = node.create_publisher(Empty, "~/test", 10)
    node.create_subscription(Empty, "~/test", heard.append, 10, raw=True)

    def fire() -> None:
        fired.append(None)
        publisher.publish(Empty())

    node.create_timer(_PERIOD, fire)
    executor = kind()
    executor.add_node(node)
    end = time.monotonic() + _LONGEST_TEST
    try:
        while min(len(heard), len(fired)) < _ROUNDS and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.02)
    except Exception:  # noqa: BLE001  (whatever an experimental executor raises)
        return False
    finally:
        executor.remove_node(node)
        executor.shutdown()
        node.destroy_node()
    return min(len(heard), len(fired)) >= _ROUNDS
