"""Gradient steps per CPU-second of every algorithm: ours, its peers', and what the products allow.

The limit is the time of the step's matrix products alone: their shapes are recorded in real steps,
their number checked against PyTorch's counter, and they are replayed as bare `torch.mm(out=)`.
Ours, ours compiled, ours in bfloat16 where the processor multiplies it, and the limit take turns in
one process, a window at a time; d3rlpy, CORL and JAX-CORL have processes of their own. The fastest
window of each counts.

Observation 17, action 6, batch 256, two hidden layers of 256; other settings are the defaults. We
and d3rlpy get batches from our sampler, CORL and JAX-CORL from their own; the time of it counts.

Run it alone on the machine, with d3rlpy installed (it says how) or `--no-peer`, and with checkouts
of the others if they are to be timed (corl_peers.py says how, and what differs):

    .venv/bin/python benchmarks/training.py --corl CORL --jax-corl JAX-CORL jax/bin/python
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import corl_peers
import torch
import tyro
from d3rlpy_peer import MATCHES, TIMED, VERSION, Peer, import_d3rlpy
from offrl_contract import InputError
from offrl_contract.cli import EXIT_BAD_INPUT
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import Algorithm, AlgorithmConfig, Dims
from offrl_training.compiled import compile_update
from offrl_training.gate_critics import GateCritics, interval
from offrl_training.networks import Normaliser
from offrl_training.process import set_up
from offrl_training.sampler import Sampler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training.json"
DIMS = Dims(observation=17, action=6, steps=1_000_000)
HIDDEN = (256, 256)
BATCH = 256
TRANSITIONS = 4096
PERIOD = 2
"""Steps after which delayed updates have all happened."""
SETTINGS: dict[str, dict[str, Any]] = {
    "atac": {"warm_start": 0.0},  # the game, not the cloning before it
    "bear": {"warm_start": 0.0},
    "brac": {"warm_start": 0.0, "policy_hidden": HIDDEN},
    "cql": {"warm_start": 0.0},
    "spibb": {"bins": 2},  # 64 actions; 5 bins are too many with 6 action entries
}
SHAPES = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}
"""Which arguments of an operation are the factors of its product."""

BF16 = ", bf16"
"""What the name of a processor ends with that multiplies bfloat16."""

Step = Callable[[], Any]


@dataclass(frozen=True)
class Config:
    """Time the training step of every algorithm."""

    algorithms: tuple[str, ...] = field(default_factory=lambda: tuple(ALGORITHMS))
    """Which."""
    threads: tuple[int, ...] = (1, 2)
    """CPU threads, one table each."""
    seconds: float = 4.0
    """CPU time for each of them, at least."""
    peer: bool = True
    """Whether d3rlpy is timed, too."""
    corl: Path | None = None
    """Checkout of CORL; timed if given."""
    jax_corl: tuple[Path, Path] | None = None
    """Checkout of JAX-CORL and a Python that has JAX; timed if given."""
    measure: tuple[Literal["ours", "d3rlpy"], str, int] | None = None
    """Internal: time one side of an algorithm with so many threads, in this process."""


class Products(TorchDispatchMode):
    """Notes the shape (k, m, n, p) of every k products of (m, n) and (n, p)."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, int, int, int]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ in SHAPES:
            left, right = (args[i].shape for i in SHAPES[function.overloadpacket.__name__])
            count = left[0] if len(left) == 3 else 1
            self.shapes.append((count, left[-2], left[-1], right[-1]))
        return function(*args, **(kwargs or {}))


def recorded(step: Step) -> tuple[list[tuple[int, int, int, int]], int]:
    """Return the products of PERIOD steps, and their floating-point operations in all."""
    with FlopCounterMode(display=False) as counter, Products() as products:
        for _ in range(PERIOD):
            step()
    flops = sum(2 * k * m * n * p for k, m, n, p in products.shapes)
    if flops != counter.get_total_flops():
        raise RuntimeError(f"{flops} operations recorded, {counter.get_total_flops()} counted")
    return products.shapes, flops


def replay(shapes: list[tuple[int, int, int, int]]) -> Step:
    """Return a step that does these products and nothing else."""
    ready = [
        (torch.randn(m, n), torch.randn(n, p), torch.empty(m, p))
        for k, m, n, p in shapes
        for _ in range(k)
    ]

    def step() -> None:
        for left, right, out in ready:
            torch.mm(left, right, out=out)

    return step


