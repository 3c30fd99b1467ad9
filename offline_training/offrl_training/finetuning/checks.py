"""Whether an environment is the one that a run's policy can drive."""

import math

from offrl_contract import InputError, Robot, robot_from_yaml
from offrl_contract.robot_file import require_same

from offrl_training.finetuning.envs import EnvFacts


def check_env(facts: EnvFacts, robot: Robot, env: str, run: str) -> None:
    """Raise InputError where what the policy sees or does there is not what it was trained on."""
    if facts.robot:
        require_same(robot, robot_from_yaml(facts.robot, env), f"the run {run}", f"--env {env}")
    for what, shape, size in (
        ("observations", facts.observation, robot.observation_size),
        ("actions", facts.action, robot.action_size),
    ):
        if shape != (size,):
            raise InputError(
                f"--env {env}: {what} have the shape {shape}; those of robot '{robot.robot}', "
                f"with which {run} was trained, have ({size},)"
            )
    check_history(robot, facts.delay, env)


def check_history(robot: Robot, delay: float, env: str) -> None:
    """Raise InputError where commands take longer to be seen than the policy remembers them.

    With a delay of n ticks, the state holds the last n commands (Katsikopoulos, Engelbrecht 2003).
    """
    needed = math.ceil(delay * robot.rate - 1e-9)
    history = sum(term.history for term in robot.observation if term.source == "action")
    if history < needed:
        raise InputError(
            f"--env {env}: a command's effect is seen up to {delay:g} s later, {needed} ticks at "
            f"{robot.rate:g} Hz, but robot '{robot.robot}' observes {history} of its last commands."
            f" Give its robot file an observation {{name: last_action, source: action, history: "
            f"{needed}}}, then convert and train again."
        )
