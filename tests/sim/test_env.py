import hashlib
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import offrl_sim  # noqa: F401  (registers the environment)
import pytest
from gymnasium.utils.env_checker import check_env
from offrl_contract import InputError, load_robot
from offrl_contract.rewards import rewards_and_terminals
from offrl_sim.diffdrive.simulation import DiffDrive
from offrl_sim.env import SETTLE_TICKS, TaskEnv
from offrl_sim.profile import SimProfile
from offrl_sim.simulation import Disturbance
from offrl_sim.tasks import TASKS

FORWARD = np.array([0.3, 0.0], np.float32)


@pytest.fixture(scope="module")
def env():
    built = TaskEnv("DiffDriveNav")
    yield built
    built.close()


def drive(env, seed, actions, **options):
    """Observations, rewards and poses of an episode under given commands."""
    observation, _ = env.reset(seed=seed, options=options)
    rows = [(observation, 0.0, np.zeros(3))]
    for action in actions:
        observation, reward, terminal, timeout, info = env.step(action)
        rows.append((observation, reward, info["pose"]))
        if terminal or timeout:
            break
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_accepts_the_environment(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A robot's commands are in SI units and its speed has no bound: the checker's advice on
        # normalised spaces is not for here.
        warnings.filterwarnings("ignore", message=".*(symmetric and normalized|infinity).*")
        made = gymnasium.make(f"offrl/{task}-v0")
        check_env(made.unwrapped)
        made.close()


def drawn_actions(env):
    low, high = np.array(env.robot.limits).T
    return np.random.default_rng(0).uniform(low, high, (60, len(low)))


def rehearsed(task, seed):
    """An episode under commands drawn from the whole of their limits."""
    env = TaskEnv(task)
    actions = drawn_actions(env)
    drive(env, seed + 1, actions[:20])
    columns = drive(env, seed, actions)
    env.close()
    return columns


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_and_commands_give_the_same_bits(task):
    """After other episodes, long or cut short, in another environment, and in another process."""
    env = TaskEnv(task)
    actions = drawn_actions(env)
    first = drive(env, 7, actions)
    assert len(first[0]) > 20
    drive(env, 8, actions)
    after_another = drive(env, 7, actions)
    drive(env, 7, actions[:1])
    after_a_short_one = drive(env, 7, actions)
    for again in (after_another, after_a_short_one, rehearsed(task, 7)):
        for left, right in zip(first, again, strict=True):
            np.testing.assert_array_equal(left, right)
    program = (
        "import sys, runpy, hashlib\n"
        "columns = runpy.run_path(sys.argv[1])['rehearsed'](sys.argv[2], 7)\n"
        "print(hashlib.sha256(b''.join(c.tobytes() for c in columns)).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, __file__, task], capture_output=True, text=True, check=True
    )
    digest = hashlib.sha256(b"".join(column.tobytes() for column in first)).hexdigest()
    assert digest in done.stdout
    assert np.abs(drive(env, 9, actions)[0][0] - first[0][0]).max() > 0.1
    env.close()


def test_observation_is_in_si_units(env):
    observations, _, poses = drive(env, 3, [FORWARD] * 10)
    scan, twist, goal = np.split(observations, [36, 38], axis=1)
    assert ((scan >= 0.1) & (scan <= 2.0)).all()
    np.testing.assert_allclose(twist[-1], [0.3, 0.0], atol=0.06)
    x, y, yaw = poses[-1]
    offset = np.array(env.simulation.world.goal) - [x, y]
    cos, sin = np.cos(yaw), np.sin(yaw)
    expected = [cos * offset[0] + sin * offset[1], cos * offset[1] - sin * offset[0]]
    np.testing.assert_allclose(goal[-1], expected, atol=0.05)


def test_reward_is_that_of_the_robot_file(env):
    """The expressions on the vectors' own slices give what the environment returned."""
    robot = load_robot("diffdrive")
    command = np.array([0.1, 0.2], np.float32)
    observations, rewards, _ = drive(env, 5, [command] * 15)
    bounds = np.cumsum([robot.width(term) for term in robot.observation])[:-1]
    names = [term.name for term in robot.observation]
    columns = np.split(observations.astype(np.float64), bounds, axis=1)
    now = {name: column[:-1] for name, column in zip(names, columns, strict=True)}
    then = {name: column[1:] for name, column in zip(names, columns, strict=True)}
    now["bumper"] = then["bumper"] = np.zeros((15, 1))
    expected, terminals = rewards_and_terminals(robot, now, then, np.tile(command, (15, 1)))
    np.testing.assert_allclose(rewards[1:], expected, atol=1e-5)
    assert not terminals.any()


def test_command_is_limited_in_range_and_rate(env):
    env.reset(seed=2)
    infos = [env.step(np.array([9.0, 0.0], np.float32))[-1] for _ in range(4)]
    speeds = [info["command"][0] for info in infos]
    np.testing.assert_allclose(speeds, [0.3, 0.6, 0.8, 0.8], rtol=1e-6)


def test_command_that_is_not_finite_is_refused(env):
    env.reset(seed=2)
    with pytest.raises(InputError, match="not finite"):
        env.step(np.array([np.nan, 0.0], np.float32))


def test_bump_ends_the_episode_and_stops_the_base(env):
    """Drive straight until something is hit; the walls make sure that it is."""
    for seed in range(20, 40):
        env.reset(seed=seed)
        terminal = timeout = False
        while not (terminal or timeout):
            _, reward, terminal, timeout, info = env.step(np.array([0.8, 0.0], np.float32))
        if info["collided"]:
            break
    assert terminal
    assert not info["success"]
    assert reward < -4.0
    env.rest(0.4)
    assert abs(env.simulation.body.forward) < 0.1


def test_standing_still_times_out(env):
    env.reset(seed=1)
    for tick in range(round(DiffDrive.time_limit * 10)):
        _, _, terminal, timeout, _ = env.step(np.zeros(2, np.float32))
        assert not terminal
        assert timeout == (tick == DiffDrive.time_limit * 10 - 1)


def test_shove_moves_the_robot_as_no_command_can(env):
    disturbance = Disturbance("shove", start=1.0, duration=1.0)
    observations, _, _ = drive(env, 3, [FORWARD] * 15, disturbance=disturbance)
    turning = np.abs(observations[:, 37])
    begin = 10 - SETTLE_TICKS
    assert turning[: begin + 1].max() < 0.1
    assert turning[begin + 2 :].max() > 2 * 1.5
    observations, _, _ = drive(env, 3, [FORWARD] * 15)
    assert np.abs(observations[:, 37]).max() < 0.1


def test_dirt_on_the_lidar_reads_as_a_near_surface(env):
    disturbance = Disturbance("dirty_lidar", start=0.5, duration=0.5)
    observations, _, _ = drive(env, 3, [FORWARD] * 12, disturbance=disturbance)
    ahead = observations[:, 14:22].max(axis=1)
    dirty = slice(5 - SETTLE_TICKS, 10 - SETTLE_TICKS)
    assert ahead[dirty].max() < 0.35
    assert ahead[[0, 1, 2, 9, 10, 11]].min() > 0.35


def test_base_stops_when_commands_cease():
    simulation = DiffDrive(load_robot("diffdrive"), SimProfile())
    simulation.command(np.array([0.3, 0.0]))
    simulation.advance(simulation.start + 400_000_000)
    assert simulation.body.forward > 0.25
    simulation.advance(simulation.start + 1_000_000_000)
    assert abs(simulation.body.forward) < 0.05
    simulation.close()


def test_sensor_rates_and_stamps():
    simulation = DiffDrive(load_robot("diffdrive"), SimProfile())
    deliveries = simulation.advance(simulation.start + 10**9 + simulation.tick_latency)
    stamps = [delivery.stamp for delivery in deliveries]
    assert stamps == sorted(stamps)
    count = dict.fromkeys(DiffDrive.types, 0)
    for delivery in deliveries:
        count[delivery.topic] += 1
        if delivery.topic != "/bumper":
            header = delivery.message.header.stamp
            delay = delivery.stamp - header.sec * 10**9 - header.nanosec
            assert 500_000 <= delay <= 2_200_000
    assert count == {"/scan": 21, "/odom": 51, "/goal": 21, "/bumper": 21, "/cmd_vel": 0}
    simulation.close()


def test_a_robot_that_this_simulation_is_not_is_refused():
    with pytest.raises(InputError, match="no topic /bump"):
        TaskEnv("DiffDriveNav", robot="neato")


def test_missing_pybullet_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(InputError, match=r"offrl\[sim\].*Python 3\.11"):
        TaskEnv("DiffDriveNav")
