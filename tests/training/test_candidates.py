"""Models of the data, distances to them, and choices among candidates, by hand."""

import math

import pytest
import torch
from offrl_training.algorithms import bear
from offrl_training.algorithms.base import Batch, Dims
from offrl_training.algorithms.bcq import BCQ, BCQConfig, Perturbation
from offrl_training.behaviour import VAE, clipped_latents, squared_mmd, vae_loss
from offrl_training.candidates import best_candidate, soft_clipped_value
from offrl_training.networks import Critic, Normaliser, pairs
from torch import Tensor, tensor

from .test_losses import close, generator


def test_vae_loss_is_the_error_plus_half_the_divergence() -> None:
    # error (0.5^2 + 0) / 2; latents N(1, 1) and N(0, 4): KL 1/2 and (4 - 1) / 2 - log 2
    action, data = tensor([[0.5, 0.0]]), tensor([[0.0, 0.0]])
    loss = vae_loss(action, data, tensor([[1.0, 0.0]]), tensor([[0.0, math.log(2.0)]]))
    assert close(loss, 0.125 + 0.5 * (0.5 + 1.5 - math.log(2.0)) / 2)
    assert float(vae_loss(data, data, torch.zeros(1, 2), torch.zeros(1, 2))) == 0.0


@pytest.mark.parametrize(("kernel", "apart"), [("laplacian", 3.0), ("gaussian", 5.0)])
def test_mmd_of_two_points(kernel: str, apart: float) -> None:
    # one sample each, (0, 0) and (1, 2): k is 1, 1 and exp(-apart / 2 sigma)
    x, y = torch.zeros(1, 1, 2), tensor([[[1.0, 2.0]]])
    assert close(squared_mmd(x, y, kernel, 0.5), 2.0 - 2.0 * math.exp(-apart))  # type: ignore[arg-type]
    assert float(squared_mmd(x, x, kernel, 0.5)) == 0.0  # type: ignore[arg-type]


def test_mmd_of_two_samples_against_one() -> None:
    # x = {0, 2}, y = {0}, sigma 1/2: mean k(x, x) = (1 + e^-2) / 2, k(y, y) = 1, k(x, y) as first
    x, y = tensor([[[0.0], [2.0]]]), torch.zeros(1, 1, 1)
    half = (1.0 + math.exp(-2.0)) / 2
    assert close(squared_mmd(x, y, "laplacian", 0.5), half + 1.0 - 2.0 * half)


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

    def values(self, observation: Tensor, actions: Tensor) -> Tensor:
        q: Tensor = self(*pairs(observation, actions))
        return q.unflatten(1, actions.shape[:2])

    def first(self, observation: Tensor, action: Tensor) -> Tensor:
        first: Tensor = self(observation, action)[0]
        return first


def test_candidates_are_chosen_per_state() -> None:
    q = Slope(2, 1, 1, (4,), generator())
    states, actions = tensor([[10.0], [20.0]]), tensor([[[1.0], [3.0]], [[-1.0], [-2.0]]])
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
    batch = Batch(s, s, tensor([1.0, 1.0]), s, tensor([0.5, 0.0]), torch.zeros(2), torch.arange(2))
    # critics say 2.8 and 3.6: 0.75 * 2.8 + 0.25 * 3.6 = 3
    torch.testing.assert_close(algorithm.targets(batch), tensor([1.0 + 0.5 * 3.0, 1.0]))


def test_bear_losses_by_hand() -> None:
    # critics' means over two actions are 2 and 1; MMD 0.5 at alpha 4
    q = tensor([[[1.0, 3.0]], [[0.0, 2.0]]])
    assert close(bear.constrained_loss(q, tensor([0.5]), tensor(4.0)), 4.0 * 0.5 - 1.0)
    log_alpha = torch.tensor(math.log(2.0), requires_grad=True)
    loss = bear.dual_loss(log_alpha, tensor([0.5, 0.1]), 0.1)
    assert close(loss, -2.0 * 0.2)
    loss.backward()
    assert log_alpha.grad is not None
    assert close(log_alpha.grad, -0.4)  # a step down makes alpha larger


def test_bear_target_by_hand() -> None:
    config = bear.BEARConfig(hidden=(4,), vae_hidden=(4,), gamma=0.5)
    algorithm = bear.BEAR(config, Dims(1, 1, 1), Normaliser(1, [(-1.0, 1.0)]), generator())
    for parameter in algorithm.actor_target.parameters():
        parameter.data.zero_()
    mean, log_std = math.atanh(0.8), -20.0
    algorithm.actor_target.mlp.biases[-1].data.copy_(tensor([mean, log_std]))
    algorithm.q_target = Slope(2, 1, 1, (4,), generator())
    s = tensor([[2.0], [2.0]])
    batch = Batch(s, s, tensor([1.0, 1.0]), s, tensor([0.5, 0.0]), torch.zeros(2), torch.arange(2))
    # critics say 2.8 and 3.6: 0.75 * 2.8 + 0.25 * 3.6 = 3
    torch.testing.assert_close(algorithm.targets(batch), tensor([1.0 + 0.5 * 3.0, 1.0]))


def test_bear_policy_ignores_q_in_the_warm_start() -> None:
    def policy_after(updates: int, scale: float) -> list[Tensor]:
        config = bear.BEARConfig(hidden=(4,), vae_hidden=(4,), warm_start=0.5)
        algorithm = bear.BEAR(config, Dims(1, 1, 100), Normaliser(1, [(-1.0, 1.0)]), generator())
        algorithm.updates = updates
        algorithm.policy.q.weights[-1].data *= scale
        algorithm.update_policy(torch.ones(8, 1))
        return list(algorithm.policy.actor.parameters())

    for updates, same in ((0, True), (49, True), (50, False)):
        one, other = policy_after(updates, 100.0), policy_after(updates, -100.0)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) is same


def test_bear_dual_variable_follows_the_mmd() -> None:
    moved = []
    for threshold in (0.01, 10.0):  # the MMD of untrained networks lies between
        config = bear.BEARConfig(hidden=(4,), vae_hidden=(4,), threshold=threshold)
        algorithm = bear.BEAR(config, Dims(1, 1, 100), Normaliser(1, [(-1.0, 1.0)]), generator())
        algorithm.update_policy(torch.ones(8, 1))
        moved.append(float(algorithm.log_alpha.detach()))
    assert moved == pytest.approx([1e-3, -1e-3])  # Adam's first step is the step size
