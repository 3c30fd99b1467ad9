import numpy as np
import pytest
from offrl_sim.env import TaskEnv
from offrl_sim.evaluate import behaviour_rng, rollout_behaviour
from offrl_sim.panda.behaviour import SHARES
from offrl_sim.panda.physics import CHAIN, HOME, JOINTS, PandaPhysics
from offrl_sim.panda.simulation import HIGHEST, LOWEST, NEAREST, Panda
from offrl_sim.physics import STEPS_PER_SECOND
from offrl_sim.profile import SimProfile
from offrl_training.returns import returns_to_go

REACHED = 0.03
DOWN = np.array([1.0, -1.0, -1.0])
"""From the axes of the base to those of a hand that points down, or back."""


@pytest.fixture(scope="module")
def physics():
    built = PandaPhysics()
    yield built
    built.close()


@pytest.fixture(scope="module")
def env():
    built = TaskEnv("PandaReach")
    yield built
    built.close()


def move(physics, velocity, seconds):
    """Where the hand is after some time, and whether the arm touched the table."""
    physics.drive(*velocity)
    touched = [physics.step() for _ in range(round(seconds * STEPS_PER_SECOND))]
    return hand(physics.body()), any(touched)


def hand(body):
    return np.array([body.x, body.y, body.z])


def test_home_posture_is_that_of_the_real_arm(physics):
    """franka_ros: the flange is at 0.307, 0, 0.59 [m] in "ready"; the fingertips 10 cm below it."""
    physics.reset(np.array(HOME))
    np.testing.assert_allclose(hand(physics.body()), [0.307, 0.0, 0.487], atol=5e-3)
    links = physics.links()[list(CHAIN)]
    np.testing.assert_allclose(links[0], [0.0, 0.0, 0.333], atol=1e-6)
    assert physics._error() == pytest.approx([0.0] * 6, abs=1e-5)


@pytest.mark.parametrize("velocity", [(0.2, 0.0, 0.0), (0.0, -0.3, 0.0), (0.1, 0.1, -0.2)])
def test_servo_moves_the_hand_as_told_and_keeps_it_down(physics, velocity):
    physics.reset(np.array(HOME))
    begin = hand(physics.body())
    end, touched = move(physics, velocity, 1.0)
    assert not touched
    np.testing.assert_allclose(end - begin, velocity, atol=0.015)
    assert np.abs(physics._error()[3:]).max() < 0.02


def test_an_arm_without_a_command_stays(physics):
    physics.reset(np.array(HOME) + 0.1)
    begin = hand(physics.body())
    end, _ = move(physics, (0.0, 0.0, 0.0), 3.0)
    assert np.linalg.norm(end - begin) < 5e-3


def test_joints_keep_their_limits_where_the_goal_is_out_of_reach(physics):
    physics.reset(np.array(HOME))
    end, _ = move(physics, (0.4, 0.0, 0.0), 3.0)
    assert np.linalg.norm(end - [0.0, 0.0, 0.333]) < 0.96
    angles, speeds = physics.joint_states()
    assert -3.15 < angles[3] < 0.05
    assert np.abs(speeds).max() < 3.0


def test_the_table_is_felt(physics):
    physics.reset(np.array(HOME))
    end, touched = move(physics, (0.0, 0.0, -0.4), 2.0)
    assert touched
    assert end[2] > -0.02


def test_goals_lie_in_their_box_and_away_from_the_hand(env):
    for seed in range(30):
        _, info = env.reset(seed=seed)
        goal = info["world"].goal
        assert ((goal >= LOWEST) & (goal <= HIGHEST)).all()
        assert np.linalg.norm(goal - hand(env.simulation.body)) > NEAREST - 0.02
        assert len(info["world"].joints) == len(JOINTS)


