"""What each algorithm is for, on small problems whose answer is known, each beside its opposite.

Settings are chosen so that an effect shows after a thousand steps; they rank no algorithm.
"""

from collections.abc import Callable
from functools import cache
from statistics import median
from typing import Any

import pytest
import torch
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, Batch, Dims
from offrl_training.algorithms.bc_gaussian import BCGaussian
from offrl_training.algorithms.brac import BRAC
from offrl_training.algorithms.cql import CQL
from offrl_training.algorithms.iql import IQL
from offrl_training.algorithms.sac import SAC
from offrl_training.networks import Normaliser, pairs
from torch import Tensor

Settings = dict[str, dict[str, Any]]

# Small networks learn in a thousand steps where the authors' step sizes are meant for a million.
FAST: Settings = {
    name: {key: 1e-3 for key in kind.config_type.model_fields if key.endswith("_rate")}
    for name, kind in ALGORITHMS.items()
}
FAST["cql"] |= {"samples": 4}
FAST["cal_ql"] |= {"samples": 4, "backup_samples": 1}
FAST["atac"] |= {"policy_rate": 1e-4}
FAST["brac"] |= {"policy_hidden": (32, 32), "warm_start": 0.3}


def train(name: str, data: Batch, steps: int, seed: int = 0, **settings: Any) -> Algorithm[Any]:
    """Train a small network on transitions in network coordinates."""
    dims = Dims(data.observations.shape[1], data.actions.shape[1], steps)
    normaliser = Normaliser(dims.observation, [(-1.0, 1.0)] * dims.action)
    kind = ALGORITHMS[name]
    config = kind.config_type(**{"hidden": (32, 32), **FAST[name], **settings})
    algorithm = kind(config, dims, normaliser, torch.Generator().manual_seed(seed))
    algorithm.prepare(data)
    random = torch.Generator().manual_seed(seed + 1)
    for _ in range(steps):
        rows = torch.randint(len(data.rewards), (64,), generator=random)
        algorithm.update(Batch(*(column[rows] for column in data)))
    return algorithm.requires_grad_(False)


def unrelated(actions: Tensor, rewards: Tensor, gamma: float) -> Batch:
    """Make a task without end in which the next state has nothing to do with the action.

    The value of a policy is then its mean reward / (1 - gamma), and so is the return-to-go.
    """
    states = torch.randn(2, len(actions), 1, generator=torch.Generator().manual_seed(0))
    later = gamma / (1.0 - gamma) * rewards.mean()
    discounts, rows = torch.full_like(actions, gamma), torch.arange(len(actions))
    return Batch(states[0], actions[:, None], rewards, states[1], discounts, rewards + later, rows)


# --- a driver who never does more than 0.2: what lies beyond is a guess of the critic ---

SUPPORT, NARROW_GAMMA = 0.2, 0.95
BEST = SUPPORT / (1.0 - NARROW_GAMMA)
"""The largest value that anything in the narrow data can have."""
STATES = torch.linspace(-2.0, 2.0, 41)[:, None]
TEMPERED: Settings = {"td3_bc": {"alpha": 0.5}}


def small_actions() -> Tensor:
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(2))
    return (0.1 * noise).clamp(-SUPPORT, SUPPORT)


@cache
def narrow(name: str) -> tuple[Tensor, float]:
    """Actions on STATES, and their mean Q, after training on small actions with reward = action."""
    data = unrelated(small_actions(), small_actions(), NARROW_GAMMA)
    settings = {"tau": 0.05, **TEMPERED.get(name, {})}
    algorithm = train(name, data, 1000, **settings)
    action = algorithm.policy(STATES)
    return action, float(algorithm.get_submodule("q")(STATES, action).mean())


def true_value(action: Tensor) -> float:
    """The reward is as the data shows it, and grows no more where the data ends."""
    return float(action.clamp(-SUPPORT, SUPPORT).mean()) / (1.0 - NARROW_GAMMA)


@pytest.mark.parametrize("name", ["td3", "sac"])
def test_online_algorithms_leave_the_data_and_believe_in_what_is_not_there(name: str) -> None:
    action, q = narrow(name)
    assert float(action.abs().min()) > 2.0 * SUPPORT
    assert q > 1.5 * BEST


@pytest.mark.parametrize("name", ["td3_bc", "iql", "cql", "cal_ql", "awac", "crr", "atac", "brac"])
def test_offline_algorithms_stay_in_the_data_and_below_its_best(name: str) -> None:
    action, q = narrow(name)
    assert float(action.abs().max()) < 1.2 * SUPPORT
    assert q < BEST


def test_cql_is_below_the_true_value_and_td3_above() -> None:
    action, q = narrow("cql")
    assert q < true_value(action)
    action, q = narrow("td3")
    assert q > 1.5 * true_value(action)


