"""Networks: batched critic ensembles, policies, and the coordinates they work in.

Networks see observations of zero mean and unit deviation, and actions in [-1, 1]. The Normaliser
holds both maps as buffers, so that they travel with every checkpoint and into the policy file.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

_STD_EPS = 1e-3
_FLOOR = 0.1
_CONSTANT = 1e-6
_OPEN = 1.0 - 1e-6
_ALL = slice(None)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def uniform(shape: Sequence[int], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """Draw a parameter from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for layers."""
    bound = 1.0 / math.sqrt(fan_in)
    values = torch.empty(tuple(shape), device=generator.device)
    return nn.Parameter(values.uniform_(-bound, bound, generator=generator))


class Normaliser(nn.Module):
    """Maps between SI units and network coordinates."""

    observation_mean: Tensor
    """(o,)"""
    observation_std: Tensor
    """(o,)"""
    action_low: Tensor
    """(a,) SI units."""
    action_high: Tensor
    """(a,) SI units."""

    def __init__(self, observations: int, limits: Sequence[tuple[float, float]]) -> None:
        """Start with the identity on observations (o,) and the robot's action limits (a, 2)."""
        super().__init__()
        self.register_buffer("observation_mean", torch.zeros(observations))
        self.register_buffer("observation_std", torch.ones(observations))
        self.register_buffer("action_low", torch.tensor([low for low, _ in limits]))
        self.register_buffer("action_high", torch.tensor([high for _, high in limits]))

    def fit(
        self, mean: NDArray[np.float64], std: NDArray[np.float64], arrays: Iterable[slice] = ()
    ) -> None:
        """Take over mean and deviation of observations (o,); eps 1e-3 as in TD3+BC's code.

        An entry that never moves keeps its unit: divided by eps alone, the first change on the
        robot would reach the network a thousand times too large. For the same reason an entry of an
        array (one lidar beam of many) is divided by a tenth of the array's deviation at least.
        """
        std = std.copy()
        for entries in arrays:
            floor = _FLOOR * np.sqrt(np.square(std[entries]).mean())
            std[entries] = np.maximum(std[entries], floor)
        self.observation_mean.copy_(torch.from_numpy(mean))
        self.observation_std.copy_(torch.from_numpy(np.where(std < _CONSTANT, 1.0, std + _STD_EPS)))

    def observation(self, observation: Tensor) -> Tensor:
        """SI (..., o) to network coordinates."""
        return (observation - self.observation_mean) / self.observation_std

    def action(self, action: Tensor) -> Tensor:
        """SI (..., a) to [-1, 1]; what lies outside the limits is clipped to them."""
        unit = 2.0 * (action - self.action_low) / (self.action_high - self.action_low) - 1.0
        return unit.clamp(-1.0, 1.0)

    def action_to_si(self, action: Tensor) -> Tensor:
        """[-1, 1] (..., a) to SI, inside the limits to the last bit."""
        si = self.action_low + 0.5 * (action + 1.0) * (self.action_high - self.action_low)
        return torch.minimum(torch.maximum(si, self.action_low), self.action_high)


class MLP(nn.Module):
    """ReLU layers and a linear output: (..., i) to (..., out)."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        sizes = (inputs, *hidden, outputs)
        self.weights = nn.ParameterList(
            uniform((out, fan_in), fan_in, generator) for fan_in, out in pairwise(sizes)
        )
        self.biases = nn.ParameterList(
            uniform((out,), fan_in, generator) for fan_in, out in pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (..., out), in single precision also where products are not."""
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for weight, bias in hidden:
            x = F.linear(x, weight, bias).relu_()
        return F.linear(x, *last).float()


