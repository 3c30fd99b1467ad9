"""Environments side by side in processes of their own."""

import gymnasium
import numpy as np
import pytest
from offrl_sim.tasks import TASKS

ENVS, STEPS, SEED = 2, 110, 40


def single_rollout(name, index, actions):
    """What one environment says, begun anew in the step after an end as vectors do it."""
    env = gymnasium.make(name)
    observation, info = env.reset(seed=SEED + index)
    rows = [(observation, 0.0, False, False, info["pose"])]
    over = False
    for action in actions:
        if over:
            (observation, info), reward, terminal, timeout = env.reset(), 0.0, False, False
        else:
            observation, reward, terminal, timeout, info = env.step(action)
        over = terminal or timeout
        rows.append((observation, reward, terminal, timeout, info["pose"]))
    env.close()
    return rows


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize(
    ("task", "context"), [*((task, None) for task in TASKS), ("RacecarTrack", "spawn")]
)
def test_environments_in_processes_say_what_single_ones_say(task, context):
    name = f"offrl/{task}-v0"
    vector = gymnasium.make_vec(
        name, ENVS, vectorization_mode="async", vector_kwargs={"context": context}
    )
    low, high = vector.single_action_space.low, vector.single_action_space.high
    # mostly ahead, so that some drives end
    actions = np.random.default_rng(1).uniform(low / 4, high, (STEPS, ENVS, len(low)))
    observations, infos = vector.reset(seed=SEED)
    rows = [(observations.copy(), np.zeros(ENVS), [False] * ENVS, [False] * ENVS, infos["pose"])]
    for action in actions.astype(np.float32):
        observations, *outcome, infos = vector.step(action)
        rows.append((observations.copy(), *outcome, infos["pose"]))
    processes = vector.processes
    vector.close()
    assert [process.exitcode for process in processes] == [0] * ENVS
    ends = 0
    for index in range(ENVS):
        expected = single_rollout(name, index, actions[:, index].astype(np.float32))
        for row, one in zip(rows, expected, strict=True):
            for seen, said in zip(row, one, strict=True):
                np.testing.assert_array_equal(seen[index], said)
            ends += one[2] + one[3]
    assert ends > 0