def test_cal_ql_is_not_below_what_the_driver_earned_and_cql_is() -> None:
    data = unrelated(small_actions(), 1.0 + small_actions(), gamma=0.8)
    earned = 1.0 / (1.0 - 0.8)
    found = {}
    for name in ("cql", "cal_ql"):
        algorithm = train(name, data, 700, tau=0.05, policy_rate=1e-4)
        assert isinstance(algorithm, CQL)
        sampled, _ = algorithm.policy.sample(STATES, 50, torch.Generator().manual_seed(0))
        found[name] = float(algorithm.q(*pairs(STATES, sampled)).mean())
    assert found["cql"] < 0.5 * earned
    assert 0.97 * earned < found["cal_ql"] < 1.2 * earned


# --- stitching: one driver goes A B D, another B C; only C pays ---

A, B, C, D = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, -1.0]])
STEP = 0.25
STITCHING: Settings = {
    "iql": {"expectile": 0.9, "beta": 20.0},
    "cql": {"weight": 1.0},
    "td3_bc": {},
}


def walk(*places: Tensor, pays: bool, random: torch.Generator) -> list[list[Tensor]]:
    """Go from place to place in steps of at most STEP in each direction, with some noise."""
    x = places[0] + 0.05 * torch.randn(2, generator=random)
    nothing, discount, rows = torch.tensor(0.0), torch.tensor(0.9), []
    for place in places[1:]:
        while float((place - x).abs().max()) > 0.15:
            action = ((place - x) / STEP).clamp(-1.0, 1.0)
            action = (action + 0.3 * torch.randn(2, generator=random)).clamp(-1.0, 1.0)
            rows.append([x, action, nothing, x + STEP * action, discount, nothing])
            x = x + STEP * action
    rows[-1][2], rows[-1][4] = torch.tensor(float(pays)), nothing
    return rows


@cache
def roads() -> Batch:
    random = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(100):
        rows += walk(A, B, D, pays=False, random=random)
        rows += walk(B, C, pays=True, random=random)
    columns = (torch.stack(column) for column in zip(*rows, strict=True))
    return Batch(*columns, rows=torch.arange(len(rows)))


def closest_to_c(policy: Callable[[Tensor], Tensor]) -> float:
    """Drive from A, and return the smallest distance to C."""
    x, closest = A[None], 9.0
    for _ in range(14):
        x = x + STEP * policy(x)
        closest = min(closest, float((x[0] - C).norm()))
    return closest


@pytest.mark.parametrize("name", ["bc", "bc_gaussian"])
def test_cloning_does_not_stitch(name: str) -> None:
    # At B, a clone goes between the two ways; a single one may come near C by chance.
    found = [closest_to_c(train(name, roads(), 1000, seed).policy) for seed in range(5)]
    assert median(found) > 0.4


@pytest.mark.parametrize("name", STITCHING)
def test_offline_learning_stitches(name: str) -> None:
    assert closest_to_c(train(name, roads(), 4000, tau=0.02, **STITCHING[name]).policy) < 0.25


# --- single algorithms ---


def bandit(actions: Tensor, rewards: Tensor) -> Batch:
    """Every transition ends the task."""
    states = torch.randn(len(actions), 1, generator=torch.Generator().manual_seed(3))
    none, rows = torch.zeros(len(actions)), torch.arange(len(actions))
    return Batch(states, actions[:, None], rewards, states, none, rewards, rows)


def one_in_ten_pays() -> Batch:
    pays = torch.rand(2000, generator=torch.Generator().manual_seed(0)) < 0.1
    return bandit(torch.where(pays, 0.6, -0.4), pays.float())


def test_iql_values_the_best_action_in_the_data_as_the_expectile_goes_to_one() -> None:
    found = {}
    for expectile in (0.5, 0.99):
        algorithm = train("iql", one_in_ten_pays(), 1000, expectile=expectile)
        assert isinstance(algorithm, IQL)
        found[expectile] = float(algorithm.v(STATES).mean())
    assert found[0.5] == pytest.approx(0.1, abs=0.05)
    assert found[0.99] > 0.85


@pytest.mark.parametrize("name", ["sac", "rlpd", "cql", "cal_ql", "atac"])
def test_alpha_seeks_the_target_entropy(name: str) -> None:
    for target_entropy in (9.0, -99.0):  # above and below any policy's at the start
        algorithm = train(name, one_in_ten_pays(), 1, target_entropy=target_entropy)
        assert isinstance(algorithm, SAC)
        assert (float(algorithm.log_alpha) > 0.0) == (target_entropy > 0.0)


