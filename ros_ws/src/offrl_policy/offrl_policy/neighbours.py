"""Who else is on the node's topics, and why it is not heard: type, definition, QoS, rivals."""

from collections.abc import Iterable, Mapping
from typing import Any

from rclpy.qos import DurabilityPolicy, ReliabilityPolicy


class Neighbours:
    """Looks at the other end of each topic of the robot file, when asked."""

    def __init__(
        self,
        node: Any,
        types: Mapping[str, str],
        hashes: Mapping[str, str],
        subscriptions: Mapping[str, Any],
        commands: Mapping[str, Any],
    ) -> None:
        """Take the types of topics, the hashes of types, and this node's ends by topic."""
        self._node = node
        self._types = types
        self._hashes = hashes
        self._subscriptions = subscriptions
        self._commands = commands
        self._known: set[str] = set()
        self.seen: set[str] = set()
        """Topics of which a publisher's definition was looked at."""

    def definition_fault(self) -> str:
        """Return whose message definition is not the one trained on, or "".

        A publisher of another type is not heard at all, and told by `problems`.
        """
        fault = ""
        for topic, type_name in self._types.items():
            expected = self._hashes.get(type_name, "")
            for info in self._publishers(topic):
                self.seen.add(topic)
                if not expected or info.topic_type != type_name:
                    continue
                found = str(info.topic_type_hash)
                if found.startswith("RIHS01") and found != expected:
                    fault = (
                        f"{topic}: a publisher's definition of {type_name} is {found[7:15]}, "
                        f"trained on {expected[7:15]}"
                    )
        return fault

    def problems(self, engaged: bool) -> list[str]:
        """Return who cannot be heard, or drives beside an engaged node; warn of what is new."""
        found: list[str] = []
        for topic, type_name in self._types.items():
            publishers = self._publishers(topic)
            if topic not in self._commands:
                mine = self._subscriptions[topic].qos_profile
                for info in publishers:
                    found += _mismatch(topic, type_name, info, "published", info.qos_profile, mine)
                continue
            if engaged and len(publishers) > 1:
                names = ", ".join(sorted(map(_name, publishers)))
                found.append(f"{topic}: {len(publishers)} publishers command at once ({names})")
            mine = self._commands[topic].qos_profile
            for info in self._node.get_subscriptions_info_by_topic(self._resolved(topic)):
                found += _mismatch(topic, type_name, info, "heard", mine, info.qos_profile)
        for problem in sorted(set(found) - self._known):
            self._node.get_logger().warning(problem)
        self._known = set(found)
        return found

    def _publishers(self, topic: str) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(self._resolved(topic)))

    def _resolved(self, topic: str) -> str:
        return str(self._node.resolve_topic_name(topic))


def _mismatch(
    topic: str, type_name: str, info: Any, verb: str, offered: Any, requested: Any
) -> Iterable[str]:
    """Yield why an end of a topic does not fit this node's."""
    who = f"{topic}: {verb} by {_name(info)}"
    if info.topic_type != type_name:
        yield f"{who} as {info.topic_type}, the robot file says {type_name}"
        return
    # qos_check_compatible would compare an infinite deadline with a default one
    unreliable = offered.reliability == ReliabilityPolicy.BEST_EFFORT
    if unreliable and requested.reliability == ReliabilityPolicy.RELIABLE:
        yield f"{who} in another QoS: best effort is offered, reliable is asked for"
    volatile = offered.durability == DurabilityPolicy.VOLATILE
    if volatile and requested.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        yield f"{who} in another QoS: volatile is offered, transient local is asked for"


def _name(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
