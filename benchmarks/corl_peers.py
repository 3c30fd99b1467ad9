"""Training steps of CORL and JAX-CORL, timed from a checkout: `training.py` runs this file.

Nothing of theirs is copied or installed. Their files are imported as they are, with stand-ins for
the modules of logging, simulation and settings that a step does not need. CORL's own loop runs, its
log a stopwatch; JAX-CORL's jitted call of 8 updates runs as its loop calls it, compiled before the
clock starts. Both draw batches from buffers of their own, whose time counts.

Only what changes a step's work is matched: two hidden layers everywhere, no LayerNorm, two critics,
the same number of actions sampled. The tables say what was changed, and what differs all the same.

    git clone https://github.com/corl-team/CORL
    git clone https://github.com/nissymori/JAX-CORL
    python3 -m venv jax; jax/bin/pip install INSTALL (the line below)

CORL needs only the PyTorch of offrl. JAX-CORL needs Linux: it is held to as many cores as threads.
"""

import dataclasses
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

INSTALL = (
    "jax[cpu]==0.10.2 flax==0.12.8 optax==0.2.8 distrax==0.1.9 tfp-nightly==0.26.0.dev20261027 "
    "pydantic==2.14.4"
)
WINDOW = 0.1
"""CPU time of a window, the fastest of which counts [s]."""
NEVER = ("eval_freq", "eval_frequency", "num_updates_on_epoch")
"""CORL's settings of the updates between evaluations."""
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
Step = Callable[[], None]


@dataclass(frozen=True)
class Job:
    """One algorithm of one of them to time."""

    peer: str
    checkout: str
    algorithm: str
    observation: int
    action: int
    batch: int
    transitions: int
    threads: int
    seconds: float
    """CPU time of all windows, at least."""


@dataclass(frozen=True)
class Theirs:
    """One of their algorithms."""

    file: str
    name: str = ""
    """JAX-CORL's class."""
    settings: dict[str, Any] = field(default_factory=dict)
    """At these values it does what ours does by default."""
    third: dict[str, str] = field(default_factory=dict)
    """CORL's networks with a third hidden layer, and their attribute that it is taken from."""
    norm: str = ""
    """Argument of JAX-CORL's networks that is turned off: their LayerNorm, which ours lack."""
    differs: str = "nothing"
    """What is not the same in mathematics (ours; theirs)."""


CONSERVATIVE = (
    "order: policy, critics; both from the networks before the step. Log-deviation: the network's; "
    "scaled and shifted by two learned numbers"
)
CORL = {
    "bc": Theirs("algorithms/offline/any_percent_bc.py", settings={"frac": 1.0}),
    "td3_bc": Theirs("algorithms/offline/td3_bc.py"),
    "iql": Theirs(
        "algorithms/offline/iql.py",
        differs="order: V, policy, Q; V, Q, policy. V(s) and V(s'): after V's step; before it. "
        "Log-deviation: from -5; from -20",
    ),
    "awac": Theirs(
        "algorithms/offline/awac.py",
        third={"Actor": "_mlp", "Critic": "_mlp"},
        differs="mean of the policy: tanh; not squashed",
    ),
    "sac": Theirs(
        "algorithms/offline/sac_n.py",
        settings={"num_critics": 2, "log_every": 1},
        third={"Actor": "trunk", "VectorizedCritic": "critic"},
        differs="temperature's gradient: of the policy's own actions; of further ones. For its log "
        "alone, theirs rates random actions at each step",
    ),
    "cql": Theirs(
        "algorithms/offline/cql.py",
        third={"TanhGaussianPolicy": "base_network", "FullyConnectedQFunction": "network"},
        differs=CONSERVATIVE,
    ),
    "cal_ql": Theirs(
        "algorithms/finetune/cal_ql.py",
        settings={"cql_max_target_backup": True},
        third={"TanhGaussianPolicy": "base_network"},
        differs=CONSERVATIVE,
    ),
}
JAX_CORL = {
    "td3_bc": Theirs("algos/td3bc.py", "TD3BC", norm="layer_norm"),
    "iql": Theirs(
        "algos/iql.py",
        "IQL",
        settings={"layer_norm": False},
        differs="mean of the policy: tanh; not squashed",
    ),
    "awac": Theirs(
        "algos/awac.py",
        "AWAC",
        settings={"actor_hidden_dims": (256, 256)},
        norm="add_layer_norm",
        differs="mean of the policy: tanh; not squashed. Weight: up to 100; no limit. Target's "
        "action: at s'; at s. Targets: (B,); of each pair in the batch (B, B). Targets follow: at "
        "every step; once in 8",
    ),
    "cql": Theirs(
        "algos/cql.py",
        "CQL",
        differs=CONSERVATIVE,
    ),
}
PEERS = {"CORL": CORL, "JAX-CORL": JAX_CORL}


class Stopwatch:
    """Keeps the most steps per second, of CPU and by the clock, of any window."""

    def __init__(self, seconds: float) -> None:
        self.best = {"cpu": 0.0, "clock": 0.0}
        self.left = seconds
        self.start()

    def start(self) -> None:
        """Begin a window."""
        self.steps, self.cpu, self.clock = 0, time.process_time(), time.perf_counter()

    def tick(self, steps: int) -> bool:
        """Count these steps; return whether time is left."""
        self.steps += steps
        cpu = time.process_time() - self.cpu
        if cpu < WINDOW:
            return True
        clock = time.perf_counter() - self.clock
        self.best["cpu"] = max(self.best["cpu"], self.steps / cpu)
        self.best["clock"] = max(self.best["clock"], self.steps / clock)
        self.left -= cpu
        self.start()
        return self.left > 0.0


