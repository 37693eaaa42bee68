"""Metrics over sums: each token counts once, whatever batch or rank it came in."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litseq.models.loss import LossSum
from litseq.nn.batch import IGNORE_INDEX
from litseq.text import Tokenizer


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
        # Under `bf16-true` the empty total is made a bfloat16, which is too coarse to add to.
        self.total = self.total.float() + total.detach().float()
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


def text_bytes(tokenizer: Tokenizer, labels: Tensor) -> int:
    """The UTF-8 bytes of the text that rows of labels stand for; special tokens are no text."""
    rows = ([label for label in row if label != IGNORE_INDEX] for row in labels.tolist())
    return sum(map(tokenizer.count_bytes, rows))


class StageMetrics(nn.Module):
    """Loss, perplexity, accuracy and bits per byte of validation or test.

    Bits per byte are the negative log-likelihood of the text in bits by its bytes, the end tokens paid for and not
    counted: a measure that models with different vocabularies share (https://arxiv.org/abs/2101.00027, section 3.1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = TokenMean()
        self.perplexity = TokenPerplexity()
        self.accuracy = TokenAccuracy()
        self.bits_per_byte = TokenMean()

    def update(self, loss: LossSum, byte_count: int | None = None) -> dict[str, Metric]:
        """Take a batch in; the metrics that know something about it, by name."""
        known: dict[str, Metric] = {"loss": self.loss, "perplexity": self.perplexity}
        self.loss.update(loss.loss_sum, loss.token_count)
        nll_sum = loss.loss_sum if loss.nll_sum is None else loss.nll_sum
        self.perplexity.update(nll_sum, loss.token_count)
        if loss.correct_count is not None:
            self.accuracy.update(loss.correct_count, loss.token_count)
            known["accuracy"] = self.accuracy
        if byte_count is not None:
            self.bits_per_byte.update(nll_sum / math.log(2), torch.tensor(byte_count, device=nll_sum.device))
            known["bits_per_byte"] = self.bits_per_byte
        return known


class LoaderMetrics(nn.ModuleList):
    """The metrics of a stage, apart for each of its data loaders."""

    def __init__(self) -> None:
        super().__init__([StageMetrics()])

    def of(self, loader: int) -> StageMetrics:
        """Those of a loader, by its number."""
        first = self[0]
        assert isinstance(first, StageMetrics)
        while len(self) <= loader:
            self.append(StageMetrics().to(first.loss.device))
        found = self[loader]
        assert isinstance(found, StageMetrics)
        return found
