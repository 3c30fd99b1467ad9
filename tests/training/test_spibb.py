"""SPIBB: the exact algorithm on tables, and the parts of the one for continuous states."""

import math
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from offrl_contract import InputError, cli
from offrl_training.algorithms import spibb
from offrl_training.algorithms.base import Batch, Dims
from offrl_training.networks import Normaliser
from torch import Tensor, nn, tensor

from .test_losses import close, generator

NONE = torch.zeros(1, dtype=torch.bool)


def test_greedy_step_moves_only_what_is_not_bootstrapped() -> None:
    behaviour = tensor([[0.2, 0.3, 0.5]]).repeat(4, 1)
    q = tensor([[1.0, 2.0, 3.0]]).repeat(4, 1)
    bootstrapped = torch.tensor(
        [[False, False, False], [False, False, True], [False, True, True], [True, True, True]]
    )
    policy = spibb.constrained_greedy(q, behaviour, bootstrapped)
    expected = [[0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]]
    torch.testing.assert_close(policy, tensor(expected))


# --- tables ---


def test_n_wedge_by_hand() -> None:
    # 2 ln(2 * 2 * 3 * 2^2 / 0.1) / 0.1^2 = 200 ln 480
    assert spibb.n_wedge(2, 3, 0.1, 0.1) == pytest.approx(200.0 * math.log(480.0))


def test_model_and_value_by_hand() -> None:
    counts = tensor([[[1.0, 3.0], [0.0, 0.0]], [[0.0, 2.0], [5.0, 5.0]]])
    model = spibb.transition_model(counts)
    assert model.tolist() == [[[0.25, 0.75], [0.0, 0.0]], [[0.0, 1.0], [0.5, 0.5]]]
    policy, rewards = tensor([[0.5, 0.5], [1.0, 0.0]]), tensor([[0.0, 2.0], [1.0, 9.0]])
    # V(1) = 1 + V(1) / 2 = 2; V(0) = 1 + (V(0) / 8 + 3/8 V(1)) / 2 = 1.375 / (1 - 1/16)
    value = spibb.policy_value(policy, model, rewards, 0.5)
    torch.testing.assert_close(value, tensor([1.375 * 16.0 / 15.0, 2.0]))


class MDP(NamedTuple):
    model: Tensor
    rewards: Tensor


def random_mdp(random: torch.Generator, states: int, actions: int) -> MDP:
    """Every pair leads to two states; rewards are in [0, 1], most of them small."""
    model = torch.zeros(states, actions, states, dtype=torch.float64)
    for state, action in product(range(states), range(actions)):
        places = torch.randperm(states, generator=random)[:2]
        share = torch.rand((), generator=random, dtype=torch.float64)
        model[state, action, places] = torch.stack([share, 1.0 - share])
    rewards = torch.rand(states, 1, generator=random, dtype=torch.float64).pow(4)
    return MDP(model, rewards.repeat(1, actions))


@pytest.mark.parametrize("seed", range(5))
def test_pi_b_spibb_is_the_best_of_the_policies_that_follow_the_behaviour(seed: int) -> None:
    """Against all choices of one action per state, of those that are not bootstrapped."""
    random = torch.Generator().manual_seed(seed)
    mdp = random_mdp(random, 4, 3)
    behaviour = torch.rand(4, 3, generator=random, dtype=torch.float64)
    behaviour /= behaviour.sum(-1, keepdim=True)
    bootstrapped = torch.rand(4, 3, generator=random) < 0.4
    policy = spibb.pi_b_spibb(behaviour, bootstrapped, *mdp, 0.9)
    assert torch.equal(policy[bootstrapped], behaviour[bootstrapped])
    torch.testing.assert_close(policy.sum(-1), torch.ones(4, dtype=torch.float64))

    best = torch.full((4,), -torch.inf, dtype=torch.float64)
    for choice in product(range(3), repeat=4):
        preferred = nn.functional.one_hot(torch.tensor(choice), 3).double()
        other = spibb.constrained_greedy(preferred, behaviour, bootstrapped)
        best = torch.maximum(best, spibb.policy_value(other, *mdp, 0.9))
    torch.testing.assert_close(spibb.policy_value(policy, *mdp, 0.9), best)


