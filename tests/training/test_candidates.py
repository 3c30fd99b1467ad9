"""Models of the data, and choices among candidates, by hand."""

import math

import torch
from offrl_training.algorithms.base import Batch, Dims
from offrl_training.algorithms.bcq import BCQ, BCQConfig, Perturbation
from offrl_training.behaviour import VAE, clipped_latents, vae_loss
from offrl_training.candidates import best_candidate, candidate_values, soft_clipped_value
from offrl_training.networks import Critic, Normaliser
from torch import Tensor, tensor

from .test_losses import close, generator


def test_vae_loss_is_the_error_plus_half_the_divergence() -> None:
    # error (0.5^2 + 0) / 2; latents N(1, 1) and N(0, 4): KL 1/2 and (4 - 1) / 2 - log 2
    action, data = tensor([[0.5, 0.0]]), tensor([[0.0, 0.0]])
    loss = vae_loss(action, data, tensor([[1.0, 0.0]]), tensor([[0.0, math.log(2.0)]]))
    assert close(loss, 0.125 + 0.5 * (0.5 + 1.5 - math.log(2.0)) / 2)
    assert float(vae_loss(data, data, torch.zeros(1, 2), torch.zeros(1, 2))) == 0.0


def test_soft_clipped_value_by_hand() -> None:
    # two critics, one state, two actions: 0.75 min + 0.25 max is 1.5 and 1.25
    q = tensor([[[1.0, 2.0]], [[3.0, 1.0]]])
    assert soft_clipped_value(q, 0.75).tolist() == [1.5]
    assert soft_clipped_value(q, 0.0).tolist() == [3.0]


class Slope(Critic):
    """Q_k(s, a) = s + k a."""

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:  # type: ignore[override]
        value = observation.squeeze(1)
        return torch.stack([value + action.squeeze(1), value + 2.0 * action.squeeze(1)])

    def first(self, observation: Tensor, action: Tensor) -> Tensor:
        first: Tensor = self(observation, action)[0]
        return first


def test_candidates_are_valued_and_chosen_per_state() -> None:
    q = Slope(2, 1, 1, (4,), generator())
    states, actions = tensor([[10.0], [20.0]]), tensor([[[1.0], [3.0]], [[-1.0], [-2.0]]])
    values = candidate_values(q, states, actions)
    assert values.tolist() == [[[11.0, 13.0], [19.0, 18.0]], [[12.0, 16.0], [18.0, 16.0]]]
    assert best_candidate(q, states, actions).tolist() == [[3.0], [-1.0]]


def test_latents_are_clipped_and_decoded_per_state() -> None:
    latents = clipped_latents((500, 4), generator())
    assert float(latents.abs().max()) == 0.5
    assert 0.3 < float((latents.abs() < 0.5).float().mean()) < 0.5  # 38 % of a Gaussian
    vae = VAE(3, 2, (8,), generator())
    states = torch.randn(5, 3)
    raw = vae.decode(states, latents[:7].expand(5, -1, -1))
    assert raw.shape == (5, 7, 2)
    one = vae.decode(states[2:3], latents[4:5].unsqueeze(0))
    torch.testing.assert_close(raw[2:3, 4:5], one)


def test_perturbation_is_bounded() -> None:
    perturbation = Perturbation(Dims(1, 1, 1), (4,), 0.1, generator())
    perturbation.mlp.biases[-1].data.fill_(100.0)
    moved = perturbation(torch.zeros(1, 1), tensor([[[0.0], [0.95]]]))
    torch.testing.assert_close(moved, tensor([[[0.1], [1.0]]]))


def test_bcq_target_by_hand() -> None:
    config = BCQConfig(hidden=(4,), vae_hidden=(4,), phi=0.0)
    algorithm = BCQ(config, Dims(1, 1, 1), Normaliser(1, [(-1.0, 1.0)]), generator())
    for parameter in algorithm.policy.vae.decoder.parameters():
        parameter.data.zero_()
    algorithm.policy.vae.decoder.biases[-1].data.fill_(math.atanh(0.8))
    algorithm.q_target = Slope(2, 1, 1, (4,), generator())
    s = tensor([[2.0], [2.0]])
    batch = Batch(s, s, tensor([1.0, 1.0]), s, tensor([0.5, 0.0]), tensor([0.0, 0.0]))
    # critics say 2.8 and 3.6: 0.75 * 2.8 + 0.25 * 3.6 = 3
    torch.testing.assert_close(algorithm.targets(batch), tensor([1.0 + 0.5 * 3.0, 1.0]))
