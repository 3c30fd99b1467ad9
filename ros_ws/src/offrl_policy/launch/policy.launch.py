"""Start the policy node, configured and activated.

ros2 launch offrl_policy policy.launch.py policy:=/path/policy.onnx
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

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


def declare(name: str) -> DeclareLaunchArgument:
    """Declare an argument; one without a default must be given."""
    default, description = ARGUMENTS[name]
    choices = ["engaged", "shadow"] if name == "mode" else None
    return DeclareLaunchArgument(
        name, default_value=default, description=description, choices=choices
    )


def generate_launch_description() -> LaunchDescription:
    """Return the launch description."""
    argument = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    node = LifecycleNode(
        package="offrl_policy",
        executable="policy_node",
        name="policy",
        namespace=argument["namespace"],
        output="screen",
        parameters=[
            ParameterFile(argument["params_file"], allow_substs=True),
            {
                "policy": ParameterValue(argument["policy"], value_type=str),
                "mode": argument["mode"],
                "use_sim_time": ParameterValue(argument["use_sim_time"], value_type=bool),
            },
        ],
        ros_arguments=["--log-level", argument["log_level"]],
    )
    autostart = IfCondition(argument["autostart"])

    def change(transition: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
        )

    configure = RegisterEventHandler(
        OnProcessStart(target_action=node, on_start=[change(Transition.TRANSITION_CONFIGURE)]),
        condition=autostart,
    )
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[change(Transition.TRANSITION_ACTIVATE)],
        ),
        condition=autostart,
    )
    refused = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="unconfigured",
            entities=[LogInfo(msg="the policy node refused its policy file: see its error above")],
        ),
        condition=autostart,
    )
    return LaunchDescription(
        [*(declare(name) for name in ARGUMENTS), configure, activate, refused, node]
    )
