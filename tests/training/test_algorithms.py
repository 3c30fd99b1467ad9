"""The contract that every algorithm keeps."""

import copy
from typing import Any

import pytest
import torch
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, Batch, Dims
from offrl_training.algorithms.cql import CQL, CQLConfig
from offrl_training.algorithms.iql import IQL
from offrl_training.algorithms.td3_bc import TD3BC
from offrl_training.networks import Normaliser

from .conftest import small

DIMS = Dims(observation=5, action=2, steps=100)
LIMITS = ((-0.3, 0.3), (1.0, 4.0))

WARM = [n for n, kind in ALGORITHMS.items() if "warm_start" in kind.config_type.model_fields]
# What a run of a few updates needs so that every part takes part.
SHORT: dict[str, dict[str, Any]] = {name: {"warm_start": 0.02} for name in WARM}
SHORT["spibb"] = {"n_wedge": 1.0, "radius": 2.0}

each = pytest.mark.parametrize("name", ALGORITHMS)


def build(name: str, seed: int = 0, **settings: Any) -> Algorithm[Any]:
    normaliser = Normaliser(DIMS.observation, LIMITS)
    normaliser.observation_mean.fill_(100.0)
    normaliser.observation_std.fill_(10.0)
    kind = ALGORITHMS[name]
    config = small(kind.config_type, **{**SHORT.get(name, {}), **settings})
    algorithm = kind(config, DIMS, normaliser, torch.Generator().manual_seed(seed))
    algorithm.prepare(batch())
    return algorithm