def sampler() -> Sampler:
    """Return batches of random transitions."""
    random = torch.Generator().manual_seed(0)
    size = TRANSITIONS, 2 * DIMS.observation + DIMS.action + 3
    packed = torch.rand(size, generator=random) * 2.0 - 1.0
    return Sampler(packed, DIMS.observation, random)


def config_of(name: str) -> AlgorithmConfig:
    """Return the settings that are timed."""
    given = {"hidden": HIDDEN, **SETTINGS.get(name, {})}
    return ALGORITHMS[name].config_type.model_validate(given)


def ours(name: str, batches: Sampler) -> tuple[Algorithm[Any], Step]:
    """Return our algorithm and its step."""
    normaliser = Normaliser(DIMS.observation, [(-1.0, 1.0)] * DIMS.action)
    random = torch.Generator().manual_seed(0)
    algorithm = ALGORITHMS[name](config_of(name), DIMS, normaliser, random)
    if algorithm.needs_all:
        algorithm.prepare(batches.everything())
    return algorithm, lambda: algorithm.update(batches.sample(BATCH))


def gated(algorithm: Algorithm[Any], batches: Sampler, per_step: float) -> tuple[Step, int]:
    """Return the steps between two updates of the gate's critics, with one, and their number."""
    critics = GateCritics(DIMS, HIDDEN, algorithm.normaliser, torch.Generator().manual_seed(0))

    def learn() -> None:
        critics.update(batches.sample(BATCH), algorithm.quick_policy)

    with FlopCounterMode(display=False) as counter:
        learn()
    steps = interval(counter.get_total_flops(), per_step)

    def step() -> None:
        for _ in range(steps):
            algorithm.update(batches.sample(BATCH))
        learn()

    return step, steps


def fastest(steps: dict[str, tuple[Step, int]], seconds: float) -> dict[str, dict[str, float]]:
    """Return the most training steps per second, of CPU and by the clock, that each has reached.

    Each step counts for so many training steps.
    """
    calls: dict[str, int] = {}
    for name, (step, _) in steps.items():
        for _ in range(3):
            step()
        started = time.process_time()
        step()
        calls[name] = max(1, round(0.1 / max(time.process_time() - started, 1e-6)))
    best = {name: {"cpu": 0.0, "clock": 0.0} for name in steps}
    spent = dict.fromkeys(steps, 0.0)
    while min(spent.values()) < seconds:
        for name, (step, worth) in steps.items():
            cpu, clock = time.process_time(), time.perf_counter()
            for _ in range(calls[name]):
                step()
            cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
            spent[name] += cpu
            done = calls[name] * worth
            best[name]["cpu"] = max(best[name]["cpu"], done / cpu)
            best[name]["clock"] = max(best[name]["clock"], done / clock)
    return best


def measure(name: str, threads: int, config: Config) -> None:
    """Time one algorithm in this process; print the figures."""
    set_up(threads)
    batches = sampler()
    algorithm, step = ours(name, batches)
    for _ in range(PERIOD):
        step()
    shapes, flops = recorded(step)

    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            step()

    again, _ = ours(name, batches)
    program = compile_update(again.update, "cpu")
    steps: dict[str, tuple[Step, int]] = {
        "ours": (step, 1),
        "ours compiled": (lambda: program(batches.sample(BATCH)), 1),
        "limit": (replay(shapes), PERIOD),
        "ours with gate": gated(algorithm, batches, flops / PERIOD),
    }
    if BF16 in processor():
        steps["ours in bf16"] = half, 1
    print(json.dumps({"flops": flops / PERIOD, "rates": fastest(steps, config.seconds)}))


def measure_peer(name: str, threads: int, config: Config) -> None:
    """Time d3rlpy's as it is, in this process; print the figures."""
    torch.set_num_threads(threads)
    peer, batches = Peer(name, config_of(name), DIMS, seed=0), sampler()
    steps = {"d3rlpy": (lambda: peer.update(batches.sample(BATCH)), 1)}
    print(json.dumps({"rates": fastest(steps, config.seconds)}))


