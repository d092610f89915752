"""Adam for networks whose training sets beta1 = 0, as that of many GANs with spectral norm does."""

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam


class AdamWithoutMomentum(Optimizer):
    """Adam with beta1 = 0 (Kingma & Ba 2015, arXiv:1412.6980), without the memory of a first moment.

    The first moment is then the gradient itself, and each step one pass over memory: weight, gradient, second moment.

    Args:
        learning_rate: of every step; a schedule may change `param_groups[...]["lr"]`.
        beta2: decay of the second moment.
        eps: keeps the division by its root finite.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, beta2: float, eps: float = 1e-8
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate, "beta2": beta2, "eps": eps})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            gradients = [_laid_out_as(p, p.grad) for p in moved]
            adam(
                moved,
                gradients,
                gradients,  # in place of the first moments
                [self._second_moment(p) for p in moved],
                [],
                [self.state[p]["step"] for p in moved],
                fused=True,
                amsgrad=False,
                beta1=0.0,
                beta2=group["beta2"],
                lr=group["lr"],
                weight_decay=0.0,
                eps=group["eps"],
                maximize=False,
            )
        return loss

    def _second_moment(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = _laid_out_as(parameter, state["exp_avg_sq"])  # a checkpoint has the standard layout
        return state["exp_avg_sq"]


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The fused step pairs entries by where they lie in memory."""
    return value if value.stride() == parameter.stride() else torch.empty_like(parameter).copy_(value)
