"""Losses against numbers worked out by hand."""

import math

import pytest
import torch
from offrl_training.algorithms import bc, cql, iql, sac, td3_bc
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import (
    Critic,
    EnsembleMLP,
    GaussianPolicy,
    TanhGaussianPolicy,
    soft_update,
)
from torch import Tensor, tensor


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def close(value: Tensor, expected: float) -> bool:
    return float(value) == pytest.approx(expected, rel=1e-6)


def test_td_target_stops_at_terminals_only() -> None:
    target = td_target(tensor([1.0, 1.0]), tensor([0.0, 1.0]), tensor([10.0, 10.0]), 0.9)
    assert target.tolist() == [10.0, 1.0]


def test_td_loss_is_the_mean_over_the_batch_and_the_sum_over_critics() -> None:
    q = tensor([[1.0, 2.0], [3.0, 4.0]])
    assert close(td_loss(q, tensor([1.0, 1.0])), (0 + 1) / 2 + (4 + 9) / 2)
    assert close(td_loss(q, tensor([[1.0, 2.0], [0.0, 4.0]])), 9 / 2)


def test_cloning_loss() -> None:
    assert close(bc.cloning_loss(tensor([[1.0, 0.0]]), tensor([[0.0, 0.5]])), (1 + 0.25) / 2)


def test_td3_bc_policy_loss_weighs_q_by_its_mean_size() -> None:
    # mean |Q| = 3, lambda = 1.5 / 3, mean Q = -1, cloning (0.25 + 0) / 2
    loss = td3_bc.policy_loss(
        tensor([2.0, -4.0]), tensor([[0.5], [0.0]]), tensor([[0.0], [0.0]]), 1.5
    )
    assert close(loss, 0.5 + 0.125)


def test_td3_bc_scale_has_no_gradient() -> None:
    q = tensor([2.0, -4.0], requires_grad=True)
    td3_bc.policy_loss(q, tensor([[0.0]]), tensor([[0.0]]), 1.5).backward()
    assert q.grad is not None
    assert q.grad.tolist() == [-0.25, -0.25]  # -lambda / B


def test_expectile_loss_weighs_the_sides() -> None:
    assert close(iql.expectile_loss(tensor([1.0, -2.0]), 0.7), (0.7 * 1 + 0.3 * 4) / 2)


def test_iql_policy_loss_weighs_by_the_advantage_up_to_its_ceiling() -> None:
    log_prob = tensor([-1.0, -2.0])
    assert close(iql.policy_loss(log_prob, tensor([0.0, 1.0]), math.log(2.0), 100.0), 2.5)
    assert close(iql.policy_loss(log_prob, tensor([9.0, 9.0]), 1.0, 100.0), 150.0)


def test_conservative_penalty() -> None:
    q, log_density = tensor([[[0.0, 0.0]]]), tensor([[math.log(0.5), math.log(0.5)]])
    q_data = tensor([[1.0]])
    # two samples of density 1/2 count twice each: log 4
    assert close(cql.conservative_penalty(q, log_density, q_data, 1.0), math.log(4.0) - 1.0)
    # temperature 2: 2 log(2 sqrt 2)
    assert close(cql.conservative_penalty(q, log_density, q_data, 2.0), 3.0 * math.log(2.0) - 1.0)
    both = cql.conservative_penalty(q.expand(2, 1, 2), log_density, q_data.expand(2, 1), 1.0)
    assert close(both, 2.0 * (math.log(4.0) - 1.0))


def test_conservative_penalty_covers_every_sample() -> None:
    q = torch.zeros(2, 1, 30, requires_grad=True)
    cql.conservative_penalty(q, torch.zeros(1, 30), torch.zeros(2, 1), 1.0).backward()
    assert q.grad is not None
    torch.testing.assert_close(q.grad, torch.full((2, 1, 30), 1.0 / 30.0))


def test_cql_multiplier_grows_while_the_penalty_is_above_the_gap() -> None:
    log_multiplier = tensor(math.log(3.0), requires_grad=True)
    loss = cql.multiplier_loss(log_multiplier, tensor(2.0))
    assert close(loss, -6.0)
    loss.backward()
    assert close(log_multiplier.grad, -6.0)  # descent raises it
    assert close(cql.multiplier_loss(tensor(99.0), tensor(1.0)), -1e6)  # its ceiling


def test_sac_losses() -> None:
    log_prob = tensor([2.0, 4.0])
    assert close(sac.policy_loss(tensor([1.0, 1.0]), log_prob, tensor(0.5)), 0.5)
    assert close(sac.temperature_loss(tensor(0.5), log_prob, -1.0), -0.5 * (1 + 3) / 2)


def test_tanh_gaussian_density_equals_the_transformed_distribution() -> None:
    policy = TanhGaussianPolicy(3, 2, (8,), generator())
    observation = torch.randn(5, 3, generator=generator())
    action, log_prob = policy.sample(observation, 4, generator())
    mean, log_std = policy.mlp(observation).unsqueeze(1).chunk(2, -1)
    reference = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()),
        [torch.distributions.transforms.TanhTransform()],
    )
    assert action.shape == (5, 4, 2)
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1), rtol=1e-3, atol=1e-3)


def test_gaussian_density_equals_the_distribution() -> None:
    policy = GaussianPolicy(3, 2, (8,), generator())
    policy.log_std.data = tensor([-1.0, -7.0])  # the second lies below the floor of -5
    observation, action = torch.randn(5, 3), torch.rand(5, 2)
    reference = torch.distributions.Normal(policy(observation), tensor([-1.0, -5.0]).exp())
    expected = reference.log_prob(action).sum(-1)
    torch.testing.assert_close(policy.log_prob(observation, action), expected)


def test_ensemble_members_are_separate_networks() -> None:
    ensemble = EnsembleMLP(3, 4, (8, 6), generator())
    x = torch.randn(5, 4)
    for member in range(3):
        h = x
        layers = list(zip(ensemble.weights, ensemble.biases, strict=True))
        for index, (weight, bias) in enumerate(layers):
            h = h @ weight[member] + bias[member]
            h = h.relu() if index < len(layers) - 1 else h
        torch.testing.assert_close(ensemble(x)[member], h.squeeze(-1))


def test_soft_update() -> None:
    online, target = Critic(2, 1, 1, (4,), generator()), Critic(2, 1, 1, (4,), generator())
    for parameter in online.parameters():
        parameter.data.fill_(1.0)
    for parameter in target.parameters():
        parameter.data.fill_(3.0)
    soft_update(target, online, 0.25)
    assert all(bool((parameter == 2.5).all()) for parameter in target.parameters())


def test_descend_leaves_other_networks_without_gradients() -> None:
    policy = EnsembleMLP(1, 2, (4,), generator())
    critic = EnsembleMLP(1, 1, (4,), generator())
    before = [parameter.clone() for parameter in critic.parameters()]
    loss = critic(policy(torch.randn(8, 2)).T).sum()
    descend(torch.optim.Adam(policy.parameters()), loss)
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))
