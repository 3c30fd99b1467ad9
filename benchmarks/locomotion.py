"""Locomotion data for `scores.py`: an online SAC run on MuJoCo's HalfCheetah, and what it leaves.

As in D4RL (arXiv 2004.07219): medium are episodes of one checkpoint that is part of the way up,
medium-replay is all that the run had seen by then. Random and best return are the ends of the
scale. The run saves its state every few thousand steps and goes on from there when started again.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from offrl_contract import InputError, Robot
from offrl_data.dataset import Episode
from offrl_data.dataset_writer import DatasetWriter
from offrl_training.algorithms.base import Dims
from offrl_training.algorithms.sac import SAC, SACConfig
from offrl_training.networks import Normaliser
from offrl_training.sampler import Sampler
from torch import Tensor

TASK = "HalfCheetah-v5"
INSTALL = "pip install --constraint constraints.txt --editable '.[benchmarks]'"
DATASETS = ("medium", "medium_replay")
STEPS = 30_000
"""Environment steps of the SAC run, one update each."""
RATE = 1e-3
"""Step size of all of SAC. At 3e-4 the temperature takes 12,000 steps to fall from 1 to where
rewards outweigh entropy, and the best return in 38,000 steps is 618."""
RANDOM_STEPS = 2_000
"""Uniform actions at its beginning."""
EVERY = 2_000
"""Steps between evaluations; each leaves a checkpoint."""
BATCH = 128
MEDIUM = 1 / 3
"""Medium is the first checkpoint this far up, from the random return (0) to the best (1)."""
MEDIUM_EPISODES = 50
EVALUATION_SEEDS = range(2_000_000, 2_000_010)
"""Of checkpoints and of random actions; the scores are taken on other seeds."""

Vector = NDArray[np.float32]
Act = Callable[[Vector], Vector]
"""Observations (n, o) to actions (n, a), both in SI units."""


def robot_of(task: str) -> Robot:
    """Return the robot file of a MuJoCo task: joints seen, torques commanded.

    Raises InputError where MuJoCo is missing.
    """
    try:
        env: Any = gymnasium.make(task).unwrapped
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise InputError(f"{task}: {error}. Install it: {INSTALL}") from error
    joints = [env.model.joint(index).name for index in range(env.model.njnt)]
    motors = [env.model.actuator(index).name for index in range(env.model.nu)]
    low, high = env.action_space.low.tolist(), env.action_space.high.tolist()
    state = {"topic": "/joint_states", "type": "sensor_msgs/msg/JointState"}
    number = {"type": "std_msgs/msg/Float64", "field": "data"}
    return Robot.model_validate(
        {
            "robot": task.lower().replace("-", "_"),
            "rate": 1.0 / env.dt,
            # the first joint is the place along the track, which the task does not show
            "observation": [
                {"name": "angle", **state, "field": "position", "select": joints[1:]},
                {"name": "speed", **state, "field": "velocity", "select": joints},
            ],
            "action": [
                {
                    "name": motor,
                    "topic": f"/{motor}/command",
                    **number,
                    "limits": [(low[index], high[index])],
                    "safe": [0.0],
                }
                for index, motor in enumerate(motors)
            ],
            "reward": {"topic": "/reward", **number},
        }
    )


def drive(task: str, act: Act, seeds: Sequence[int]) -> Iterator[Episode]:
    """Yield one episode per seed; all are driven side by side, so that a policy acts on a batch."""
    envs = [gymnasium.make(task) for _ in seeds]
    seen = [[env.reset(seed=seed)[0]] for env, seed in zip(envs, seeds, strict=True)]
    rewards: list[list[float]] = [[] for _ in envs]
    actions: list[list[Vector]] = [[] for _ in envs]
    terminals = [False] * len(envs)
    running = list(range(len(envs)))
    while running:
        chosen = act(np.array([seen[i][-1] for i in running], np.float32))
        still = []
        for i, action in zip(running, chosen, strict=True):
            observation, reward, terminals[i], timeout, _ = envs[i].step(action)
            seen[i].append(observation)
            rewards[i].append(float(reward))
            actions[i].append(action)
            if not (terminals[i] or timeout):
                still.append(i)
        running = still
    for i, env in enumerate(envs):
        env.close()
        columns = (np.array(values, np.float32) for values in (seen[i], actions[i], rewards[i]))
        yield Episode(*columns, terminals[i], f"seed {seeds[i]}")


def mean_return(task: str, act: Act, seeds: Sequence[int]) -> float:
    """Return the mean undiscounted return over the seeds."""
    return float(np.mean([e.rewards.sum(dtype=np.float64) for e in drive(task, act, seeds)]))


class OnlineRun:
    """SAC on the live task, every transition kept."""

    def __init__(self, folder: Path) -> None:
        """Begin, or go on from the state in the folder."""
        self.folder = folder
        self.robot = robot_of(TASK)
        self.generator = torch.Generator().manual_seed(0)
        size, limits = self.robot.observation_size, self.robot.limits
        self.dims = Dims(size, len(limits), STEPS)
        self.sac: SAC[SACConfig] = SAC(
            SACConfig(policy_rate=RATE, critic_rate=RATE),
            self.dims,
            Normaliser(size, limits),
            self.generator,
        )
        self.replay = torch.zeros(STEPS, 2 * size + len(limits) + 3)  # as Transitions.pack has them
        self.ends: list[int] = []
        self.returns: dict[int, float] = {}
        self.step = 0
        if self.state_path.exists():
            self._restore(torch.load(self.state_path, weights_only=True))

    @property
    def state_path(self) -> Path:
        """Where the whole state lies."""
        return self.folder / "sac.pt"

    def policy_path(self, step: int) -> Path:
        """Where the networks of a checkpoint lie."""
        return self.folder / f"sac_{step}.pt"

    def advance(self) -> None:
        """Act and learn to the last step, saving at each evaluation."""
        env = gymnasium.make(TASK, max_episode_steps=1000)
        observation = None
        while self.step < STEPS:
            if observation is None:
                observation, _ = env.reset(seed=self.step)
            observation = self._act(env, np.asarray(observation, np.float32))
            if self.step > RANDOM_STEPS:
                seen = Sampler(self.replay[: self.step], self.dims.observation, self.generator)
                self.sac.update(seen.sample(BATCH))
            if self.step % EVERY == 0:
                self._save()
        env.close()

    @torch.no_grad()
    def _act(self, env: gymnasium.Env[Vector, Vector], observation: Vector) -> Vector | None:
        """Take one step; return the next observation, None where the episode is over."""
        shown = torch.from_numpy(observation)
        if self.step < RANDOM_STEPS:
            action = torch.rand(self.dims.action, generator=self.generator) * 2.0 - 1.0
        else:
            sampled, _ = self.sac.policy.sample(shown[None], 1, self.generator)
            action = sampled[0, 0]
        si = self.sac.normaliser.action_to_si(action).numpy()
        following, reward, terminal, timeout, _ = env.step(si)
        discount = self.sac.config.gamma * (not terminal)
        ends = torch.tensor([float(reward), discount])
        row = (shown, action, ends, torch.as_tensor(following, dtype=torch.float32), torch.zeros(1))
        self.replay[self.step] = torch.cat(row)
        self.step += 1
        if terminal or timeout:
            self.ends.append(self.step)
            return None
        return np.asarray(following, np.float32)

    def _save(self) -> None:
        self.returns[self.step] = mean_return(TASK, deterministic(self.sac), EVALUATION_SEEDS)
        print(f"SAC, step {self.step}: return {self.returns[self.step]:.0f}", flush=True)
        torch.save(self.sac.state_dict(), self.policy_path(self.step))
        state = {
            "sac": self.sac.state_dict(),
            "optimizers": {n: o.state_dict() for n, o in self.sac.optimizers().items()},
            "generator": self.generator.get_state(),
            "replay": self.replay,
            "ends": self.ends,
            "returns": self.returns,
            "step": self.step,
        }
        beside = self.state_path.with_suffix(".tmp")
        torch.save(state, beside)
        os.replace(beside, self.state_path)

    def _restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, with a new episode: the simulator's state is not in it."""
        self.sac.load_state_dict(state["sac"])
        for name, optimizer in self.sac.optimizers().items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.generator.set_state(state["generator"])
        self.replay = state["replay"]
        self.ends, self.returns, self.step = state["ends"], state["returns"], state["step"]
        if self.ends[-1:] != [self.step]:
            self.ends.append(self.step)


