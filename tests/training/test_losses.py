"""Losses against numbers worked out by hand."""

import math

import pytest
import torch
from offrl_training.adam import Adam
from offrl_training.algorithms import atac, awac, bc, brac, cal_ql, cql, crr, iql, sac, td3_bc
from offrl_training.algorithms.base import Batch, Dims
from offrl_training.losses import descend, td_loss, td_target
from offrl_training.networks import (
    Critic,
    EnsembleMLP,
    GaussianPolicy,
    Normaliser,
    StateGaussianPolicy,
    TanhGaussianPolicy,
    soft_update,
)
from torch import Tensor, tensor


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def close(value: Tensor, expected: float) -> bool:
    return float(value.detach()) == pytest.approx(expected, rel=1e-6)


def test_td_target_takes_the_next_value_by_its_discount() -> None:
    target = td_target(tensor([1.0, 1.0]), tensor([0.9, 0.0]), tensor([10.0, 10.0]))
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
    assert log_multiplier.grad is not None
    assert close(log_multiplier.grad, -6.0)  # descent raises it
    assert close(cql.multiplier_loss(tensor(99.0), tensor(1.0)), -1e6)  # its ceiling


def test_sac_losses() -> None:
    log_prob = tensor([2.0, 4.0])
    assert close(sac.policy_loss(tensor([1.0, 1.0]), log_prob, tensor(0.5)), 0.5)
    assert close(sac.temperature_loss(tensor(0.5), log_prob, -1.0), -0.5 * (1 + 3) / 2)


def test_calibration_lifts_the_policy_s_samples_to_the_return_and_leaves_uniform_ones() -> None:
    q = tensor([[[0.0, 0.0, 7.0], [0.0, 0.0, 7.0]]])  # one critic, two states, three samples
    calibrated = cal_ql.calibrate(q, tensor([5.0, -5.0]), uniform=1)
    assert calibrated.tolist() == [[[0.0, 5.0, 7.0], [0.0, 0.0, 7.0]]]


def test_calibrated_values_are_not_pushed_down() -> None:
    q = torch.zeros(1, 1, 2, requires_grad=True)
    values = cal_ql.calibrate(q, tensor([5.0]), uniform=1)
    cql.conservative_penalty(values, torch.zeros(1, 2), torch.zeros(1, 1), 1.0).backward()
    assert q.grad is not None
    assert q.grad[0, 0, 0] > 0.0
    assert q.grad[0, 0, 1] == 0.0


def test_weights_of_awac_and_crr() -> None:
    advantage = tensor([-1.0, 0.0, 1.0, 9.0])
    awac_weight = awac.exponential_weight(advantage, 1.0 / math.log(2.0), 100.0)
    torch.testing.assert_close(awac_weight, tensor([0.5, 1.0, 2.0, 100.0]))
    assert crr.binary_weight(advantage).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_weighted_cloning_loss() -> None:
    assert close(awac.weighted_cloning_loss(tensor([-1.0, -3.0]), tensor([2.0, 0.5])), 1.75)


def test_brac_charges_the_smaller_q_with_the_divergence() -> None:
    # states with KL (1 + 3) / 2 - (0 + 1) / 2 and -1
    log_policy, log_clone = tensor([[1.0, 3.0], [0.0, 0.0]]), tensor([[0.0, 1.0], [1.0, 1.0]])
    divergence = brac.kl_estimate(log_policy, log_clone)
    assert divergence.tolist() == [1.5, -1.0]
    q = tensor([[5.0, 4.0], [6.0, 3.0]])
    assert brac.charged(q, divergence, 2.0).tolist() == [2.0, 5.0]


@pytest.mark.parametrize(
    ("penalty", "updates", "value"), [("value", 1, 1.5), ("policy", 1, 2.0), ("value", 0, 2.0)]
)
def test_brac_target_is_charged_after_the_warm_start(
    penalty: str, updates: int, value: float
) -> None:
    config = brac.BRACConfig.model_validate(
        {"hidden": (4,), "policy_hidden": (4,), "penalty": penalty, "alpha": 0.25}
    )
    algorithm = brac.BRAC(config, Dims(1, 1, 10), Normaliser(1, [(-1.0, 1.0)]), generator())
    algorithm.updates = updates
    algorithm.q_target = Constant(2, 1, 1, (4,), generator())
    algorithm.sample = lambda s: (torch.zeros(len(s), 1, 1), torch.full((len(s),), 2.0))  # type: ignore[method-assign]
    s = torch.zeros(2, 1)
    discounts = tensor([0.5, 0.0])
    batch = Batch(s, s, tensor([1.0, 1.0]), s, discounts, torch.zeros(2), torch.arange(2))
    assert algorithm.target(batch).tolist() == [1.0 + 0.5 * value, 1.0]