class EnsembleMLP(nn.Module):
    """K separate ReLU networks with one output each, as batched matrices: (B, i) to (K, B)."""

    def __init__(
        self, members: int, inputs: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.members = members
        sizes = tuple(pairwise((inputs, *hidden, 1)))
        self.weights = nn.ParameterList(
            uniform((members, fan_in, out), fan_in, generator) for fan_in, out in sizes
        )
        self.biases = nn.ParameterList(
            uniform((members, 1, out), fan_in, generator) for fan_in, out in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (K, B) for inputs (B, i)."""
        x = x.expand(self.members, *x.shape)  # (K, B, i)
        return self.outputs(torch.bmm(x, self.weights[0]).add_(self.biases[0]))

    def outputs(self, x: Tensor) -> Tensor:
        """Return the outputs (K, B) where the first layer's, (K, B, h), are known.

        A bias is added after its product and not by it: compiled, it then joins the ReLU.
        """
        _, *hidden, (weight, bias) = zip(self.weights, self.biases, strict=True)
        x = self.activated(x, 0)
        for layer, (w, b) in enumerate(hidden, 1):
            x = self.activated(torch.bmm(x, w).add_(b), layer)
        # A product with one column is several times faster summed than as a matrix product.
        q: Tensor = (x * weight.transpose(1, 2)).sum(-1) + bias.squeeze(-1)  # (K, B)
        return q

    def member(self, index: int, x: Tensor) -> Tensor:
        """Return the outputs (B,) of one network, without the work of the others."""
        parameters = zip(self.weights, self.biases, strict=True)
        *hidden, (weight, bias) = [(w[index], b[index]) for w, b in parameters]
        for layer, (w, b) in enumerate(hidden):
            x = self.activated(torch.addmm(b, x, w), layer, index)
        q: Tensor = (x * weight[:, 0]).sum(-1) + bias[0]
        return q

    def activated(self, x: Tensor, layer: int, member: int | slice = _ALL) -> Tensor:  # noqa: ARG002
        """Return what a hidden layer of all members (K, B, h), or of one (B, h), hands on."""
        return x.relu_()


class Critic(EnsembleMLP):
    """Q(s, a) of K members in network coordinates: (B, o), (B, a) to (K, B)."""

    def __init__(
        self,
        members: int,
        observations: int,
        actions: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__(members, observations + actions, hidden, generator)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:  # type: ignore[override]
        """Return Q (K, B)."""
        return super().forward(torch.cat([observation, action], -1))

    def values(self, observation: Tensor, actions: Tensor) -> Tensor:
        """Return Q (K, B, n) of n actions (B, n, a) at each state (B, o).

        The state's part of the first layer is worked out once for all its actions.
        """
        size, count, width = actions.shape
        weights = self.weights[0].split([observation.shape[-1], width], 1)
        states = observation.expand(self.members, *observation.shape)  # (K, B, o)
        states = torch.baddbmm(self.biases[0], states, weights[0])  # (K, B, h)
        states = states.repeat_interleave(count, 1)  # (K, B n, h)
        actions = actions.flatten(0, 1).expand(self.members, size * count, width)  # (K, B n, a)
        x = torch.baddbmm(states, actions, weights[1])
        return self.outputs(x).view(self.members, size, count)

    def first(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return Q of the first member (B,)."""
        return self.member(0, torch.cat([observation, action], -1))


class NormalisedCritic(Critic):
    """A Critic with LayerNorm before each ReLU (arXiv 1607.06450), which bounds its values."""

    def __init__(
        self,
        members: int,
        observations: int,
        actions: int,
        hidden: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__(members, observations, actions, hidden, generator)
        shapes = [(members, 1, width) for width in hidden]
        device = generator.device
        self.gains = nn.ParameterList(torch.ones(shape, device=device) for shape in shapes)
        self.shifts = nn.ParameterList(torch.zeros(shape, device=device) for shape in shapes)

    def activated(self, x: Tensor, layer: int, member: int | slice = _ALL) -> Tensor:
        """Return a hidden layer, normalised over its width."""
        x = F.layer_norm(x, x.shape[-1:])
        return torch.addcmul(self.shifts[layer][member], x, self.gains[layer][member]).relu_()


class DeterministicPolicy(nn.Module):
    """a = tanh(f(s)): (B, o) to (B, a) in [-1, 1]."""

    def __init__(
        self, observations: int, actions: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.mlp = MLP(observations, hidden, actions, generator)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the action (B, a)."""
        action: Tensor = self.mlp(observation).tanh()
        return action


class GaussianPolicy(DeterministicPolicy):
    """N(tanh(f(s)), sigma^2) with one sigma per action entry, not squashed (IQL's authors)."""

    LOG_STD = (-5.0, 2.0)

    def __init__(
        self, observations: int, actions: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__(observations, actions, hidden, generator)
        self.log_std = nn.Parameter(torch.zeros(actions, device=generator.device))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log pi(a|s) (B,) of actions (B, a) in network coordinates."""
        return self.log_density(self(observation), action)

    def sample(self, observation: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draw n actions (B, n, a) a state, clipped to [-1, 1]."""
        return self.around(self(observation), count, generator)

    def log_density(self, mean: Tensor, action: Tensor) -> Tensor:
        """Return log pi(a|s) (B,) where the mean at s is known, (B, a)."""
        return normal_log_density(action, mean, self.log_std.clamp(*self.LOG_STD))

    def around(self, mean: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draw n actions (B, n, a) where the mean at s is known, (B, a); clipped to [-1, 1]."""
        log_std = self.log_std.clamp(*self.LOG_STD)
        return normal_sample(mean, log_std, count, generator).clamp(-1.0, 1.0)


class StateGaussianPolicy(nn.Module):
    """N(tanh(f(s)), sigma(s)^2), not squashed: an action at the limits has a finite density."""

    def __init__(
        self, observations: int, actions: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.mlp = MLP(observations, hidden, 2 * actions, generator)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the deterministic action, the mean (B, a)."""
        mean, _ = self.mlp(observation).chunk(2, -1)
        action: Tensor = mean.tanh()
        return action

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log pi(a|s) (B,) of actions (B, a) in network coordinates."""
        mean, log_std = self.mlp(observation).chunk(2, -1)
        return normal_log_density(action, mean.tanh(), log_std.clamp(*GaussianPolicy.LOG_STD))

    def sample(self, observation: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draw n actions (B, n, a) a state, clipped to [-1, 1]."""
        mean, log_std = self.mlp(observation).chunk(2, -1)
        log_std = log_std.clamp(*GaussianPolicy.LOG_STD)
        return normal_sample(mean.tanh(), log_std, count, generator).clamp(-1.0, 1.0)


class TanhGaussianPolicy(nn.Module):
    """tanh of a Gaussian whose mean and deviation depend on s (SAC, arXiv 1801.01290)."""

    LOG_STD = (-20.0, 2.0)

    def __init__(
        self, observations: int, actions: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.mlp = MLP(observations, hidden, 2 * actions, generator)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the deterministic action tanh(mean) (B, a)."""
        mean, _ = self.mlp(observation).chunk(2, -1)
        action: Tensor = mean.tanh()
        return action

    def sample(
        self, observation: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw n actions (B, n, a) a state and their log-densities (B, n), reparametrised."""
        mean, log_std = self.mlp(observation).unsqueeze(1).chunk(2, -1)  # (B, 1, a)
        log_std = log_std.clamp(*self.LOG_STD)
        shape = (len(observation), count, mean.shape[-1])
        noise = torch.randn(shape, generator=generator, device=generator.device)
        raw = mean + log_std.exp() * noise
        normal = -0.5 * noise.square() - log_std - _HALF_LOG_2PI
        return raw.tanh(), (normal - _log_tanh_slope(raw)).sum(-1)

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log pi(a|s) (B,) of actions (B, a), clipped to where tanh can be inverted."""
        mean, log_std = self.mlp(observation).chunk(2, -1)
        raw = action.clamp(-_OPEN, _OPEN).atanh()
        normal = normal_log_density(raw, mean, log_std.clamp(*self.LOG_STD))
        log_prob: Tensor = normal - _log_tanh_slope(raw).sum(-1)
        return log_prob


def normal_sample(mean: Tensor, log_std: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw n reparametrised samples (B, n, a) of N(mean (B, a), std^2); std is (B, a) or (a,)."""
    shape = (len(mean), count, mean.shape[-1])
    noise = torch.randn(shape, generator=generator, device=generator.device)
    return mean.unsqueeze(1) + log_std.unsqueeze(-2).exp() * noise


def normal_log_density(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log-density (B,) of x (B, a), its entries being independent."""
    scaled = (x - mean) * (-log_std).exp()
    return -(0.5 * scaled.square() + log_std + _HALF_LOG_2PI).sum(-1)


def _log_tanh_slope(raw: Tensor) -> Tensor:
    """Return log(1 - tanh(u)^2) (eq. 26 of SAC's appendix) in the form that does not overflow."""
    return 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))


def pairs(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat each observation (B, o) for its n actions (B, n, a): (B n, o) and (B n, a)."""
    return observations.repeat_interleave(actions.shape[1], 0), actions.flatten(0, 1)


@torch.no_grad()
def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move theta' to (1 - tau) theta' + tau theta, over all parameters at once."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