def test_observation_is_what_the_arm_does(env):
    command = np.array([0.1, 0.1, -0.1], np.float32)
    env.reset(seed=3)
    for _ in range(10):
        observation, *_ = env.step(command)
    terms = {name: observation[part] for name, part in env.robot.observation_slices.items()}
    angles, speeds = env.simulation._physics.joint_states()
    np.testing.assert_allclose(terms["joints"][:7], angles[:7], atol=0.02)
    np.testing.assert_allclose(terms["joints"][7:], speeds[:7], atol=0.1)
    np.testing.assert_allclose(terms["hand"], hand(env.simulation.body), atol=4e-3)
    away = env.simulation.world.goal - hand(env.simulation.body)
    np.testing.assert_allclose(terms["goal"], away * DOWN, atol=0.015)
    np.testing.assert_allclose(terms["last_action"], command, rtol=1e-6)


def test_only_the_goal_ends_the_task_and_all_else_is_worth_the_same(env):
    """Cal-QL takes the return of a failure to be r / (1 - gamma): every reward must be that r."""
    observation, _ = env.reset(seed=5)
    goal = env.robot.observation_slices["goal"]
    terminal = timeout = False
    rewards = []
    while not (terminal or timeout):
        there = (3.0 * DOWN * observation[goal]).astype(np.float32)
        observation, reward, terminal, timeout, info = env.step(there)
        rewards.append(reward)
    assert (terminal, timeout, info["success"]) == (True, False, True)
    assert rewards == [-1.0] * (len(rewards) - 1) + [0.0]
    assert np.linalg.norm(hand(env.simulation.body) - env.simulation.world.goal) < REACHED + 0.01
    env.reset(seed=5)
    ends = [env.step(np.zeros(3, np.float32))[1:4] for _ in range(100)]
    assert [end[0] for end in ends] == [-1.0] * 100
    assert not any(end[1] for end in ends)
    assert [end[2] for end in ends] == [False] * 99 + [True]
    failure = np.array([end[0] for end in ends], np.float32)
    worth = returns_to_go(failure, np.array([100]), np.array([False]), 0.98)
    np.testing.assert_allclose(worth, -1.0 / (1.0 - 0.98))


def test_an_arm_that_touches_the_table_stops_for_good(env):
    env.reset(seed=1)
    down, up = (np.array([0.0, 0.0, z], np.float32) for z in (-0.4, 0.4))
    outcomes = [env.step(down) for _ in range(60)]
    assert outcomes[-1][4]["collided"]
    assert not any(outcome[2] for outcome in outcomes)
    before = hand(env.simulation.body)
    for _ in range(20):
        env.step(up)
    assert np.linalg.norm(hand(env.simulation.body) - before) < 0.02


def test_a_shove_moves_the_hand(physics):
    physics.reset(np.array(HOME))
    physics.drive(0.0, 0.0, 0.0)
    for _ in range(STEPS_PER_SECOND):
        physics.push((0.0, Panda.shove[0]), 0.0)
        physics.step()
    assert physics.body().y > 0.1


def test_a_profile_changes_the_arm():
    env = TaskEnv("PandaReach", profile=SimProfile(mass=1.2, motor=0.5, action_latency=0.08))
    env.reset(seed=2)
    lagging = [env.step(np.array([0.3, 0.0, 0.0], np.float32))[4]["pose"][0] for _ in range(3)]
    env.close()
    nominal = TaskEnv("PandaReach")
    nominal.reset(seed=2)
    told = [nominal.step(np.array([0.3, 0.0, 0.0], np.float32))[4]["pose"][0] for _ in range(3)]
    nominal.close()
    assert lagging[-1] < told[-1] - 0.01


def test_behaviour_is_of_mixed_quality(env):
    results = rollout_behaviour(env, 30, 1000)
    behaviour = env.task.behaviour(env.robot)
    outcomes = {kind: [] for kind in SHARES}
    for result in results:
        behaviour.begin(behaviour_rng(result.seed))
        outcomes[behaviour.skill.kind].append(result.success)
    assert all(outcomes.values())
    assert 0.5 <= np.mean([result.success for result in results]) <= 0.9
    assert np.mean(outcomes["careful"]) == 1.0
    assert np.mean(outcomes["slow"] + outcomes["naive"]) < 0.8
