"""Quality of service of the node's topics."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

COMMANDS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_TRANSFORMS = {
    "/tf": QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT),
    "/tf_static": QoSProfile(
        depth=100,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    ),
}


def of_subscription(topic: str) -> QoSProfile:
    """Return that of sensors, but for transforms that of tf2.

    Many nodes publish on either topic of tf2, and static transforms but once.
    """
    return _TRANSFORMS.get(topic, qos_profile_sensor_data)
