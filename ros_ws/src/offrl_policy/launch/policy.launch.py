"""Start the policy node, configured and activated.

ros2 launch offrl_policy policy.launch.py policy:=/path/policy.onnx
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = {
    "policy": (None, "Policy file (.onnx)."),
    "namespace": ("", "Namespace of the node and its relative names."),
    "mode": ("engaged", "engaged, or shadow: everything but the command."),
    "use_sim_time": ("false", "Follow /clock."),
    "autostart": ("true", "Configure and activate at once."),
    "params_file": (
        PathJoinSubstitution([FindPackageShare("offrl_policy"), "config", "policy.yaml"]),
        "YAML file of further parameters.",
    ),
    "log_level": ("info", "debug, info, warn, error or fatal."),
}
CHOICES = {
    "mode": ["engaged", "shadow"],
    "log_level": ["debug", "info", "warn", "error", "fatal"],
}


def declare(name: str) -> DeclareLaunchArgument:
    """Declare an argument; one without a default must be given."""
    default, description = ARGUMENTS[name]
    return DeclareLaunchArgument(
        name, default_value=default, description=description, choices=CHOICES.get(name)
    )


def check_exit(event: ProcessExited, context: LaunchContext) -> None:
    """Raise RuntimeError where the node failed: only so `ros2 launch` itself exits with 1."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"the policy node exited with {event.returncode}: see its error above")


def generate_launch_description() -> LaunchDescription:
    """Return the launch description."""
    argument = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    switches = {
        name: ParameterValue(argument[name], value_type=bool)
        for name in ("use_sim_time", "autostart")
    }
    # the node starts itself: lifecycle events of launch_ros wait for discovery and can be lost
    node = Node(
        package="offrl_policy",
        executable="policy_node",
        name="policy",
        namespace=argument["namespace"],
        output="screen",
        parameters=[
            ParameterFile(argument["params_file"], allow_substs=True),
            {"policy": ParameterValue(argument["policy"], value_type=str)},
            {"mode": argument["mode"], **switches},
        ],
        ros_arguments=["--log-level", argument["log_level"]],
        on_exit=check_exit,
    )
    return LaunchDescription([*(declare(name) for name in ARGUMENTS), node])