class Constant(Critic):
    """Q_k(s, a) = 2 + k."""

    def forward(self, observation: Tensor, _: Tensor) -> Tensor:  # type: ignore[override]
        return torch.tensor([[2.0], [3.0]]).expand(2, len(observation))


def test_atac_losses() -> None:
    q_policy, q_data = tensor([[3.0, 1.0], [0.0, 0.0]]), tensor([[1.0, 1.0], [1.0, 0.0]])
    assert close(atac.relative_pessimism(q_policy, q_data), 1.0 - 0.5)
    # errors to the target (1 + 0) / 2 and 4 / 2, to the critics' own 0 and (1 + 9) / 2
    q, own = tensor([[1.0, 0.0], [0.0, 2.0]]), tensor([[1.0, 0.0], [1.0, 5.0]])
    assert close(atac.bellman_loss(q, tensor([0.0, 0.0]), own, 0.25), 0.25 * 5.0 + 0.75 * 2.5)
    loss, other = tensor(2.0), tensor(3.0)
    assert close(atac.normalised_sum(loss, other, 0.5), 3.5)
    assert close(atac.normalised_sum(loss, other, tensor(4.0)), 3.5)


def test_atac_projection_shrinks_the_matrices_that_are_too_large() -> None:
    critic = Critic(2, 1, 1, (4,), generator())
    for weight, bias in zip(critic.weights, critic.biases, strict=True):
        weight.data[0].fill_(10.0)
        weight.data[1].fill_(0.1)
        bias.data.fill_(50.0)
    atac.project(critic, 2.0)
    for weight, bias in zip(critic.weights, critic.biases, strict=True):
        assert float(weight.detach()[0].norm()) == pytest.approx(2.0)
        assert bool((weight[1] == 0.1).all())
        assert bool((bias == 50.0).all())


def test_tanh_gaussian_density_of_given_actions_is_that_of_its_samples() -> None:
    policy = TanhGaussianPolicy(3, 2, (8,), generator())
    observation = torch.randn(5, 3, generator=generator())
    action, log_prob = policy.sample(observation, 1, generator())
    torch.testing.assert_close(
        policy.log_prob(observation, action.squeeze(1)), log_prob.squeeze(1), rtol=1e-3, atol=1e-3
    )
    assert bool(policy.log_prob(observation, torch.ones(5, 2)).isfinite().all())


def test_state_gaussian_density_equals_the_distribution() -> None:
    policy = StateGaussianPolicy(3, 2, (8,), generator())
    observation, action = torch.randn(5, 3), torch.rand(5, 2)
    mean, log_std = policy.mlp(observation).chunk(2, -1)
    reference = torch.distributions.Normal(mean.tanh(), log_std.exp())
    expected = reference.log_prob(action).sum(-1)
    torch.testing.assert_close(policy.log_prob(observation, action), expected)
    assert torch.equal(policy(observation), mean.tanh())


def test_gaussian_samples_have_its_mean_and_deviation_and_stay_inside() -> None:
    policy = GaussianPolicy(3, 1, (8,), generator())
    policy.log_std.data.fill_(-2.0)
    observation = torch.randn(1, 3, generator=generator())
    actions = policy.sample(observation, 20_000, generator()).detach()
    assert actions.shape == (1, 20_000, 1)
    mean = float(policy(observation).detach())
    assert float(actions.mean()) == pytest.approx(mean, abs=0.01)
    assert float(actions.std()) == pytest.approx(math.exp(-2.0), rel=0.05)
    policy.log_std.data.fill_(2.0)
    assert float(policy.sample(observation, 100, generator()).abs().max()) == 1.0


def test_state_gaussian_samples_have_the_mean_and_deviation_of_their_state() -> None:
    policy = StateGaussianPolicy(1, 1, (8,), generator())
    policy.mlp.biases[-1].data = tensor([0.1, -2.0])
    observation = tensor([[-1.0], [1.0]])
    mean, log_std = policy.mlp(observation).detach().chunk(2, -1)
    assert float(log_std[0]) != pytest.approx(float(log_std[1]), abs=0.1)
    actions = policy.sample(observation, 20_000, generator()).detach()
    assert actions.shape == (2, 20_000, 1)
    torch.testing.assert_close(actions.mean(1), mean.tanh(), atol=0.01, rtol=0.0)
    torch.testing.assert_close(actions.std(1), log_std.exp(), atol=0.0, rtol=0.05)
    policy.mlp.biases[-1].data = tensor([0.1, 2.0])
    assert float(policy.sample(observation, 100, generator()).detach().abs().max()) == 1.0


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
    descend(Adam(policy.parameters(), 1e-3), loss)
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))