def test_a_lower_target_entropy_lets_sac_nearer_to_the_limits() -> None:
    actions = torch.rand(2000, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    found = []
    for target_entropy in (-1.0, -3.0):  # more pays more, so that the limit is best
        settings = {"target_entropy": target_entropy, "policy_rate": 0.01}
        found.append(
            float(train("sac", bandit(actions, actions), 1000, **settings).policy(STATES).mean())
        )
    assert found[0] < 0.95 < found[1] <= 1.0


PREFERRING: list[tuple[str, dict[str, Any]]] = [
    ("iql", {"expectile": 0.99, "beta": 10.0}),
    ("awac", {"temperature": 0.1}),
    ("crr", {}),
    ("crr", {"weighting": "exponential", "temperature": 0.1}),
]


def test_cloning_takes_the_mean_of_what_pays_and_what_does_not() -> None:
    action = train("bc", one_in_ten_pays(), 700).policy(STATES)
    assert float(action.mean()) == pytest.approx(-0.3, abs=0.1)


@pytest.mark.parametrize(("name", "settings"), PREFERRING)
def test_weighted_cloning_takes_what_pays(name: str, settings: dict[str, Any]) -> None:
    action = train(name, one_in_ten_pays(), 1500, **settings).policy(STATES)
    assert float(action.mean()) == pytest.approx(0.6, abs=0.1)


def test_sac_temperature_brings_the_entropy_to_its_target() -> None:
    random = torch.Generator().manual_seed(0)
    actions = 2.0 * torch.rand(2000, generator=random) - 1.0
    data = bandit(actions, -(actions - 0.3).abs())
    entropy = {}
    for steps in (0, 1500):
        algorithm = train("sac", data, steps, policy_rate=3e-3)
        assert isinstance(algorithm, SAC)
        _, log_prob = algorithm.policy.sample(STATES, 50, random)
        entropy[steps] = -float(log_prob.mean())
    assert entropy[0] > 0.0
    assert entropy[1500] == pytest.approx(-1.0, abs=0.2)
    assert float(algorithm.policy(STATES).mean()) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("wavering", [0.3, 0.05])
def test_bc_gaussian_learns_where_the_driver_wavered(wavering: float) -> None:
    states, noise = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    actions = 0.2 + torch.where(states > 0.0, wavering, 0.05) * noise
    data = bandit(actions, torch.zeros(2000))._replace(observations=states[:, None])
    algorithm = train("bc_gaussian", data, 1000)
    assert isinstance(algorithm, BCGaussian)
    sure, unsure = algorithm.policy.mlp(torch.tensor([[-1.0], [1.0]]))[:, 1].exp().tolist()
    assert sure == pytest.approx(0.05, rel=0.3)
    assert unsure == pytest.approx(wavering, rel=0.3)


def test_atac_with_beta_zero_imitates_and_with_more_it_improves() -> None:
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    actions = 0.3 * noise.clamp(-2.0, 2.0)
    found = {}
    for beta in (0.0, 64.0):
        algorithm = train("atac", bandit(actions, actions), 1500, beta=beta, policy_rate=3e-4)
        found[beta] = float(algorithm.policy(STATES).mean())
    assert abs(found[0.0]) < 0.1
    assert found[64.0] > 0.2


def test_brac_v_charges_the_value_for_the_divergence_to_come_and_brac_p_does_not() -> None:
    gamma, alpha = 0.8, 0.05
    data = unrelated(small_actions(), small_actions(), gamma)
    value, divergence = {}, {}
    for penalty in ("policy", "value"):
        algorithm = train("brac", data, 1000, gamma=gamma, tau=0.05, alpha=alpha, penalty=penalty)
        assert isinstance(algorithm, BRAC)
        sampled, _ = algorithm.policy.sample(STATES, 50, torch.Generator().manual_seed(0))
        value[penalty] = float(algorithm.q(*pairs(STATES, sampled)).mean())
        states = STATES.repeat(20, 1)
        divergence[penalty] = float(algorithm.sample(states)[1].mean())
    assert divergence["value"] == pytest.approx(divergence["policy"], rel=0.2)
    due = gamma / (1.0 - gamma) * alpha * divergence["value"]
    assert value["policy"] - value["value"] == pytest.approx(due, rel=0.25)


def one_side_known() -> Batch:
    """-0.5 pays; right of 0 the driver does it at times, left of 0 five times, each with luck."""
    random = torch.Generator().manual_seed(0)
    states, noise = torch.randn(2, 2000, generator=random)
    right = states > 0.0
    does = right & (torch.rand(2000, generator=random) < 0.3)
    does[torch.nonzero(~right)[:5, 0]] = True
    rewards = torch.where(does, torch.where(right, 0.5, 2.0), 0.0) + 0.3 * noise
    data = bandit(torch.where(does, -0.5, 0.0), rewards)
    return data._replace(observations=states[:, None], next_observations=states[:, None])


@pytest.mark.parametrize(
    ("settings", "left", "right"),
    [
        ({}, 0.0, -0.5),
        ({"n_wedge": 0.0, "radius": 100.0}, -0.5, -0.5),  # what was seen once is known everywhere
        ({"n_wedge": 1e9}, 0.0, 0.0),  # nothing is ever known
    ],
)
def test_spibb_improves_where_it_has_seen_enough(
    settings: dict[str, float], left: float, right: float
) -> None:
    algorithm = train("spibb", one_side_known(), 500, **settings)
    distance = torch.linspace(0.4, 1.5, 20)[:, None]
    assert algorithm.policy(-distance).unique().tolist() == [left]
    assert algorithm.policy(distance).unique().tolist() == [right]
