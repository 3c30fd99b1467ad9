"""The gate's critics do not share what they bootstrap from."""

import torch
from offrl_training.algorithms.base import Batch, Dims
from offrl_training.gate_critics import CRITICS, GateCritics
from offrl_training.losses import td_loss
from offrl_training.networks import DeterministicPolicy, Normaliser
from torch import Tensor

from .test_algorithms import LIMITS, batch

DIMS = Dims(observation=5, action=2, steps=100)


def build() -> tuple[GateCritics, DeterministicPolicy]:
    random = torch.Generator().manual_seed(0)
    normaliser = Normaliser(5, LIMITS)
    normaliser.observation_mean.fill_(3.0)
    normaliser.observation_std.fill_(2.0)
    critics = GateCritics(DIMS, (16, 16), normaliser, random)
    return critics, DeterministicPolicy(5, 2, (16,), random)


def gradients(critics: GateCritics, data: Batch, policy: DeterministicPolicy) -> list[Tensor]:
    q = critics.q(data.observations, data.actions)
    loss = td_loss(q, critics.targets(data, policy))
    return list(torch.autograd.grad(loss, list(critics.q.parameters())))


def test_each_critic_bootstraps_from_its_own_target_only() -> None:
    critics, policy = build()
    data = batch()
    before = gradients(critics, data, policy)
    for parameter in critics.q_target.parameters():
        parameter.data[2] += 0.5
    after = gradients(critics, data, policy)
    for old, new in zip(before, after, strict=True):
        changed = [not torch.equal(old[k], new[k]) for k in range(CRITICS)]
        assert changed == [k == 2 for k in range(CRITICS)]


def test_targets_by_hand() -> None:
    critics, policy = build()
    data = batch()
    targets = critics.targets(data, policy)
    next_q = critics.q_target(data.next_observations, policy(data.next_observations))
    k, ended, going = 3, int(data.discounts.argmin()), int(data.discounts.argmax())
    assert targets[k, ended] == data.rewards[ended]
    torch.testing.assert_close(targets[k, going], data.rewards[going] + 0.99 * next_q[k, going])


def test_members_start_apart_and_targets_start_equal() -> None:
    critics, _ = build()
    first = critics.q.weights[0]
    assert len({float(first[k, 0, 0].detach()) for k in range(CRITICS)}) == CRITICS
    assert torch.equal(first, critics.q_target.weights[0])


def test_forward_takes_si_units() -> None:
    critics, _ = build()
    data = batch()
    low, high = torch.tensor(LIMITS).T
    observation = 3.0 + 2.0 * data.observations
    action = low + 0.5 * (data.actions + 1.0) * (high - low)
    q = critics(observation, action)
    assert q.shape == (CRITICS, 32)
    torch.testing.assert_close(q, critics.q(data.observations, data.actions))


def test_update_learns_a_constant_return_and_leaves_the_policy_alone() -> None:
    """Reward 1 without end is worth 1 / (1 - gamma) = 2."""
    critics, policy = build()
    before = [parameter.clone() for parameter in policy.parameters()]
    for parameter in critics.q_optimizer.param_groups:
        parameter["lr"] = 1e-2
    data = batch()
    stay = policy(data.observations).detach()
    data = data._replace(
        actions=stay,
        rewards=torch.ones(32),
        next_observations=data.observations,
        discounts=torch.full((32,), 0.5),
    )
    start = critics.error(data, policy).abs().mean().detach()
    for _ in range(400):
        critics.update(data, policy)
    q = critics.q(data.observations, data.actions)
    assert float(start) > 0.5
    torch.testing.assert_close(q, torch.full((CRITICS, 32), 2.0), rtol=0.05, atol=0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
