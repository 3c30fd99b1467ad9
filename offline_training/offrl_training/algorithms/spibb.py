"""SPIBB. Laroche, Trichelair, Tachet des Combes 2019, arXiv 1712.06924.

Safe policy improvement: the policy does as the driver where the data says little, and is greedy
where it says enough. First the exact algorithm for tables, Pi_b-SPIBB; then `SPIBB`, for
continuous states, after SPIBB-DQN and its pseudo-counts (rems75/SPIBB-DQN, whose N_wedge and radius
these are).

Deviations from SPIBB-DQN: actions are continuous and put on a grid; the driver is unknown and
cloned, as arXiv 1909.05236 estimates it; distances are per observation entry, in its deviations;
Adam, and a target that follows softly.

The robot has neither the data nor its counts. So a policy network learns what the SPIBB policy does
in the states of the data, and its most probable action is exported. Two things are lost by that.
The paper's guarantee is one for tables and a known driver; a network with pseudo-counts has none.
And where the data says little, the robot does what the driver did most often, not all that he did:
where drivers go left and right, it always goes one way. The metric `followed` is the share that is
left to the driver; near 1 this is cloning.
"""

import copy
import math

import torch
import torch.nn.functional as F
from offrl_contract import InputError
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, CriticConfig, Dims, Metrics
from offrl_training.losses import descend, td_target
from offrl_training.networks import MLP, soft_update

MAX_ACTIONS = 256
"""Largest grid: the set of bootstrapped pairs takes two bytes per transition and action."""
_CHUNK = 2**25
_TOLERANCE = 1e-10


def constrained_greedy(q: Tensor, behaviour: Tensor, bootstrapped: Tensor) -> Tensor:
    """Return the greedy policy (B, n) among those that follow the behaviour where bootstrapped.

    q, behaviour and bootstrapped are (B, n) over n actions. The rest of the behaviour's probability
    goes to the best action that is not bootstrapped.
    """
    kept = torch.where(bootstrapped, behaviour, 0.0)
    best = q.masked_fill(bootstrapped, -torch.inf).argmax(-1, keepdim=True)
    free = torch.where(bootstrapped, 0.0, behaviour).sum(-1, keepdim=True)
    return kept.scatter_add(-1, best, free)


# --- tables of S states and A actions ---


def n_wedge(states: int, actions: int, epsilon: float, delta: float) -> float:
    """Return the count beyond which a pair is known: 2 ln(2 S A 2^S / delta) / epsilon^2.

    With probability 1 - delta the estimated transition probabilities of all such pairs are then
    within epsilon of the truth, in L1. The formula is that of the authors' code
    (RomainLaroche/SPIBB).
    """
    log_union = math.log(2.0 * states * actions / delta) + states * math.log(2.0)
    return 2.0 * log_union / epsilon**2


def transition_model(counts: Tensor) -> Tensor:
    """Return P(s'|s, a) (S, A, S) by maximum likelihood of counts (S, A, S); never seen is 0."""
    return counts / counts.sum(-1, keepdim=True).clamp(min=1.0)


def policy_value(policy: Tensor, model: Tensor, rewards: Tensor, gamma: float) -> Tensor:
    """Return V (S,) of a policy (S, A), exactly, for model (S, A, S) and rewards (S, A)."""
    moves = torch.einsum("sa,sat->st", policy, model)
    stay = torch.eye(len(moves)).to(moves)
    value: Tensor = torch.linalg.solve(stay - gamma * moves, (policy * rewards).sum(-1))
    return value


def pi_b_spibb(
    behaviour: Tensor, bootstrapped: Tensor, model: Tensor, rewards: Tensor, gamma: float
) -> Tensor:
    """Return the best policy (S, A) in the model, of those that follow the behaviour (S, A).

    Policy iteration over the policies that equal the behaviour at the bootstrapped pairs (S, A).
    """
    policy, value = behaviour, policy_value(behaviour, model, rewards, gamma)
    while True:
        q = rewards + gamma * model @ value  # (S, A)
        improved = constrained_greedy(q, behaviour, bootstrapped)
        improved_value = policy_value(improved, model, rewards, gamma)
        if bool((improved_value <= value + _TOLERANCE).all()):
            return policy
        policy, value = improved, improved_value


# --- continuous states ---


class SPIBBConfig(CriticConfig):
    """Greedy where the data has enough of an action, the driver's choice elsewhere."""

    bins: int = Field(5, ge=2)
    """Values per action entry, evenly spaced over its limits, which are among them."""
    n_wedge: NonNegativeFloat = 10.0
    """N_wedge: largest pseudo-count at which an action is still left to the driver."""
    radius: PositiveFloat = 0.2
    """Distance at which a transition counts 0 instead of 1: root mean square over observation
    entries, in their deviations."""
    learning_rate: PositiveFloat = 3e-4
    """Adam step size of all networks."""