class TimeIsUp(Exception):  # noqa: N818
    """Ends CORL's loop."""


def transitions(job: Job) -> dict[str, Any]:
    """Return random ones under D4RL's names."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return random.uniform(-1.0, 1.0, (job.transitions, *shape)).astype(np.float32)

    return {
        "observations": draw(job.observation),
        "actions": draw(job.action),
        "rewards": draw(),
        "next_observations": draw(job.observation),
        "terminals": np.zeros(job.transitions, np.float32),
    }


def stand_ins(job: Job, log: Callable[..., None]) -> dict[str, Any]:
    """Return what their files import, as far as they use it before and while they train."""
    nothing = SimpleNamespace(save=lambda: None)
    environment = SimpleNamespace(
        observation_space=SimpleNamespace(shape=(job.observation,)),
        action_space=SimpleNamespace(
            shape=(job.action,), high=np.ones(job.action), seed=lambda _: None
        ),
        seed=lambda _: None,
        reset=lambda: np.zeros(job.observation, np.float32),
        _max_episode_steps=1000,
    )
    wrappers = SimpleNamespace(TransformObservation=lambda wrapped, _: wrapped)
    settings = {
        "action_dim": job.action,
        "batch_size": job.batch,
        **PEERS[job.peer][job.algorithm].settings,
    }
    return {
        "gym": {"Env": object, "make": lambda _: environment, "wrappers": wrappers},
        "d4rl": {"qlearning_dataset": lambda _: transitions(job)},
        "wandb": {"init": lambda **_: None, "run": nothing, "log": log},
        "tqdm": {"trange": lambda count, **_: range(count)},
        "pyrallis": {"wrap": lambda: lambda function: function},
        "omegaconf": {"OmegaConf": SimpleNamespace(from_cli=lambda: settings)},
    }


def load(job: Job, log: Callable[..., None]) -> Any:
    """Return their file as a module."""
    absent = stand_ins(job, log)
    for name, content in absent.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    path = Path(job.checkout) / PEERS[job.peer][job.algorithm].file
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    for name in absent:
        del sys.modules[name]  # PyTorch looks for some of them
    return module


def shorten(network: Any, attribute: str) -> None:
    """Let networks of this class be made without their third hidden layer."""
    make = network.__init__

    def make_shorter(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        del getattr(self, attribute)[4:6]  # after two layers with their activations

    network.__init__ = make_shorter


def time_corl(job: Job) -> dict[str, float]:
    """Run their loop until the time is spent."""
    import torch

    torch.set_num_threads(job.threads)
    theirs, done = CORL[job.algorithm], 0
    watch = Stopwatch(job.seconds)

    def log(*_: Any, **__: Any) -> None:
        nonlocal done
        done += 1
        if done <= 10:
            watch.start()  # the first steps are slower
        elif not watch.tick(1):
            raise TimeIsUp

    module = load(job, log)
    for network, attribute in theirs.third.items():
        shorten(getattr(module, network), attribute)
    given = {"batch_size": job.batch, "buffer_size": job.transitions, "device": "cpu"}
    config = module.TrainConfig(**given, **theirs.settings)
    for key in {each.name for each in dataclasses.fields(config)} & set(NEVER):
        setattr(config, key, sys.maxsize)
    try:
        module.train(config)
    except TimeIsUp:
        return watch.best
    raise RuntimeError(f"{theirs.file} ended before its time was up")


def time_jax_corl(job: Job) -> dict[str, float]:
    """Call their update until the time is spent."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    os.environ["XLA_FLAGS"] = ONE_THREAD if job.threads == 1 else ""
    import jax

    jax.devices()  # reads the flags, before their files put others in their place
    module = load(job, lambda *_, **__: None)
    theirs = JAX_CORL[job.algorithm]
    if theirs.norm:
        mlp = module.MLP
        module.MLP = lambda *args, **kwargs: mlp(*args, **kwargs | {theirs.norm: False})
    config = module.config
    data = module.get_dataset(module.gym.make(""), config)[0]
    random, key = jax.random.split(jax.random.PRNGKey(0))
    create = getattr(module, f"create_{Path(theirs.file).stem}_train_state")
    state = create(key, data.observations[0], data.actions[0], config)
    update = jax.jit(getattr(module, theirs.name)().update_n_times, static_argnums=(3,))

    def step() -> None:
        nonlocal random, state
        random, key = jax.random.split(random)
        state, _ = jax.block_until_ready(update(state, data, key, config))

    for _ in range(3):
        step()  # compiles, and once more where types of the first state change
    watch = Stopwatch(job.seconds)
    while watch.tick(0) and watch.left > 0.0:
        step()
        watch.tick(config.n_jitted_updates)
    return watch.best


if __name__ == "__main__":
    job = Job(**json.loads(sys.argv[1]))
    best = (time_corl if job.peer == "CORL" else time_jax_corl)(job)
    print(json.dumps({"rates": {job.peer: best}}))
