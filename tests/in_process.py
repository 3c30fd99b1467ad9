"""A policy node in the test's own process, which leaves nothing of itself in DDS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offrl_policy.node import PolicyNode
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter


@contextmanager
def policy_node(
    policy: Path, **parameters: object
) -> Iterator[tuple[PolicyNode, SingleThreadedExecutor]]:
    """Yield a configured node and its executor.

    An executor holds on to what it last waited for, and a lifecycle node's state machine holds on
    to the node: unless both are ended, tests after this one would still meet it in the graph.
    """
    given = {"policy": str(policy)} | parameters
    node = PolicyNode(parameter_overrides=[Parameter(k, value=v) for k, v in given.items()])
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS, node.failure
        yield node, executor
    finally:
        executor.shutdown()
        node.destroy_node()
        node._state_machine.destroy_when_not_in_use()
