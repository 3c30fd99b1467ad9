"""d3rlpy's side of `scores.py`: its settings from ours, key by key, and what cannot be matched.

d3rlpy gets the same batches: our sampler draws them, in network coordinates (observations of zero
mean and unit deviation, actions in [-1, 1]), and its own scalers stay off. Its `update` takes them
as it takes those of its own buffer. Everything below the table follows from the table.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from offrl_contract import InputError
from offrl_training.algorithms.base import AlgorithmConfig, Batch, Dims
from torch import Tensor

VERSION = "2.8.1"
INSTALL = (
    f"pip install --no-deps d3rlpy=={VERSION} gym==0.26.2 gym-notices==0.1.0 structlog==26.1.0 "
    "colorama==0.4.6 dataclasses-json==0.6.7 marshmallow==4.4.0 typing-inspect==0.9.0 "
    "scikit-learn==1.9.1 joblib==1.6.0 threadpoolctl==3.8.0"
)
RATES = ("actor_learning_rate", "critic_learning_rate")
ENCODERS = ("actor_encoder_factory", "critic_encoder_factory")


@dataclass(frozen=True)
class Match:
    """One algorithm in d3rlpy."""

    name: str
    """Class in d3rlpy.algos, without Config."""
    keys: dict[str, tuple[str, ...]]
    """Our setting: theirs, of the same value. Widths, gamma and tau are matched for all alike."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Theirs that no setting of ours corresponds to, at the value that our algorithm implies."""
    absent: tuple[str, ...] = ()
    """Ours that they have no setting for; `differs` says what that means."""
    encoders: tuple[str, ...] = ENCODERS
    """Their settings of the widths of hidden layers."""
    differs: str = "nothing"
    """What is not the same in mathematics (ours; theirs)."""


MATCHES = {
    "td3_bc": Match(
        "TD3PlusBC",
        {
            "learning_rate": RATES,
            "target_noise": ("target_smoothing_sigma",),
            "noise_clip": ("target_smoothing_clip",),
            "policy_delay": ("update_actor_interval",),
            "alpha": ("alpha",),
        },
    ),
    "iql": Match(
        "IQL",
        {
            "learning_rate": RATES,  # and the policy's cosine, see `create`
            "expectile": ("expectile",),
            "beta": ("weight_temp",),
            "max_weight": ("max_weight",),
        },
        encoders=(*ENCODERS, "value_encoder_factory"),
        differs="log-deviation of the policy: from 0, clipped to [-5, 2]; from -1.5, squashed into "
        "it. Order: V, policy, Q; V and Q in one step, policy",
    ),
    "cql": Match(
        "CQL",
        {
            "policy_rate": ("actor_learning_rate", "temp_learning_rate"),
            "critic_rate": ("critic_learning_rate",),
            "weight": ("conservative_weight",),
            "samples": ("n_action_samples",),
        },
        fixed={"alpha_learning_rate": 0.0, "initial_alpha": 1.0, "max_q_backup": False},
        # ours at 1, 1, None, 0 and -1
        absent=("temperature", "backup_samples", "lagrange_gap", "warm_start", "target_entropy"),
        differs="target action: a sample of the policy; its mean. Entropy temperature: gradient by "
        "its logarithm; by itself. Order: policy, critics; critics, policy",
    ),
    "awac": Match(
        "AWAC",
        {"learning_rate": RATES, "temperature": ("lam",), "samples": ("n_action_samples",)},
        absent=("max_weight",),
        differs="weight: exp(A / lambda) up to 100; softmax of A / lambda over the batch, times "
        "its size. Target: Q; Q minus log-density of a squashed sample (SAC's, at temperature 1). "
        "Deviation of the policy: from 1, up to e^2; from 0.05, up to 1",
    ),
    "bcq": Match(
        "BCQ",
        {
            "learning_rate": (*RATES, "imitator_learning_rate"),
            "lam": ("lam",),
            "phi": ("action_flexibility",),
            "samples": ("n_action_samples",),
            "candidates": (),  # n_action_samples again, when it acts: see `candidates` below
            "vae_hidden": ("imitator_encoder_factory",),
        },
        differs="decoded action: tanh; not squashed. Latents of the acting policy: one set; drawn "
        "at each step, here from one seed at each step",
    ),
    "crr": Match(
        "CRR",
        {
            "learning_rate": RATES,
            "weighting": ("weight_type",),
            "temperature": ("beta",),
            "max_weight": ("max_weight",),
            "samples": ("n_action_samples",),
        },
        fixed={"n_critics": 2, "advantage_type": "mean", "target_update_type": "soft"},
        differs="advantage: of the smaller critic; of the critics' mean. Target: the policy; a "
        "target policy. Deviation: one per action entry; of the state. Acting: the policy's mean; "
        "a draw among samples by Q, here the policy's mean too",
    ),
}
TIMED = {
    "bc": Match("BC", {"learning_rate": ("learning_rate",)}, encoders=("encoder_factory",)),
    "td3": Match("TD3", MATCHES["td3_bc"].keys),
    "sac": Match(
        "SAC",
        {
            "policy_rate": ("actor_learning_rate", "temp_learning_rate"),
            "critic_rate": ("critic_learning_rate",),
        },
        absent=("target_entropy",),  # ours at -1
    ),
    "cal_ql": Match(
        "CalQL",
        MATCHES["cql"].keys,
        fixed=MATCHES["cql"].fixed | {"max_q_backup": True},
        absent=MATCHES["cql"].absent,  # its best of all samples at s' is our backup of 10
    ),
    "bear": Match(
        "BEAR",
        {
            "vae_hidden": ("imitator_encoder_factory",),
            "policy_rate": ("actor_learning_rate",),
            "critic_rate": ("critic_learning_rate", "imitator_learning_rate"),
            "alpha_rate": ("alpha_learning_rate",),
            "threshold": ("alpha_threshold",),
            "kernel": ("mmd_kernel",),
            "sigma": ("mmd_sigma",),
            "mmd_samples": ("n_mmd_action_samples",),
            "samples": ("n_target_samples",),
            "candidates": ("n_action_samples",),
            "lam": ("lam",),
        },
        fixed={"warmup_steps": 0},
        absent=("warm_start",),  # ours at 0
    ),
}
"""Further ones, whose speed alone is compared (`training.py`)."""
_COMMON: dict[str, tuple[str, ...]] = {"hidden": (), "gamma": ("gamma",), "tau": ("tau",)}
NAMES = {"exponential": "exp"}
"""Values that d3rlpy calls otherwise."""
RANDOM = ("bcq", "crr")
"""Those whose `predict` is random in d3rlpy."""


