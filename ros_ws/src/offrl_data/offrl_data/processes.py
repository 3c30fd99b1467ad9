"""Work in processes that end with their parent, whatever ends it."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from offrl_contract import InputError
from offrl_contract.memory import keep_freed_memory

Result = TypeVar("Result")

_PARENT_CHECK = 1.0  # [s]


def in_processes(
    work: Callable[..., Result], arguments: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[Result]:
    """Call `work` with each of the arguments, `jobs` at a time; yield results as they come.

    Raises what `work` raises, and InputError where a process dies.
    """
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(arguments))
    executor = ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(),))
    try:
        running = [executor.submit(work, *each) for each in arguments]
        for future in as_completed(running):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError(
            "a process that converted a bag has died, perhaps for want of memory. "
            "Fewer --jobs need less."
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
            process.join()


def _start_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