STATES, ACTIONS, GAMMA, DELTA = 5, 12, 0.9, 0.05
LOSS = 1.0
"""zeta: what may be lost against the behaviour, of values up to 1 / (1 - GAMMA) = 10."""
LOGGED, RARE = 10**9, 2
"""Transitions in the log, and about how often a state's rare actions are among them."""


class Outcome(NamedTuple):
    behaviour: Tensor
    policy: Tensor
    bootstrapped: Tensor
    gain: float
    """True value of the SPIBB policy minus that of the behaviour."""
    gain_unconstrained: float
    """The same for the best policy of the estimated model."""


@cache
def outcome(seed: int) -> Outcome:
    """Log a driver who does the best action mostly, another at times, and the rest hardly ever."""
    random, draw = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    mdp = random_mdp(random, STATES, ACTIONS)
    uniform = torch.full((STATES, ACTIONS), 1.0 / ACTIONS, dtype=torch.float64)
    best = spibb.pi_b_spibb(uniform, NONE, *mdp, GAMMA).round()
    common = 0.95 * best + 0.05 * best.roll(1, -1)
    rare = (common == 0.0) * RARE * STATES / LOGGED
    behaviour = common * (1.0 - rare.sum(-1, keepdim=True)) + rare
    visits = draw.multinomial(LOGGED, (behaviour / STATES).flatten().numpy())
    flat = mdp.model.flatten(0, 1).numpy()
    counts = torch.from_numpy(draw.multinomial(visits, flat)).view_as(mdp.model).double()

    # the bound of the paper: 4 V_max / (1 - gamma) epsilon, with V_max = 1 / (1 - gamma)
    epsilon = LOSS * (1.0 - GAMMA) ** 2 / 4.0
    bootstrapped = counts.sum(-1) <= spibb.n_wedge(STATES, ACTIONS, epsilon, DELTA)
    estimate = spibb.transition_model(counts)
    policy = spibb.pi_b_spibb(behaviour, bootstrapped, estimate, mdp.rewards, GAMMA)
    greedy = spibb.pi_b_spibb(behaviour, NONE, estimate, mdp.rewards, GAMMA)
    value = [spibb.policy_value(p, *mdp, GAMMA).mean() for p in (behaviour, policy, greedy)]
    gains = float(value[1] - value[0]), float(value[2] - value[0])
    return Outcome(behaviour, policy, bootstrapped, *gains)


def test_spibb_follows_the_behaviour_where_counts_are_small() -> None:
    for seed in range(10):
        found = outcome(seed)
        assert 0.5 < float(found.bootstrapped.double().mean()) < 0.95
        assert torch.equal(found.policy[found.bootstrapped], found.behaviour[found.bootstrapped])
        assert not torch.equal(found.policy, found.behaviour)


def test_spibb_is_never_worse_than_the_behaviour_beyond_the_bound_and_the_greedy_policy_is() -> (
    None
):
    found = [outcome(seed) for seed in range(100)]
    assert min(each.gain for each in found) > -LOSS
    assert sum(each.gain < 0.0 for each in found) == 0
    assert float(np.mean([each.gain for each in found])) > 0.1
    assert sum(each.gain_unconstrained < -LOSS for each in found) >= 5
    assert sum(each.gain_unconstrained < 0.0 for each in found) >= 30


# --- continuous states ---


def test_pseudo_counts_by_hand() -> None:
    # two entries: the root mean square of (0.6, 0.8) is 1 / sqrt 2, of (1, 1) 1
    states, actions = tensor([[0.0, 0.0], [0.6, 0.8], [1.0, 1.0]]), torch.tensor([1, 1, 0])
    counts = spibb.pseudo_counts(torch.zeros(1, 2), states, actions, 3, radius=2.0)
    torch.testing.assert_close(counts, tensor([[0.5, 2.0 - 0.5 / math.sqrt(2.0), 0.0]]))
    assert spibb.pseudo_counts(torch.zeros(1, 2), states, actions, 3, 0.5).tolist() == [[0, 1, 0]]


