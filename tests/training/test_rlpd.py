"""RLPD: critics with LayerNorm, targets by a drawn subset, the policy by all."""

import pytest
import torch
import torch.nn.functional as F
from offrl_training.algorithms.base import Dims
from offrl_training.algorithms.rlpd import RLPD, RLPDConfig
from offrl_training.algorithms.sac import SACConfig
from offrl_training.networks import NormalisedCritic, Normaliser
from pydantic import ValidationError


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rlpd(**settings: object) -> RLPD:
    config = RLPDConfig.model_validate({"hidden": (8, 8), "members": 4, **settings})
    normaliser = Normaliser(3, ((-1.0, 1.0), (-1.0, 1.0)))
    return RLPD(config, Dims(3, 2, 100), normaliser, generator())


def test_each_member_is_linear_layernorm_relu() -> None:
    critic = NormalisedCritic(3, 4, 2, (8, 8), generator())
    with torch.no_grad():
        for parameter in (*critic.gains, *critic.shifts):
            parameter.add_(torch.rand(parameter.shape, generator=generator()))
    observation, action = torch.randn(5, 4), torch.randn(5, 2)
    q = critic(observation, action)  # (3, 5)
    for k in range(3):
        x = torch.cat([observation, action], 1)
        for layer in range(2):
            x = x @ critic.weights[layer][k] + critic.biases[layer][k]
            gain, shift = critic.gains[layer][k, 0], critic.shifts[layer][k, 0]
            x = F.layer_norm(x, (8,), gain, shift).relu()
        expected = (x @ critic.weights[2][k] + critic.biases[2][k]).squeeze(1)
        assert q[k].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert critic.first(observation, action).tolist() == pytest.approx(q[0].tolist(), abs=1e-5)


def test_several_actions_per_state_are_valued_as_one_by_one() -> None:
    critic = NormalisedCritic(3, 4, 2, (8, 8), generator())
    observation, actions = torch.randn(5, 4), torch.randn(5, 6, 2)
    values = critic.values(observation, actions)
    assert values.shape == (3, 5, 6)
    for n in range(6):
        torch.testing.assert_close(values[..., n], critic(observation, actions[:, n]))


def test_the_entropy_is_held_where_its_authors_hold_it() -> None:
    assert (rlpd().config.target_entropy, SACConfig().target_entropy) == (-0.5, -1.0)


def test_no_more_critics_can_be_drawn_than_there_are() -> None:
    with pytest.raises(ValidationError, match="subset: 5 of 4 members"):
        rlpd(subset=5)


def test_the_target_is_the_lowest_of_two_drawn_critics() -> None:
    algorithm = rlpd(entropy_backup=False)
    with torch.no_grad():
        algorithm.q_target.weights[-1].zero_()
        algorithm.q_target.biases[-1].copy_(torch.arange(4.0).view(4, 1, 1))
    with torch.no_grad():
        values = [float(algorithm.next_value(torch.zeros(1, 3))) for _ in range(300)]
    # of the 6 pairs of 4 critics, 3 have 0 as their lowest, 2 have 1, 1 has 2
    shares = [values.count(value) / 300 for value in (0.0, 1.0, 2.0, 3.0)]
    assert shares == pytest.approx([1 / 2, 1 / 3, 1 / 6, 0.0], abs=0.1)


def test_the_policy_climbs_the_mean_of_all_critics() -> None:
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0], [3.0, 2.0]])
    assert rlpd().pooled(q).tolist() == [3.0, 2.0]


def test_the_entropy_counts_in_the_target_if_asked() -> None:
    with_entropy, without = rlpd(), rlpd(entropy_backup=False)
    states = torch.zeros(64, 3)
    with torch.no_grad():
        apart = with_entropy.next_value(states) - without.next_value(states)
    assert float(apart.abs().mean()) > 0.1
