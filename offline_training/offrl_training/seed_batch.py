"""Several seeds trained as one program: an algorithm's `update`, as it is, under torch.vmap.

Each seed remains a Trainer of its own, with its own split, normalisation and random numbers, but
its parameters and optimiser states become slices of tensors that hold those of all. A step maps
`update` over these; the gradients of independent seeds are those of the sum of their losses, and
Adam works entry by entry. So a seed takes the steps that it takes alone, up to rounding in matrix
products.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from offrl_training.adam import Adam
from offrl_training.algorithms.base import Algorithm, Batch, Metrics
from offrl_training.gate_critics import GateCritics
from offrl_training.trainer import Trainer


class SeedBatch:
    """Trainers that differ in their seeds alone, at one step, advanced together."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        """Take N trainers over: from here on, none of them is advanced or restored alone."""
        self.trainers = trainers
        works = [_Work(trainer.algorithm, trainer.gate_critics) for trainer in trainers]
        named = [dict([*work.named_parameters(), *work.named_buffers()]) for work in works]
        self._tensors = {name: _stack([own[name] for own in named]) for name in named[0]}
        names = {tensor: name for name, tensor in named[0].items()}

        def stacked(optimizers: Sequence[Adam]) -> Adam:
            parameters = [self._tensors[names[p]] for p in optimizers[0].parameters]
            return _stack_optimizers(optimizers, parameters)

        # Copies that share the first seed's networks, with optimisers and counters of their own.
        self._algorithm = copy.copy(trainers[0].algorithm)
        for name in self._algorithm.optimizers():
            own = [vars(trainer.algorithm)[name] for trainer in trainers]
            setattr(self._algorithm, name, stacked(own))
        critics = copy.copy(trainers[0].gate_critics)
        critics.q_optimizer = stacked([trainer.gate_critics.q_optimizer for trainer in trainers])
        self._work = _Work(self._algorithm, critics)

    def advance(self) -> None:
        """Take one training step of every seed."""
        first = self.trainers[0]
        batches = [trainer.sampler.sample(first.training.batch) for trainer in self.trainers]
        batch = Batch(*(torch.stack(parts) for parts in zip(*batches, strict=True)))
        gate = (first.step + 1) % first.gate_critics.interval == 0
        update = torch.vmap(self._update, (0, 0, None), randomness="different")
        with first.precision():
            metrics: dict[str, Tensor] = update(self._tensors, batch, gate)  # (N,) each
        for index, trainer in enumerate(self.trainers):
            trainer.metrics |= {name: values[index] for name, values in metrics.items()}
            trainer.step += 1
            trainer.algorithm.updates = self._algorithm.updates

    def _update(self, tensors: dict[str, Tensor], batch: Batch, gate: bool) -> Metrics:
        """Do as `Trainer.advance` does, with the tensors of one seed as vmap shows them."""
        with _PerSeed([trainer.generator for trainer in self.trainers], batch.rewards):
            # The normaliser, which both have, is swapped once: swapped twice, it is not put back.
            found = functional_call(self._work, tensors, (batch, gate), tie_weights=False)
            return cast(Metrics, found)


class _Work(nn.Module):
    """What a trainer updates, as one module."""

    def __init__(self, algorithm: Algorithm[Any], critics: GateCritics) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.critics = critics

    def forward(self, batch: Batch, gate: bool) -> Metrics:
        """Take one step of the algorithm, and with `gate` one of the gate's critics."""
        metrics = self.algorithm.update(batch)
        if gate:
            metrics |= self.critics.update(batch, self.algorithm.quick_policy)
        return metrics


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Return (N, ...) of N tensors, which become its slices.

    Where one is longer, because its split has more transitions, the others are padded with what no
    row refers to.
    """
    sizes = torch.tensor([tensor.shape for tensor in tensors])
    missing = (sizes.amax(0) - sizes).tolist()
    padding = [[pad for count in reversed(own) for pad in (0, count)] for own in missing]
    whole = torch.stack([F.pad(t.detach(), p) for t, p in zip(tensors, padding, strict=True)])
    if not any(map(any, padding)):
        _become_slices(tensors, whole)
    return whole.requires_grad_(tensors[0].requires_grad)


def _become_slices(tensors: Sequence[Tensor], whole: Tensor) -> None:
    for tensor, part in zip(tensors, whole, strict=True):
        tensor.data = part


def _stack_optimizers(optimizers: Sequence[Adam], parameters: Sequence[Tensor]) -> Adam:
    """Return an optimiser of stacked parameters that goes on where those of the seeds are."""
    whole = Adam(parameters, optimizers[0].param_groups[0]["lr"])
    for place, parameter in enumerate(parameters):
        states = [optimizer.state[optimizer.parameters[place]] for optimizer in optimizers]
        for key, value in whole.state[parameter].items():
            own = [state[key] for state in states]
            shared = key == "step"
            value.copy_(own[0] if shared else torch.stack(own))
            _become_slices(own, value.expand(len(own)) if shared else value)
    return whole


class _PerSeed(TorchFunctionMode):
    """Does for all seeds at once what vmap cannot do, or not as a seed alone does it.

    Random numbers come from the seed's own generator, gradients go to the stacked parameters, and
    operations without a rule in vmap act on stacked tensors.
    """

    def __init__(self, generators: Sequence[torch.Generator], mapped: Tensor) -> None:
        """Take a generator per seed, and any tensor that vmap maps."""
        super().__init__()
        self._generators = generators
        self._mapped = mapped
        self._rules: dict[Any, Callable[..., Any]] = {
            torch.empty: self._empty,
            torch.randn: self._randn,
            torch.Tensor.normal_: self._fill("normal_"),
            torch.Tensor.uniform_: self._fill("uniform_"),
            torch.Tensor.clamp_: lambda x, *bounds: x.copy_(x.clamp(*bounds)),
            torch.autograd.grad: self._gradients,
            torch._foreach_lerp_: self._lerp,
        }

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return self._rules.get(function, function)(*args, **(kwargs or {}))

    def _empty(self, shape: Sequence[int], **options: Any) -> Tensor:
        """Return memory that is filled in place."""
        count = len(self._generators)
        return _outside(lambda _: torch.empty((count, *shape), **options), self._mapped)

    def _randn(self, shape: Sequence[int], *, generator: torch.Generator, **options: Any) -> Tensor:
        """Draw from N(0, 1), not from the generator that all seeds seem to have."""
        del generator

        def draw(_: Tensor) -> Tensor:
            own = (torch.randn(shape, generator=g, **options) for g in self._generators)
            return torch.stack(list(own))

        return _outside(draw, self._mapped)

    def _fill(self, name: str) -> Callable[..., Tensor]:
        """Return a method of tensors that draws in place."""

        def fill(tensor: Tensor, *args: Any, generator: torch.Generator) -> Tensor:
            del generator

            def draw(whole: Tensor) -> Tensor:
                for part, own in zip(whole, self._generators, strict=True):
                    getattr(part, name)(*args, generator=own)
                return whole

            _outside(draw, tensor)
            return tensor

        return fill

    @staticmethod
    def _gradients(
        loss: Sequence[Tensor], parameters: Sequence[Tensor], **options: Any
    ) -> tuple[Tensor, ...]:
        """Return the gradients of stacked parameters, laid out as these: Adam's kernel asks it."""
        found: list[Tensor] = []

        def differentiate(losses: Tensor) -> Tensor:  # (N,)
            gradients = torch.autograd.grad(losses.sum(), parameters, **options)
            found.extend(gradient.contiguous() for gradient in gradients)
            return losses.detach()

        _outside(differentiate, *loss)
        return tuple(found)

    @staticmethod
    def _lerp(targets: Sequence[Tensor], online: Sequence[Tensor], weight: float) -> None:
        def blend(*both: Tensor) -> Tensor:
            torch._foreach_lerp_(both[: len(targets)], both[len(targets) :], weight)
            return both[0]

        _outside(blend, *targets, *online)


class _Outside(torch.autograd.Function):
    """A function of the stacked tensors (N, ...) where vmap shows those of one seed."""

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Stand for itself outside of vmap."""
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: nothing that is done outside has a gradient."""

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004
        in_dims: tuple[int | None, ...],
        function: Callable[..., Tensor],
        *tensors: Tensor,
    ) -> tuple[Tensor, int]:
        """Call the function with the seeds in front."""
        dims = cast(tuple[int, ...], in_dims[1:])
        return function(*(t.movedim(dim, 0) for t, dim in zip(tensors, dims, strict=True))), 0


def _outside(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    outcome: Tensor = _Outside.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return outcome