def test_pseudo_counts_are_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # In double precision: a distance of 0, taken by a product, is the root of a rounding error.
    states = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    actions = torch.arange(50) % 4
    whole = spibb.pseudo_counts(states, states, actions, 4, 1.0)
    monkeypatch.setattr(spibb, "_CHUNK", 7 * 50)
    torch.testing.assert_close(spibb.pseudo_counts(states, states, actions, 4, 1.0), whole)


def build(actions: int = 1, **settings: object) -> spibb.SPIBB:
    config = spibb.SPIBBConfig.model_validate({"hidden": (4,), **settings})
    limits = [(-1.0, 1.0)] * actions
    return spibb.SPIBB(config, Dims(1, actions, 10), Normaliser(1, limits), generator())


def test_the_grid_reaches_the_limits_and_each_of_its_actions_is_its_own_nearest() -> None:
    policy = build(actions=2, bins=3).policy
    assert policy.actions.tolist() == [list(a) for a in product((-1.0, 0.0, 1.0), repeat=2)]
    assert policy.nearest(policy.actions).tolist() == list(range(9))
    assert policy.nearest(tensor([[0.4, -0.6], [0.6, 0.4]])).tolist() == [3, 7]
    assert build(bins=5).policy.actions.tolist() == [[-1.0], [-0.5], [0.0], [0.5], [1.0]]


def test_a_grid_that_is_too_large_is_refused_with_what_is_allowed() -> None:
    spibb.check_grid(16, 2)
    with pytest.raises(InputError, match=r"17 values for each of 2 .* 289 actions, 256 allowed"):
        spibb.check_grid(17, 2)
    with pytest.raises(InputError, match="use --bins 6 at most"):
        spibb.check_grid(7, 3)
    with pytest.raises(InputError, match="use an algorithm without a grid"):
        spibb.check_grid(2, 9)


def test_a_grid_that_is_too_large_leaves_no_run(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "spibb", str(path), "--out", str(tmp_path / "run"), "--bins", "999"]
    assert cli.run(arguments) == cli.EXIT_BAD_INPUT
    assert "spibb: bins: 999 values" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def chain() -> Batch:
    """0 -> 1 -> 5 by action -1, and -1 once from 0 by action 1."""
    s, next_s = tensor([[0.0], [0.0], [1.0], [0.0]]), tensor([[1.0], [1.0], [5.0], [-1.0]])
    a, discounts = tensor([[-1.0], [-1.0], [-1.0], [1.0]]), tensor([0.9, 0.9, 0.9, 0.0])
    return Batch(s, a, torch.ones(4), next_s, discounts, torch.zeros(4), torch.arange(4))


def test_what_the_driver_did_once_is_left_to_him() -> None:
    algorithm = build(bins=2, n_wedge=1.0)
    algorithm.prepare(chain())
    known = [False, True], [True, True]  # at 0: twice -1; elsewhere nothing more than once
    assert algorithm.bootstrapped[0].tolist() == [known[0], known[0], known[1], known[0]]
    assert algorithm.bootstrapped[1].tolist() == [known[1]] * 4


def test_target_by_hand() -> None:
    """Q chooses, Q' values; the driver does 1 with probability 1/4, and 3/4 are free at s' = 0."""
    algorithm = build(bins=3)
    for network, outputs in (
        (algorithm.behaviour, [math.log(2.0), 0.0, 0.0]),
        (algorithm.q, [1.0, 2.0, 9.0]),
        (algorithm.q_target, [10.0, 20.0, 40.0]),
    ):
        for parameter in network.parameters():
            parameter.data.zero_()
        network.biases[-1].data = tensor(outputs)
    algorithm.bootstrapped = torch.tensor([[[True] * 3] * 2, [[False, False, True]] * 2])
    s, one = torch.zeros(2, 1), torch.ones(2)
    batch = Batch(s, s, one, s, tensor([0.5, 0.0]), one, torch.tensor([1, 0]))
    target = algorithm.target(batch)
    assert close(target[0], 1.0 + 0.5 * (0.75 * 20.0 + 0.25 * 40.0))
    assert close(target[1], 1.0)
