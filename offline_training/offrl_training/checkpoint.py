"""Checkpoints: `checkpoints/step_N.pt`, whole or absent, loaded without running any code."""

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from offrl_contract import InputError
from torch.utils._pytree import tree_map_only

from offrl_training.files import write_atomically

KEEP = 3
FORMAT = "offrl-checkpoint-1"


def path_of(run: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step_{step}.pt"


def steps_of(run: Path) -> list[int]:
    """Return the steps that have a checkpoint, in order."""
    names = (re.fullmatch(r"step_(\d+)\.pt", path.name) for path in run.glob("checkpoints/*"))
    return sorted(int(name[1]) for name in names if name)


def save(run: Path, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint, then remove the oldest beyond the last three."""
    buffer = io.BytesIO()
    # A slice of a larger tensor would be saved with all of it.
    state = tree_map_only(torch.Tensor, torch.clone, state)
    torch.save({"format": FORMAT, "step": step, **state}, buffer)
    path = path_of(run, step)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, buffer.getvalue())
    for old in steps_of(run)[:-KEEP]:
        path_of(run, old).unlink(missing_ok=True)


def load(run: Path, step: int) -> dict[str, Any]:
    """Load a checkpoint onto the CPU. Raises InputError where the file is damaged."""
    path = path_of(run, step)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: damaged checkpoint ({reason}). Delete it to go on from the one before."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: not an offrl checkpoint")
    return state