def batch(seed: int = 0, size: int = 32) -> Batch:
    random = torch.Generator().manual_seed(seed)
    return Batch(
        observations=torch.randn(size, 5, generator=random),
        actions=2.0 * torch.rand(size, 2, generator=random) - 1.0,
        rewards=torch.randn(size, generator=random),
        next_observations=torch.randn(size, 5, generator=random),
        discounts=0.99 * (torch.rand(size, generator=random) > 0.2).float(),
        returns_to_go=torch.randn(size, generator=random),
        rows=torch.arange(size),
    )


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Names of tensors that are not equal to the last bit."""
    assert a.keys() == b.keys()
    tensors = [name for name, value in a.items() if isinstance(value, torch.Tensor)]
    return [name for name in tensors if not torch.equal(a[name], b[name])]


@each
def test_update_moves_every_network_and_returns_finite_tensors(name: str) -> None:
    algorithm = build(name)
    before = copy.deepcopy(algorithm.state_dict())
    for step in (0, 1, DIMS.steps - 2, DIMS.steps - 1):  # within and after what begins a run
        algorithm.updates = step
        metrics = algorithm.update(batch(step))
    moved = set(differing(before, algorithm.state_dict()))
    expected = {key for key, _ in algorithm.named_parameters()}
    assert moved == expected
    assert all(value.ndim == 0 and bool(value.isfinite()) for value in metrics.values())
    assert not any(value.requires_grad for value in metrics.values())


@each
def test_act_takes_and_gives_si_units_inside_the_limits(name: str) -> None:
    algorithm = build(name)
    # far outside the data, so that some actions lie at the limits
    observation = 100.0 + 1e3 * torch.randn(64, 5)
    action = algorithm.act(observation)
    low, high = torch.tensor(LIMITS).T
    assert action.shape == (64, 2)
    assert bool(((action >= low) & (action <= high)).all())
    assert bool((action == low).any() | (action == high).any())
    inner = algorithm.policy((observation - 100.0) / 10.0)
    torch.testing.assert_close(action, low + 0.5 * (inner + 1.0) * (high - low))


@each
def test_act_is_deterministic_and_leaves_the_generator_alone(name: str) -> None:
    algorithm = build(name)
    state = algorithm.generator.get_state()
    observation = 100.0 + torch.randn(8, 5)
    assert torch.equal(algorithm.act(observation), algorithm.act(observation))
    assert torch.equal(state, algorithm.generator.get_state())


@each
def test_act_can_be_traced(name: str) -> None:
    algorithm = build(name).eval()
    observation = 100.0 + 10.0 * torch.randn(1, 5)
    traced = torch.export.export(algorithm, (observation,)).module()
    torch.testing.assert_close(traced(observation), algorithm.act(observation))


@each
def test_state_round_trip_carries_the_normaliser(name: str) -> None:
    trained, other = build(name), build(name, seed=1)
    trained.update(batch())
    other.normaliser.observation_mean.zero_()
    other.load_state_dict(trained.state_dict())
    observation = 100.0 + torch.randn(8, 5)
    assert torch.equal(trained.act(observation), other.act(observation))
    assert other.updates == trained.updates == 1


@each
def test_one_seed_gives_one_result(name: str) -> None:
    first, second, third = build(name), build(name), build(name, seed=1)
    for algorithm in (first, second, third):
        algorithm.update(batch())
    assert differing(first.state_dict(), second.state_dict()) == []
    assert differing(first.state_dict(), third.state_dict()) != []


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("bc", "bc_gaussian")])
def test_a_terminal_stops_the_bootstrap(name: str) -> None:
    """With every transition terminal, what comes next has no influence on the critic."""
    results = []
    for scale in (1.0, 50.0):
        algorithm, ended = build(name), batch()
        ended = ended._replace(
            discounts=torch.zeros(32), next_observations=scale * ended.next_observations
        )
        if isinstance(algorithm, CQL):  # its penalty does sample actions at s'
            algorithm.config = CQLConfig(hidden=(16, 16), weight=0.0)
        algorithm.updates = DIMS.steps - 1
        algorithm.update(ended)
        critic = next(m for key, m in algorithm.named_modules() if key in ("q", "policy.q"))
        results.append([p.clone() for p in critic.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_td3_bc_delays_policy_and_targets() -> None:
    algorithm = build("td3_bc")
    assert isinstance(algorithm, TD3BC)
    before = copy.deepcopy(algorithm.state_dict())
    algorithm.update(batch())
    assert {key.split(".")[0] for key in differing(before, algorithm.state_dict())} == {"q"}
    algorithm.update(batch())
    moved = {key.split(".")[0] for key in differing(before, algorithm.state_dict())}
    assert moved == {"q", "policy", "q_target", "policy_target"}


def test_iql_policy_rate_falls_along_a_cosine() -> None:
    algorithm = build("iql", learning_rate=1.0)
    assert isinstance(algorithm, IQL)
    rates = []
    for algorithm.updates in (0, 50, 100, 150):
        rates.append(algorithm.policy_rate())
    assert rates == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_cql_samples_three_sets_of_actions() -> None:
    algorithm = build("cql", samples=10)
    assert isinstance(algorithm, CQL)
    actions, log_density = algorithm.sample_actions(batch())
    assert actions.shape == (32, 30, 2)
    assert log_density.shape == (32, 30)
    assert torch.allclose(log_density[:, :10].exp(), torch.tensor(0.25))  # uniform on [-1, 1]^2
    assert bool((actions.abs() <= 1.0).all())


@pytest.mark.parametrize("name", WARM)
def test_the_warm_start_follows_the_data_and_not_online(name: str) -> None:
    """In the warm start Q has no say in the policy; going on online ends it."""

    def loss(q_scale: float, online: bool) -> float:
        algorithm = build(name, warm_start=0.5)
        with torch.no_grad():
            q = algorithm.policy.q if name == "bear" else algorithm.q
            q.weights[-1].mul_(q_scale)
        if online:
            algorithm.begin_online()
        data = batch().observations if name in ("bear", "brac") else batch()
        return float(algorithm.update_policy(data)["policy_loss"])

    assert loss(1.0, online=False) == loss(100.0, online=False)
    assert loss(1.0, online=True) != loss(100.0, online=True)


def test_cql_backs_up_the_best_of_its_samples() -> None:
    """The maximum over 50 actions is above the one that is drawn alone, in every state."""
    one, many = build("cql"), build("cql", backup_samples=50)
    assert isinstance(one, CQL)
    assert isinstance(many, CQL)
    states = batch().observations
    values = many.next_value(states), one.next_value(states)
    assert values[0].shape == values[1].shape == (32,)
    assert float((values[0] > values[1]).float().mean()) > 0.9


def test_cql_adapts_its_weight_to_the_gap() -> None:
    moved = []
    for gap in (0.0, 100.0):  # the penalty starts at about 3.4 a critic
        algorithm = build("cql", lagrange_gap=gap)
        assert isinstance(algorithm, CQL)
        algorithm.update(batch())
        moved.append(float(algorithm.log_multiplier.detach()))
    assert moved[0] > 0.0 > moved[1]


def test_cql_temperature_keeps_training_after_a_reload() -> None:
    algorithm = build("cql")
    algorithm.update(batch())
    state, optimizers = algorithm.state_dict(), algorithm.optimizers()
    resumed = build("cql", seed=3)
    resumed.load_state_dict(state)
    for key, optimizer in resumed.optimizers().items():
        optimizer.load_state_dict(optimizers[key].state_dict())
    alpha = resumed.state_dict()["log_alpha"].clone()
    resumed.update(batch())
    assert not torch.equal(alpha, resumed.state_dict()["log_alpha"])
