"""The tasks by name: `offrl/NAME-v0` in Gymnasium, NAME in the commands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from offrl_contract import InputError, Robot
from offrl_contract.errors import nearest

from offrl_sim.behaviour import Behaviour
from offrl_sim.diffdrive.behaviour import DiffDriveBehaviour
from offrl_sim.diffdrive.physics import DiffDrivePhysics
from offrl_sim.diffdrive.simulation import DiffDrive
from offrl_sim.panda.behaviour import PandaBehaviour
from offrl_sim.panda.simulation import Panda
from offrl_sim.physics import DrivingPhysics
from offrl_sim.profile import SimProfile
from offrl_sim.racecar.behaviour import RacecarBehaviour
from offrl_sim.racecar.physics import RacecarPhysics
from offrl_sim.racecar.simulation import Racecar
from offrl_sim.simulation import Simulation


@dataclass(frozen=True)
class Task:
    """What a robot is to do, and who has done it so far."""

    name: str
    robot: str
    """The shipped robot file that belongs to it."""
    simulation: type[Simulation]
    """The robot in its world; built with a robot file and a profile."""
    behaviour: Callable[[Robot], Behaviour[Any]]
    """The driver whose logs are recorded."""
    base: Callable[[], DrivingPhysics] | None = None
    """What `offrl sim fit` replays commands on; there where the robot drives on wheels."""

    def simulate(self, robot: Robot, profile: SimProfile | None = None) -> Simulation:
        """Build the simulation, nominal unless told otherwise.

        Raises InputError for a robot file that asks for what this robot does not have.
        """
        _require_topics(robot, self.simulation)
        build: Any = self.simulation
        simulation: Simulation = build(robot, profile or SimProfile())
        return simulation


TASKS = {
    task.name: task
    for task in (
        Task("DiffDriveNav", "diffdrive", DiffDrive, DiffDriveBehaviour, DiffDrivePhysics),
        Task("RacecarTrack", "racecar", Racecar, RacecarBehaviour, RacecarPhysics),
        Task("PandaReach", "panda", Panda, PandaBehaviour),
    )
}


def find_task(name: str) -> Task:
    """Return the task of a name. Raises InputError."""
    if name not in TASKS:
        raise InputError(f"no task '{name}'.{nearest(name, TASKS)}")
    return TASKS[name]


def _require_topics(robot: Robot, simulation: type[Simulation]) -> None:
    """Refuse a robot file that asks for what a robot does not have. Raises InputError."""
    for topic, type_name in robot.topics().items():
        if topic not in simulation.types:
            raise InputError(
                f"robot '{robot.robot}': the simulated robot has no topic {topic}."
                f"{nearest(topic, simulation.types)}"
            )
        if type_name != simulation.types[topic]:
            raise InputError(
                f"robot '{robot.robot}': {topic} is {simulation.types[topic]} here, not {type_name}"
            )
    fields = [field for term in robot.action for field in term.field]
    if fields != list(simulation.command_fields):
        raise InputError(
            f"robot '{robot.robot}': the simulated base takes the action fields "
            f"{' and '.join(simulation.command_fields)} in this order, not {', '.join(fields)}"
        )
