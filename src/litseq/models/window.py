"""Gradients of the mean over all the tokens of an optimizer step, whatever the accumulation and the ranks."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from litseq.models.loss import LossSum

LOSS_SCALE = 1024.0
"""What a loss sum is divided by before it goes backward: it keeps float16 gradients in range, and a power of two costs
no bits when it is multiplied back."""


class TokenWindow:
    """Loss and tokens of the micro-batches since the last optimizer step.

    Lightning divides the loss by `accumulate_grad_batches`, and data parallel strategies average gradients over ranks.
    Only when the last micro-batch is through is the divisor known that makes a mean over tokens of them:

        gradient * accumulate_grad_batches * world_size * LOSS_SCALE / tokens of all micro-batches and ranks

    The factor is exact for the last, incomplete window of an epoch too, since Lightning divides by the same number
    there.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def clear(self) -> None:
        """Forget what was added."""
        self._sums = None

    def state_dict(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Any] | None:
        """What an open window has gathered, None for a closed one: a checkpoint may fall between two micro-batches."""
        if self._sums is None:
            return None
        gradients = {name: parameter.grad for name, parameter in parameters if parameter.grad is not None}
        return {"sums": self._sums, "gradients": gradients}

    def load_state_dict(self, state: Mapping[str, Any], parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Go on with a window of `state_dict`."""
        for name, parameter in parameters:
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)
            self._sums = state["sums"].to(parameter.device)

    def add(self, loss: LossSum, time_fraction: float = 0.0) -> Tensor:
        """Take one micro-batch in.

        Args:
            loss: Its loss.
            time_fraction: How much of the time limit is used, agreed on by the ranks in `close`.

        Returns:
            The loss to go backward with. Its value is the mean over the tokens, which callbacks and Lightning's
            learning-rate finder read; its gradient is that of the sum by LOSS_SCALE.
        """
        loss_sum = loss.loss_sum.detach().float()
        sums = torch.stack([loss_sum, loss.token_count.float(), torch.zeros_like(loss_sum)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._sums[2] = time_fraction
        mean, scaled = loss_sum / loss.token_count.clamp(min=1), loss.loss_sum / LOSS_SCALE
        return mean + (scaled - scaled.detach())

    def close(self, trainer: Trainer, parameters: Iterable[nn.Parameter]) -> tuple[Tensor, Tensor] | None:
        """Scale the gradients and start the next window.

        Args:
            trainer: The trainer whose ranks take part.
            parameters: The parameters whose gradients the window has filled.

        Returns:
            The mean loss per token and the fraction of the time limit used, both the same on every rank; None when
            nothing was added.
        """
        if self._sums is None:
            return None
        sums, self._sums = self._sums, None
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        loss_sum, token_count, time_fraction = sums.unbind()
        token_count = token_count.clamp(min=1.0)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            raise RuntimeError(
                f"no parameter has a gradient under {type(trainer.strategy).__name__}, expected gradients in `.grad`:"
                " use a strategy that keeps them there (auto, ddp, fsdp)"
            )
        factor = trainer.accumulate_grad_batches * trainer.world_size * LOSS_SCALE / token_count
        torch._foreach_mul_(gradients, factor)
        return loss_sum / token_count, time_fraction / trainer.world_size