def run(name: str, threads: int, config: Config) -> dict[str, Any]:
    """Time one algorithm, ours and each peer's in a process of its own."""
    found = _child(_measuring("ours", name, threads, config), threads)
    flops, rates = found["flops"], found["rates"]
    mine, limit = rates["ours"]["cpu"], rates["limit"]["cpu"]
    ratios = {
        "of the limit": mine / limit,
        "compiled over ours": rates["ours compiled"]["cpu"] / mine,
        "gate's share": mine / rates["ours with gate"]["cpu"] - 1.0,
    }
    half = rates["ours in bf16"]["cpu"] if "ours in bf16" in rates else None
    if half:
        ratios["bf16 over ours"] = half / mine
    for command in peer_commands(name, threads, config):
        ((peer, theirs),) = _child(command, threads)["rates"].items()
        rates[peer] = theirs
        ratios[f"over {peer}"] = mine / theirs["cpu"]
        if half:
            ratios[f"bf16 over {peer}"] = half / theirs["cpu"]
    return {
        "GFLOP per step": round(flops / 1e9, 3),
        "GFLOP/s of the limit": round(flops * limit / 1e9, 1),
        "steps per second": {
            key: {kind: round(value, 2) for kind, value in each.items()}
            for key, each in rates.items()
        },
        **{key: round(value, 2) for key, value in ratios.items()},
    }


def peer_commands(name: str, threads: int, config: Config) -> Iterator[list[str]]:
    """Return the commands that time an algorithm in the peers that are given and have it."""
    if config.peer and name in MATCHES | TIMED:
        yield _measuring("d3rlpy", name, threads, config)
    for peer, (checkout, python) in checkouts(config).items():
        if name in corl_peers.PEERS[peer]:
            job = corl_peers.Job(
                peer,
                str(checkout),
                name,
                observation=DIMS.observation,
                action=DIMS.action,
                batch=BATCH,
                transitions=TRANSITIONS,
                threads=threads,
                seconds=config.seconds,
            )
            yield [str(python), corl_peers.__file__, json.dumps(asdict(job))]


def checkouts(config: Config) -> dict[str, tuple[Path, Path]]:
    """Return the checkout of each peer that has one, and its Python."""
    found = {}
    if config.corl:
        found["CORL"] = config.corl, Path(sys.executable)
    if config.jax_corl:
        found["JAX-CORL"] = config.jax_corl
    return found


def commit(checkout: Path) -> str:
    """Return the commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.check_output(command, text=True).strip()


def version(peer: str, checkout: Path, python: Path) -> dict[str, str]:
    """Return the commit, and the version of JAX. Raises InputError if a file or JAX is missing."""
    for theirs in corl_peers.PEERS[peer].values():
        if not (checkout / theirs.file).is_file():
            raise InputError(f"{checkout / theirs.file} is missing in this checkout of {peer}")
    if peer == "CORL":
        return {"commit": commit(checkout)}
    command = [
        str(python),
        "-c",
        "import distrax, flax, jax, optax, pydantic; print(jax.__version__)",
    ]
    try:
        jax = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{python} lacks what JAX-CORL needs: {corl_peers.INSTALL}") from error
    return {"commit": commit(checkout), "jax": jax}


def _measuring(who: str, name: str, threads: int, config: Config) -> list[str]:
    command = [sys.executable, __file__, "--measure", who, name, str(threads)]
    return [*command, "--seconds", str(config.seconds)]


def _child(command: list[str], threads: int) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    output = subprocess.check_output(command, text=True, env=environment)
    line: dict[str, Any] = json.loads(output.splitlines()[-1])
    return line


def processor() -> str:
    """Return the name of the processor and whether it multiplies bfloat16."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = next((row.split(":")[1].strip() for row in info.splitlines() if "model name" in row), "")
    return name + (BF16 if "avx512_bf16" in info or "amx_bf16" in info else ", no bf16")


def main(config: Config) -> None:
    """Time all, print and keep the figures."""
    if config.peer:
        import_d3rlpy()
    figures: dict[str, Any] = {
        "commit": commit(ROOT),
        "processor": processor(),
        "torch": str(torch.__version__),
        "d3rlpy": VERSION if config.peer else None,
        **{peer: version(peer, *where) for peer, where in checkouts(config).items()},
    }
    for threads in config.threads:
        table = figures[f"threads {threads}"] = {}
        for name in config.algorithms:
            table[name] = run(name, threads, config)
            print(threads, name, json.dumps(table[name]), flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    given = tyro.cli(Config)
    try:
        if given.measure is not None:
            who, *what = given.measure
            (measure if who == "ours" else measure_peer)(*what, given)
        else:
            main(given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
