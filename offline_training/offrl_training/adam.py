"""Adam. Kingma, Ba 2015, arXiv 1412.6980, algorithm 1, with the defaults named there."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class Adam(torch.optim.Optimizer):
    """PyTorch's fused kernel without the bookkeeping of torch.optim.Adam.

    For networks of this size on a CPU, that costs several times what the kernel does.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        """Take parameters of one device and a step size, `param_groups[0]["lr"]`."""
        super().__init__(parameters, {"lr": learning_rate})
        self.parameters: list[Tensor] = self.param_groups[0]["params"]
        for parameter in self.parameters:
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "mean": torch.zeros_like(parameter, requires_grad=False),
                "square": torch.zeros_like(parameter, requires_grad=False),
            }
        self._gather()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the state of a checkpoint, which stays as it is."""
        super().load_state_dict(copy.deepcopy(state_dict))
        self.parameters = self.param_groups[0]["params"]
        self._gather()

    @torch.no_grad()
    def descend(self, gradients: tuple[Tensor, ...], rate: float | None = None) -> None:
        """Take one step, given the gradient of each parameter; of another size with `rate`."""
        rate = self.param_groups[0]["lr"] if rate is None else rate
        self._step.add_(1.0)
        if torch.compiler.is_compiling():  # it joins these by itself, and cannot take the kernel in
            self._descend_by_parameter(gradients, rate)
            return
        torch._fused_adam_(
            self.parameters,
            gradients,
            self._means,
            self._squares,
            [],
            [self._step] * len(self.parameters),
            lr=rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )

    def _descend_by_parameter(self, gradients: tuple[Tensor, ...], rate: float) -> None:
        """Do as the kernel does, written out."""
        first, second = (1.0 - beta**self._step for beta in _BETAS)  # corrections of the bias
        size, root = rate / first, second.rsqrt()
        states = zip(self.parameters, gradients, self._means, self._squares, strict=True)
        for parameter, gradient, mean, square in states:
            mean.lerp_(gradient, 1.0 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1.0 - _BETAS[1])
            parameter.sub_(size * mean / (root * square.sqrt() + _EPS))

    def _gather(self) -> None:
        """Lay the state out as the kernel takes it; all parameters share one count of steps."""
        states = [self.state[parameter] for parameter in self.parameters]
        # The base class leaves the count of a checkpoint where it was loaded to.
        self._step: Tensor = states[0]["step"].to(self.parameters[0].device)
        for state in states:
            state["step"] = self._step
        self._means: list[Tensor] = [state["mean"] for state in states]
        self._squares: list[Tensor] = [state["square"] for state in states]