def pseudo_counts(
    query: Tensor, states: Tensor, actions: Tensor, count: int, radius: float
) -> Tensor:
    """Return how often each of `count` actions was taken near each query (m, o): (m, count).

    A transition with state (n, o) and action (n,) counts max(0, 1 - d / radius), d the root mean
    square of the difference. Takes time in proportion to m n.
    """
    taken = F.one_hot(actions, count).to(states.dtype)  # (n, count)
    reach = radius * math.sqrt(states.shape[1])
    rows = max(1, _CHUNK // len(states))
    near = ((1.0 - torch.cdist(q, states) / reach).clamp(min=0.0) for q in torch.split(query, rows))
    return torch.cat([similarity @ taken for similarity in near])


class GridPolicy(nn.Module):
    """The most probable action of a grid of bins^a."""

    actions: Tensor
    """(n, a) in [-1, 1]."""

    def __init__(self, dims: Dims, config: SPIBBConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.bins = config.bins
        values = torch.linspace(-1.0, 1.0, config.bins, device=generator.device)
        grid = torch.cartesian_prod(*[values] * dims.action).view(-1, dims.action)
        self.register_buffer("actions", grid)
        self.mlp = MLP(dims.observation, config.hidden, len(grid), generator)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the action (B, a)."""
        return self.actions[self.mlp(observation).argmax(-1)]

    def nearest(self, action: Tensor) -> Tensor:
        """Return the place (B,) in the grid of the action nearest to each of (B, a)."""
        steps = ((action + 1.0) / 2.0 * (self.bins - 1)).round().long()  # (B, a)
        place = torch.zeros_like(steps[:, 0])
        for entry in steps.unbind(1):
            place = place * self.bins + entry
        return place


class SPIBB(Algorithm[SPIBBConfig]):
    """Improves on the driver where it has seen enough, and does as he did elsewhere."""

    config_type = SPIBBConfig
    needs_all = True
    chooses = True
    policy: GridPolicy
    bootstrapped: Tensor
    """(2, N, n) whether an action is left to the driver, at s and at s' of each transition."""

    def build(self, dims: Dims) -> None:
        """Create networks, target and optimisers. Raises InputError where the grid is too large."""
        config = self.config
        check_grid(config.bins, dims.action)
        self.policy = GridPolicy(dims, config, self.generator)
        sizes = (dims.observation, config.hidden, len(self.policy.actions))
        self.behaviour = MLP(*sizes, self.generator)
        self.q = MLP(*sizes, self.generator)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_optimizer = Adam(self.policy.parameters(), config.learning_rate)
        self.behaviour_optimizer = Adam(self.behaviour.parameters(), config.learning_rate)
        self.q_optimizer = Adam(self.q.parameters(), config.learning_rate)

    def prepare(self, data: Batch) -> None:
        """Find which actions to leave to the driver; takes time in proportion to N^2."""
        both = torch.cat([data.observations, data.next_observations])
        states, place = torch.unique(both, dim=0, return_inverse=True)  # s' is mostly the next s
        count = len(self.policy.actions)
        taken = self.policy.nearest(data.actions)
        counts = pseudo_counts(states, data.observations, taken, count, self.config.radius)
        bootstrapped = (counts <= self.config.n_wedge)[place].view(2, -1, count)
        self.register_buffer("bootstrapped", bootstrapped, persistent=False)

    def update(self, batch: Batch) -> Metrics:
        """Update the clone of the driver, the critic, the policy, the target."""
        s, taken = batch.observations, self.policy.nearest(batch.actions)
        behaviour_loss = F.cross_entropy(self.behaviour(s), taken)
        descend(self.behaviour_optimizer, behaviour_loss)

        q = self.q(s).gather(1, taken.unsqueeze(1)).squeeze(1)  # (B,)
        q_loss = F.smooth_l1_loss(q, self.target(batch))
        descend(self.q_optimizer, q_loss)

        bootstrapped = self.bootstrapped[0, batch.rows]  # (B, n)
        with torch.no_grad():
            behaviour = self.behaviour(s).softmax(-1)
            improved = constrained_greedy(self.q(s), behaviour, bootstrapped)
        policy_loss = F.cross_entropy(self.policy.mlp(s), improved)
        descend(self.policy_optimizer, policy_loss)
        soft_update(self.q_target, self.q, self.config.tau)
        self.updates += 1
        losses = {"behaviour_loss": behaviour_loss, "q_loss": q_loss, "policy_loss": policy_loss}
        followed = (behaviour * bootstrapped).sum(-1).mean()
        metrics = {"q": q.detach().mean(), "followed": followed}
        return {name: loss.detach() for name, loss in losses.items()} | metrics

    @torch.no_grad()
    def target(self, batch: Batch) -> Tensor:
        """Return r + gamma (1 - d) V(s') (B,); Q chooses and Q' values, as in double DQN."""
        next_s = batch.next_observations
        behaviour = self.behaviour(next_s).softmax(-1)  # (B, n)
        policy = constrained_greedy(self.q(next_s), behaviour, self.bootstrapped[1, batch.rows])
        next_value = (policy * self.q_target(next_s)).sum(-1)
        return td_target(batch.rewards, batch.discounts, next_value)


def check_grid(bins: int, entries: int) -> None:
    """Raise InputError where bins^entries is more than MAX_ACTIONS."""
    if bins**entries > MAX_ACTIONS:
        most = math.floor(MAX_ACTIONS ** (1.0 / entries) + _TOLERANCE)
        remedy = f"use --bins {most} at most" if most >= 2 else "use an algorithm without a grid"
        raise InputError(
            f"spibb: bins: {bins} values for each of {entries} action entries are "
            f"{bins**entries} actions, {MAX_ACTIONS} allowed; {remedy}"
        )
