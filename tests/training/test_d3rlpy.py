"""From equal weights, on equal batches, our updates and d3rlpy's give equal networks.

Runs where d3rlpy was installed with --no-deps (see benchmarks/d3rlpy_peer.py); skipped elsewhere.
"""

import math
from collections.abc import Iterable, Iterator

import pytest
import torch
from offrl_training.adam import Adam
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, Batch, Dims
from offrl_training.networks import MLP, EnsembleMLP, Normaliser
from torch import Tensor, nn

pytest.importorskip("d3rlpy")

from d3rlpy_peer import Peer

DIMS = Dims(observation=5, action=2, steps=100)


def pair(name: str, **settings: object) -> tuple[Algorithm, Peer]:
    kind = ALGORITHMS[name]
    config = kind.config_type.model_validate({"hidden": (16, 16), **settings})
    normaliser = Normaliser(DIMS.observation, [(-1.0, 1.0)] * DIMS.action)
    generator = torch.Generator().manual_seed(0)
    return kind(config, DIMS, normaliser, generator), Peer(name, config, DIMS, seed=0)


def batches(count: int) -> Iterator[Batch]:
    random = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield Batch(
            observations=torch.randn(32, 5, generator=random),
            actions=torch.rand(32, 2, generator=random) * 2.0 - 1.0,
            rewards=torch.randn(32, generator=random),
            next_observations=torch.randn(32, 5, generator=random),
            discounts=0.99 * (torch.rand(32, generator=random) > 0.2).float(),
            returns_to_go=torch.zeros(32),
            rows=torch.arange(32),
        )


def parameters(network: MLP | EnsembleMLP, member: int = 0) -> list[Tensor]:
    """Weights and biases, layer by layer, as nn.Linear has them."""
    return as_linear(network, [*zip(network.weights, network.biases, strict=True)], member)


def gradients(network: MLP | EnsembleMLP) -> list[Tensor]:
    layers = zip(network.weights, network.biases, strict=True)
    return as_linear(network, [(weight.grad, bias.grad) for weight, bias in layers])


def as_linear(
    network: MLP | EnsembleMLP, layers: list[tuple[Tensor, Tensor]], member: int = 0
) -> list[Tensor]:
    if isinstance(network, MLP):
        return [each for layer in layers for each in layer]
    return [each for weight, bias in layers for each in (weight[member].T, bias[member, 0])]


def linear(module: nn.Module) -> list[Tensor]:
    layers = [each for each in module.modules() if isinstance(each, nn.Linear)]
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def copy(ours: list[Tensor], theirs: Iterable[nn.Module]) -> None:
    for module in theirs:
        for source, target in zip(ours, linear(module), strict=True):
            target.data.copy_(source)


def distance(ours: list[Tensor], theirs: nn.Module) -> float:
    pairs = zip(ours, linear(theirs), strict=True)
    return max(float((mine - other).detach().abs().max()) for mine, other in pairs)


def copy_critics(algorithm: Algorithm, peer: Peer) -> None:
    modules = peer.impl._modules
    for member in range(2):
        theirs = modules.q_funcs[member], modules.targ_q_funcs[member]
        copy(parameters(algorithm.q, member), theirs)


@pytest.mark.parametrize("delay", [2, 1])
def test_td3_bc_stays_equal(delay: int) -> None:
    """Without target noise nothing is random; with another delay they part."""
    algorithm, peer = pair("td3_bc", target_noise=0.0)
    peer.impl._update_actor_interval = delay
    modules = peer.impl._modules
    copy_critics(algorithm, peer)
    copy(parameters(algorithm.policy.mlp), (modules.policy, modules.targ_policy))
    for batch in batches(40):
        algorithm.update(batch)
        peer.update(batch)
    apart = [
        distance(parameters(algorithm.policy.mlp), modules.policy),
        distance(parameters(algorithm.q, 0), modules.q_funcs[0]),
        distance(parameters(algorithm.q, 1), modules.q_funcs[1]),
    ]
    assert (max(apart) < 1e-5) == (delay == 2)


@pytest.mark.parametrize("expectile", [0.7, 0.5])
def test_iql_has_the_same_first_gradients(
    expectile: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V and the policy's mean: Q's target has V before the step there, and after it here."""

    step = Adam.descend

    def keep(optimizer: Adam, gradients: tuple[Tensor, ...], rate: float | None) -> None:
        for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
            parameter.grad = gradient
        step(optimizer, gradients, rate)

    monkeypatch.setattr(Adam, "descend", keep)
    algorithm, peer = pair("iql")
    peer.impl._expectile = expectile
    modules = peer.impl._modules
    copy_critics(algorithm, peer)
    copy(parameters(algorithm.v), (modules.value_func,))
    copy(parameters(algorithm.policy.mlp), (modules.policy,))
    modules.policy._logstd.data.fill_(math.log(5.0 / 2.0))  # sigmoid of it is 5/7: log-deviation 0
    (batch,) = batches(1)
    algorithm.update(batch)
    peer.update(batch)
    theirs = [each.grad for each in linear(modules.value_func) + linear(modules.policy)]
    ours = gradients(algorithm.v) + gradients(algorithm.policy.mlp)
    apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    assert (apart < 1e-6) == (expectile == 0.7)
