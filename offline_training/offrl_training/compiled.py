"""A training step as one program: torch.compile joins the small operations between products.

Steps and random numbers stay those of the uncompiled step, up to rounding.
"""

import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from offrl_contract import InputError
from torch.overrides import TorchFunctionMode

from offrl_training.algorithms.base import Batch, Metrics

Update = Callable[[Batch], Metrics]


def default_generator(device: str) -> torch.Generator:
    """Return the device's own generator, the only one that compiled code draws from."""
    if device == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[torch.cuda.current_device()]
    return torch.default_generator


def compile_update(update: Update, device: str) -> Update:
    """Return the compiled step; its first calls take long. On a GPU it is replayed as CUDA graphs.

    Raises InputError where the compiler is missing.
    """
    # Not above: whoever does not compile need not wait for these.
    import torch._dynamo.config as tracing
    import torch._inductor.config as generating

    _require_compiler()
    # Gradients are taken inside the step, and its count of updates is not to be compiled in.
    tracing.trace_autograd_ops = True
    tracing.allow_unspec_int_on_nn_module = True
    generating.fallback_random = True  # the uncompiled step's random numbers
    graphs = device == "cuda"
    options: dict[str, Any] = {
        "triton.cudagraphs": graphs,
        "cpp_wrapper": not graphs,  # kernels are called from C++; a graph replays them by itself
        "guard_filter_fn": _what_steps_change,
    }
    program = torch.compile(update, fullgraph=True, options=options)

    def step(batch: Batch) -> Metrics:
        with _DefaultGenerator():
            metrics = program(batch)
        # The next replay of a graph writes to the same memory.
        return {name: value.clone() for name, value in metrics.items()} if graphs else metrics

    return step


def _what_steps_change(guards: Sequence[Any]) -> list[bool]:
    """Keep the guards on what a step may find changed; to check all takes a twentieth of a step.

    Those are batch, global modes, counts and settings, and whose step it is. The makeup of the
    networks stays.
    """
    return [
        guard.name in ("", "self")
        or guard.name.startswith("batch")
        or guard.guard_type in ("CONSTANT_MATCH", "ID_MATCH")
        for guard in guards
    ]


class _DefaultGenerator(TorchFunctionMode):
    """Draws from the device's own generator, whichever is named: torch.compile takes no other."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("generator", None)
        return function(*args, **kwargs)


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise InputError("--compile: there is no C++ compiler; apt-get install g++") from error
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise InputError("--compile: Python.h is missing; apt-get install python3-dev")
