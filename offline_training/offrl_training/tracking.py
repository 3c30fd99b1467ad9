"""Weights & Biases and MLflow, through their own libraries, beside metrics.csv and TensorBoard.

Where they send to is up to their own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, …). A
resumed run goes on in the run it had there, whose id lies in the run folder. What a kill left
behind the last checkpoint is sent again, with the same values.
"""

import importlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from offrl_contract import InputError

from offrl_training.files import write_atomically

OnLog = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its metrics."""
Tracker = Literal["none", "wandb", "mlflow"]
PROJECT = "offrl"


def require_library(tracker: Tracker) -> Any:
    """Return the library of a tracker. Raises InputError where it is not installed."""
    if tracker == "none":
        return None
    try:
        return importlib.import_module(tracker)
    except ImportError as error:
        raise InputError(
            f"--tracker {tracker}: needs the Python package '{error.name}', which is not "
            f"installed. Install the extra that has it: pip install 'offrl[{tracker}]'"
        ) from error


@contextmanager
def tracking(tracker: Tracker, run: Path, settings: Mapping[str, Any]) -> Iterator[OnLog]:
    """Open a tracker for a run of some settings, and yield what takes its metrics.

    Raises InputError where its library is not installed or reports an error.
    """
    library = require_library(tracker)
    if library is None:
        yield lambda step, metrics: None  # noqa: ARG005
        return
    failure = library.Error if tracker == "wandb" else library.exceptions.MlflowException
    try:
        with {"wandb": _wandb, "mlflow": _mlflow}[tracker](library, run, settings) as on_log:
            yield on_log
    except failure as error:
        raise InputError(f"--tracker {tracker}: {str(error).splitlines()[0]}") from error


@contextmanager
def _wandb(wandb: Any, run: Path, settings: Mapping[str, Any]) -> Iterator[OnLog]:
    known = run / "wandb.id"
    if not known.exists():
        write_atomically(known, uuid.uuid4().hex.encode())
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.name,
        id=known.read_text(),
        resume="allow",
        dir=run,
        config=dict(settings),
        settings=wandb.Settings(console="off"),
    ) as tracked:
        yield lambda step, metrics: tracked.log(dict(metrics), step=step)


@contextmanager
def _mlflow(mlflow: Any, run: Path, settings: Mapping[str, Any]) -> Iterator[OnLog]:
    known = run / "mlflow.id"
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    run_id = known.read_text() if known.exists() else None
    with mlflow.start_run(run_id, run_name=run.name) as tracked:
        write_atomically(known, tracked.info.run_id.encode())
        mlflow.log_params(dict(settings))
        yield lambda step, metrics: mlflow.log_metrics(dict(metrics), step=step)
