"""A process that runs one command of offrl and is killed by SIGKILL in the middle of it."""

import multiprocessing
import os
import signal
from collections.abc import Sequence

from offrl_contract import cli

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["offrl_training.commands"])


def run_and_kill(arguments: Sequence[str], step: int) -> int | None:
    """Run a command in a process of its own, killed after a training step; return its exit code."""
    process = _PROCESSES.Process(target=_run, args=(list(arguments), step))
    process.start()
    process.join(60.0)
    return process.exitcode


def _run(arguments: list[str], step: int) -> None:
    from offrl_training.trainer import Trainer

    advance = Trainer.advance

    def advance_and_die(trainer: Trainer) -> None:
        advance(trainer)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer.advance = advance_and_die  # type: ignore[method-assign]
    cli.run(arguments)