def import_d3rlpy() -> Any:
    """Return the package. Raises InputError where it is missing or another version."""
    try:
        import d3rlpy
    except ImportError as error:
        raise InputError(
            f"d3rlpy is missing ({error}). Install it beside offrl: {INSTALL}"
        ) from error
    if d3rlpy.__version__ != VERSION:
        raise InputError(f"d3rlpy {d3rlpy.__version__}: compared is {VERSION}. Use: {INSTALL}")
    return d3rlpy


class Peer:
    """One of d3rlpy's algorithms under our settings."""

    def __init__(self, algorithm: str, config: AlgorithmConfig, dims: Dims, seed: int) -> None:
        """Create networks and optimisers from a seed."""
        self.algorithm = algorithm
        self.candidates = getattr(config, "candidates", None)
        self.seed = seed
        torch.manual_seed(seed)
        settings = theirs(algorithm, config, dims.steps)
        made = getattr(import_d3rlpy().algos, f"{_match(algorithm).name}Config")(**settings)
        learner = made.create(device="cpu:0")
        learner.create_impl((dims.observation,), dims.action)
        self.impl = learner.impl
        self.steps = 0

    def update(self, batch: Batch) -> None:
        """Take one training step. Theirs counts from 0: from 1, delayed updates fall as ours do."""
        from d3rlpy.torch_utility import TorchMiniBatch

        column = batch.rewards[:, None]
        self.steps += 1
        self.impl.update(
            TorchMiniBatch(
                observations=batch.observations,
                actions=batch.actions,
                rewards=column,
                next_observations=batch.next_observations,
                next_actions=torch.zeros_like(batch.actions),  # none of the six reads them
                returns_to_go=batch.returns_to_go[:, None],
                terminals=(batch.discounts == 0.0).float()[:, None],
                intervals=torch.ones_like(column),
                device="cpu:0",
            ),
            self.steps,
        )

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Return deterministic actions (B, a), both in network coordinates."""
        if self.algorithm == "crr":
            action: Tensor = self.impl.policy(observations).squashed_mu
            return action
        torch.manual_seed(self.seed)
        return self.act_as_shipped(observations)

    @torch.no_grad()
    def act_as_shipped(self, observations: Tensor) -> Tensor:
        """Return what `predict` does (B, a)."""
        if self.candidates is not None:
            self.impl._n_action_samples = self.candidates
        action: Tensor = self.impl.predict_best_action(observations)
        return action.clamp(-1.0, 1.0)


def unmatched(algorithm: str, config: AlgorithmConfig) -> list[str]:
    """Return our settings that the table lacks."""
    match = _match(algorithm)
    named = {*_COMMON, *match.keys, *match.absent}
    return [name for name, _ in config if name not in named]


def theirs(algorithm: str, config: AlgorithmConfig, steps: int) -> dict[str, Any]:
    """Return d3rlpy's settings for ours. Raises InputError for a setting the table lacks."""
    for name in unmatched(algorithm, config):
        raise InputError(f"benchmarks/d3rlpy_peer.py: {algorithm}: no match for '{name}'")
    match = _match(algorithm)
    keys = _COMMON | {"hidden": match.encoders} | match.keys
    settings = dict(match.fixed)
    for name, value in config:
        for key in keys.get(name, ()):
            settings[key] = _value(value)
    if algorithm == "iql":
        settings["actor_optim_factory"] = _cosine(steps)
    return settings


def _match(algorithm: str) -> Match:
    return (MATCHES | TIMED)[algorithm]


def _value(value: Any) -> Any:
    """Return a setting as d3rlpy has it: widths become a factory."""
    if isinstance(value, tuple):
        from d3rlpy.models.encoders import VectorEncoderFactory

        return VectorEncoderFactory(hidden_units=list(value))
    return NAMES.get(value, value)


def _cosine(steps: int) -> Any:
    """Return Adam with a step size that falls to 0 along a cosine over the run, as our IQL's."""
    from d3rlpy.optimizers import AdamFactory
    from d3rlpy.optimizers.lr_schedulers import CosineAnnealingLRFactory

    return AdamFactory(lr_scheduler_factory=CosineAnnealingLRFactory(T_max=steps))
