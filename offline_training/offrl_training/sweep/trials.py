"""Trials on Ray: as many at a time as there is room for, each begun again where it failed."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from offrl_contract import InputError

from offrl_training.sweep.plan import Trial

_POLL = 0.5
# Nothing is passed through Ray's store but the trials themselves.
_STORE_BYTES = 100_000_000


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    state: Literal["finished", "failed", "interrupted"]
    attempts: int
    """How often it was begun by this command; 0 where it was complete before."""
    error: str = ""
    """Why it failed."""


@contextmanager
def cluster(address: str | None, cores: int | None) -> Iterator[Any]:
    """Start Ray on this machine, or join the cluster of an address; yield the library.

    `cores` is how many this machine may use, all by default. Raises InputError where Ray is not
    installed or does not start.
    """
    if address and cores:
        raise InputError("--cores is for this machine; with --address the cluster has its own")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"offrl sweep: needs the Python package '{error.name}', which is not installed. "
            "Install the extra that has it: pip install 'offrl[sweep]'"
        ) from error
    local = {
        "num_cpus": cores,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
    }
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            **({} if address else local),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"--address {address}" if address else "offrl sweep"
        raise InputError(f"{where}: Ray does not start: {str(error).splitlines()[0]}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def check_room(trials: Sequence[Trial], resources: Mapping[str, float]) -> None:
    """Raise InputError where a trial asks for more than Ray has, and would wait for ever."""
    cores = int(resources.get("CPU", 0))
    for trial in trials:
        if trial.training.threads > cores:
            raise InputError(
                f"{trial.name}: threads: {trial.training.threads} asked for, at most {cores} can "
                "be had: the cores of this machine, or --cores"
            )
        if _gpus(trial) > resources.get("GPU", 0):
            raise InputError(f"{trial.name}: device: cuda asked for, Ray finds no GPU here")


def run_trials(
    ray: Any,
    trials: Sequence[Trial],
    work: Callable[[Trial], None],
    retries: int,
    say: Callable[[str], None],
    stop: Callable[[], bool],
) -> dict[str, Outcome]:
    """Do the work of each trial on Ray until all have ended or `stop()`; return what became of it.

    A trial that fails is begun again, `retries` times at most; not where InputError says that it
    would only fail again.
    """
    waiting = deque((trial, 1) for trial in trials)
    running: dict[Any, tuple[Trial, int]] = {}
    outcomes: dict[str, Outcome] = {}
    while (waiting or running) and not stop():
        while waiting:
            trial, attempt = waiting.popleft()
            running[_begin(ray, work, trial)] = trial, attempt
        done, _ = ray.wait(list(running), timeout=_POLL)
        for reference in done:
            trial, attempt = running.pop(reference)
            error, again = _failure(ray, reference)
            if error and again and attempt <= retries:
                waiting.append((trial, attempt + 1))
                say(f"{trial.name}: attempt {attempt} failed, trying again: {error}")
                continue
            outcomes[trial.name] = Outcome("failed" if error else "finished", attempt, error)
            head = f"{len(outcomes)} of {len(trials)}: {trial.name}: "
            say(f"{head}failed: {error}" if error else f"{head}finished")
    for trial, attempt in (*running.values(), *waiting):
        outcomes[trial.name] = Outcome("interrupted", attempt)
    return outcomes


def _begin(ray: Any, work: Callable[[Trial], None], trial: Trial) -> Any:
    """Hand one trial to Ray, which starts it where the cores are free that it asks for."""
    asked = {"num_cpus": trial.training.threads, "num_gpus": _gpus(trial)}
    return ray.remote(**asked, max_retries=0)(_do).remote(work, trial)


def _gpus(trial: Trial) -> int:
    return 1 if trial.training.device == "cuda" else 0


def _do(work: Callable[[Trial], None], trial: Trial) -> None:
    """Run in the process that Ray gives a trial."""
    work(trial)


def _failure(ray: Any, reference: Any) -> tuple[str, bool]:
    """Return why a trial that has ended failed, or "", and whether it may do better again."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        text = str(cause).strip().splitlines() or [type(cause).__name__]
        return text[0], not isinstance(cause, InputError)
    return "", False