def deterministic(sac: SAC[SACConfig]) -> Act:
    """Return the policy's mean action."""

    @torch.no_grad()
    def act(observations: Vector) -> Vector:
        return sac.act(torch.from_numpy(observations)).numpy()

    return act


def stochastic(run: OnlineRun) -> Act:
    """Return the policy that explores, which D4RL's data is of."""

    @torch.no_grad()
    def act(observations: Vector) -> Vector:
        sampled, _ = run.sac.policy.sample(torch.from_numpy(observations), 1, run.generator)
        return run.sac.normaliser.action_to_si(sampled[:, 0]).numpy()

    return act


def uniform(robot: Robot) -> Act:
    """Return uniform actions within the limits."""
    low, high = np.array(robot.limits, np.float32).T
    random = np.random.default_rng(0)
    return lambda observations: random.uniform(low, high, (len(observations), len(low))).astype(
        np.float32
    )


def seen_until(run: OnlineRun, step: int) -> Iterator[Episode]:
    """Yield the run's own episodes up to a step; one that is cut there ends in a timeout."""
    size, width = run.dims.observation, run.dims.action
    begin = 0
    for end in [*(e for e in run.ends if e < step), step]:
        rows = run.replay[begin:end]
        s, a, r, discounts, following, _ = rows.split([size, width, 1, 1, size, 1], 1)
        actions: Tensor = run.sac.normaliser.action_to_si(a)
        yield Episode(
            torch.cat([s, following[-1:]]).numpy(),
            actions.numpy(),
            r[:, 0].numpy(),
            bool(discounts[-1, 0] == 0.0),
            f"step {begin}",
        )
        begin = end


def make_locomotion(folder: Path) -> dict[str, Any]:
    """Write both datasets; return the ends of the scale. What is there already is kept."""
    found = folder / "locomotion.json"
    if found.exists():
        return dict(json.loads(found.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    run = OnlineRun(folder)
    run.advance()
    random = mean_return(TASK, uniform(run.robot), EVALUATION_SEEDS)
    best = max(run.returns.values())
    medium = min(s for s, r in run.returns.items() if r >= random + MEDIUM * (best - random))
    run.sac.load_state_dict(torch.load(run.policy_path(medium), weights_only=True))
    first = EVALUATION_SEEDS.stop
    episodes = {
        "medium": drive(TASK, stochastic(run), range(first, first + MEDIUM_EPISODES)),
        "medium_replay": seen_until(run, medium),
    }
    for name in DATASETS:
        with DatasetWriter(folder / f"{name}.h5", run.robot) as writer:
            for episode in episodes[name]:
                writer.append(episode)
            writer.finish({"made": {"task": TASK, "sac_step": medium}})
    scale = {
        "task": TASK,
        "random": random,
        "expert": best,
        "medium_step": medium,
        "medium": run.returns[medium],
        "sac": {str(step): round(value, 1) for step, value in run.returns.items()},
    }
    found.write_text(json.dumps(scale, indent=1))
    return scale
