"""Scores of the step from one observation to the next: a changed robot shows in them."""

import copy

import numpy as np
import pytest
import torch
from offrl_contract import InputError, cli, robot_from_yaml
from offrl_contract.definitions import distro_definitions
from offrl_data.dataset import Episode
from offrl_data.dataset_writer import DatasetWriter
from offrl_export.dynamics import Dynamics, fit, judged_terms
from offrl_export.graph import SCORES
from offrl_policy.controller import Controller, Settings
from offrl_policy.policy_file import BEFORE, Policy

from .test_graph import trained

ROBOT = """
robot: cart
rate: 5.0
observation:
  - {name: x, topic: /odom, type: nav_msgs/msg/Odometry, field: [pose.pose.position.x, twist.twist.linear.x]}
action:
  - {name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: linear.x, limits: [[-1, 1]], max_rate: [1.0], safe: [0.0]}
reward: "x_0"
"""  # noqa: E501


def drives(
    count: int, seed: int, gain: float = 1.0, delay: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A cart whose speed follows its command, seen with a little noise; it wanders about 0."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        x = v = 0.0
        seen, commands = [(x, v)], []
        for _ in range(60):
            commands.append(float(np.clip(-0.5 * x + random.normal(0.0, 0.5), -1.0, 1.0)))
            felt = commands[max(0, len(commands) - 1 - delay)]
            v += 0.5 * (gain * felt - v)
            x += 0.2 * v
            seen.append((x + random.normal(0.0, 0.01), v + random.normal(0.0, 0.02)))
        made.append((np.array(seen, np.float32), np.array(commands, np.float32)[:, None]))
    return made


Drives = list[tuple[np.ndarray, np.ndarray]]


def disagreements(model: Dynamics, made: Drives) -> np.ndarray:
    with torch.no_grad():
        found = [model.disagreement(*map(torch.from_numpy, (s[:-1], a))) for s, a in made]
    return torch.cat(found).numpy()


def errors(model: Dynamics, made: Drives) -> np.ndarray:
    with torch.no_grad():
        found = [model.error(*map(torch.from_numpy, (s[:-1], a, s[1:]))) for s, a in made]
    return torch.cat(found).numpy()


@pytest.fixture(scope="module")
def model() -> Dynamics:
    made = drives(40, 0)
    run = trained("bc", robot_from_yaml(ROBOT, "cart.yaml"))
    observations = np.concatenate([seen for seen, _ in made]).astype(np.float64)
    run.algorithm.normaliser.fit(observations.mean(0), observations.std(0))
    model = Dynamics(run, ["x"])
    fit(model, made)
    return model


def test_error_is_one_deviation_on_new_drives_and_more_with_another_robot(model: Dynamics) -> None:
    normal = errors(model, drives(20, 1))
    assert np.sqrt(np.mean(normal**2)) == pytest.approx(1.0, abs=0.2)
    for changed in (drives(20, 2, gain=1.5), drives(20, 2, gain=0.5), drives(20, 2, delay=1)):
        error = errors(model, changed)
        assert np.mean(error) > 1.5 * np.mean(normal)
        assert np.mean(error > np.quantile(normal, 0.99)) > 0.25


def test_members_disagree_far_from_the_data(model: Dynamics) -> None:
    near = disagreements(model, drives(20, 1))
    far = [(seen + np.float32([40.0, 0.0]), commands) for seen, commands in drives(20, 1)]
    assert np.median(disagreements(model, far)) > 5.0 * np.median(near)


def test_what_the_members_disagree_about_they_expect_less_surely(model: Dynamics) -> None:
    """Deviations are of the mixture: here of members' variance 1 and of means -2, 0 and 2."""
    blunt = copy.deepcopy(model)
    blunt.normaliser.fit(np.zeros(2), np.ones(2))
    with torch.no_grad():
        blunt.weights[-1].zero_()
        blunt.biases[-1].copy_(torch.tensor([-2.0, 0.0, 2.0])[:, None, None])
        blunt.biases[-1][..., 2:] = 0.0  # log-deviation
        here = torch.zeros(1, 2), torch.zeros(1, 1)
        apart, off = blunt.disagreement(*here), blunt.error(*here, torch.tensor([[3.0, 4.0]]))
    assert apart == pytest.approx(np.sqrt(8.0 / 3.0), rel=0.01)
    assert off == pytest.approx(np.sqrt((9.0 + 16.0) / 2.0 / (1.0 + 8.0 / 3.0)), rel=0.01)


def test_one_number_counts_for_a_thousand_deviations_at_most(model: Dynamics) -> None:
    wild = [(np.cumsum(seen, 0) * np.float32(1e30), cmd) for seen, cmd in drives(2, 1)]
    found = np.stack([errors(model, wild), disagreements(model, wild)])
    assert np.isfinite(found).all()
    assert found.max() <= 1000.0 + 1e-2


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("cart")
    data, run, out = folder / "data.h5", folder / "run", folder / "p.onnx"
    with DatasetWriter(data, robot_from_yaml(ROBOT, "cart.yaml")) as writer:
        for seen, commands in drives(60, 0):
            writer.append(Episode(seen, commands, -np.abs(seen[1:, 0]), terminal=False, source=""))
        writer.finish({})
    training = ["bc", data, "--out", run, "--steps", 50, "--hidden", 16, "--held-out", 0.4]
    assert cli.run(["train", *map(str, training)]) == 0
    exporting = [run, "--data", data, "--out", out, "--alpha", 0.1]
    assert cli.run(["export", *map(str, exporting)]) == 0
    return Policy(out)


def test_the_file_scores_steps_with_the_command_that_was_in_force(policy: Policy) -> None:
    """Not with what the policy wished, nor without a tick before."""
    assert [each.name for each in policy.gate.scores] == list(SCORES)
    error = SCORES.index("dynamics_error")
    ((seen, commands),) = drives(1, 7)
    tick = int(np.abs(commands).argmax())
    answer = policy.run(seen[tick], policy.initial_memory)
    assert answer.uncertainty[error] == 0.0
    (wished,) = answer.memory
    assert wished[0, 2] == answer.action[0]
    given = commands[tick].astype(np.float64)
    as_driven = policy.run(seen[tick + 1], policy.remember(answer.memory, given))
    other = policy.run(seen[tick + 1], policy.remember(answer.memory, -given))
    assert as_driven.uncertainty[error] < 2.5 < other.uncertainty[error]
    apart = SCORES.index("dynamics_std")  # is of what the policy wishes now
    assert as_driven.uncertainty[apart] == other.uncertainty[apart] > 0.0


def test_controller_tells_the_command_that_was_in_force(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its limits; and nothing where the step was not one period long."""
    controller, store = Controller(policy, Settings()), distro_definitions()
    told: list[np.ndarray] = []
    run = policy.run

    def listening(observation, memory):  # type: ignore[no-untyped-def]
        told.append(memory[0][0].copy())
        return run(observation, memory)

    monkeypatch.setattr(policy, "run", listening)
    sent = []
    for now in (0.2, 0.4, 0.6, 1.6, 1.8, 1.8):
        controller.push("/odom", round(now * 1e9) - 1, _odometry(store, x=0.9))
        sent.append(float(controller.tick(round(now * 1e9)).command[0]))
    assert [each[-1] for each in told] == [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]  # known
    assert [each[2] for each in told] == pytest.approx([0.0, sent[0], sent[1], 0.0, sent[3], 0.0])
    assert np.abs(np.diff([0.0, *sent[:3]])).max() <= 0.2 + 1e-9  # max_rate over a tick


def _odometry(store, x):  # type: ignore[no-untyped-def]
    def blank(name):  # type: ignore[no-untyped-def]
        values = []
        for _, (tag, what) in store.fielddefs[name][1]:
            if tag == 2:
                values.append(blank(what))
            elif tag == 1:
                values.append("" if what[0] == "string" else 0)
            else:
                values.append(np.zeros(what[1] if tag == 3 else 0))
        return store.types[name](*values)

    made = blank("nav_msgs/msg/Odometry")
    made.pose.pose.position.x = x
    return made


def test_nothing_is_told_to_a_graph_that_does_not_ask(policy: Policy) -> None:
    assert BEFORE in policy._states
    memory = policy.initial_memory
    told = policy.remember(memory, np.array([0.5]))
    assert told[0][0, 2] == 0.5
    assert memory[0][0, 2] == 0.0  # the old one is as it was
    assert not policy.remember(told, None)[0].any()


def test_terms_that_may_jump_are_not_judged() -> None:
    goal = "{name: goal, topic: /goal, type: geometry_msgs/msg/Pose, field: position.x}"
    text = ROBOT.replace("action:", f"  - {goal}\naction:")
    robot = robot_from_yaml(text, "cart.yaml")
    assert judged_terms(robot, []) == ["x", "goal"]
    assert judged_terms(robot, ["goal"]) == ["x"]
    with pytest.raises(InputError, match=r"--jumps gaol: no such .* Did you mean 'goal'"):
        judged_terms(robot, ["gaol"])
    with pytest.raises(InputError, match="no term is left"):
        judged_terms(robot, ["x", "goal"])


def test_a_jump_of_such_a_term_changes_no_score(model: Dynamics) -> None:
    """Of two numbers, here the second is judged alone."""
    ((seen, commands),) = drives(1, 3)
    later = seen[1:].copy()
    jumped = later + np.float32([50.0, 0.0])
    judging = copy.deepcopy(model)
    judging.averages = torch.tensor([[0.0], [1.0]])
    scores_of = [
        judging.error(*map(torch.from_numpy, (seen[:-1], commands, then))).detach().numpy()
        for then in (later, jumped)
    ]
    np.testing.assert_array_equal(*scores_of)
