"""Start a simulated task behind its topics and, where a policy is given, the node that drives it.

ros2 launch sim/launch/sim.launch.py task:=RacecarTrack policy:=/path/policy.onnx
"""

import sys

from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import (
    LaunchConfiguration,
    NotEqualsSubstitution,
    PathJoinSubstitution,
)
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

BRIDGE = {
    "task": (str, "DiffDriveNav", "Task: DiffDriveNav, RacecarTrack or PandaReach."),
    "robot": (str, "", "Robot file, or the name of a shipped one; the task's own where empty."),
    "profile": (str, "", "YAML file of a SimProfile; nominal where empty."),
    "seed": (int, "0", "Scenario of the first episode."),
    "episodes": (int, "0", "End after this many; 0: go on."),
    "real_time_factor": (float, "1.0", "Simulated seconds per second."),
}
"""Parameters of the bridge: type, default, description."""
POLICY = {
    "policy": ("", "Policy file (.onnx) that drives; where empty, nobody does."),
    "mode": ("engaged", "engaged, or shadow: everything but the command."),
}
"""Arguments of offrl_policy's policy.launch.py: default, description."""


def check_exit(event: ProcessExited, context: LaunchContext) -> Action:
    """End the launch with the simulator; raise RuntimeError where it failed, to exit with 1."""
    if event.returncode and not context.is_shutdown:
        raise RuntimeError(f"the simulator exited with {event.returncode}: see its error above")
    return Shutdown(reason="the simulator ended")


def generate_launch_description() -> LaunchDescription:
    """Return the launch description."""
    described = {name: (default, text) for name, (_, default, text) in BRIDGE.items()} | POLICY
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=text,
            choices=["engaged", "shadow"] if name == "mode" else None,
        )
        for name, (default, text) in described.items()
    ]
    given = {name: LaunchConfiguration(name) for name in described}
    # by path: the simulator is no ROS package, and runs with the Python that has PyBullet
    bridge = Node(
        executable=sys.executable,
        arguments=["-m", "offrl_sim.bridge"],
        output="screen",
        parameters=[
            {
                name: ParameterValue(given[name], value_type=kind)
                for name, (kind, _, _) in BRIDGE.items()
            }
        ],
        on_exit=check_exit,
    )
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([FindPackageShare("offrl_policy"), "launch", "policy.launch.py"])
        ),
        launch_arguments=[*((name, given[name]) for name in POLICY), ("use_sim_time", "true")],
        condition=IfCondition(NotEqualsSubstitution(given["policy"], "")),
    )
    return LaunchDescription([*arguments, bridge, policy])
