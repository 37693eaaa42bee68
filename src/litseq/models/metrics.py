"""Metrics over sums: each token counts once, whatever batch or rank it came in."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenMean(Metric):
    """The mean of something over tokens, fed with sums.

    `torchmetrics.MeanMetric` with a weight gives the same number; this takes the sum as it is, without a division
    that the update would undo.
    """

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The count is an integer: float32 stops counting single tokens at 2**24, and float64 is missing on MPS.
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        """Add the sum over some tokens and their number."""
        self.total += total.detach()
        self.count += count.detach()

    def compute(self) -> Tensor:
        """The mean, 0 over no tokens."""
        return self.total / self.count.clamp(min=1)


class TokenPerplexity(TokenMean):
    """The exponential of the mean negative log-likelihood.

    `torchmetrics.text.Perplexity` wants the logits of every position and a second softmax over them; the loss has
    the sum already.
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The perplexity, 1 over no tokens."""
        return super().compute().exp()


class TokenAccuracy(TokenMean):
    """The share of tokens whose most likely prediction is the label."""

    higher_is_better = True
