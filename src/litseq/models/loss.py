"""Cross entropy over the positions that carry a label, as a sum and a count."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from litseq.nn.batch import IGNORE_INDEX


class LossSum(NamedTuple):
    """What `SequenceModule.compute_loss` returns: a sum and the number of tokens it runs over.

    Means are formed later, over the tokens of every micro-batch and rank together. A mean of means would weigh a
    token by the company it keeps.
    """

    loss_sum: Tensor
    """The loss summed over tokens, a scalar with a gradient."""
    token_count: Tensor
    """The tokens summed over, a scalar."""
    nll_sum: Tensor | None = None
    """The negative log-likelihood of the labels, without label smoothing. None: the loss is that already."""
    correct_count: Tensor | None = None
    """The tokens whose most likely prediction is the label. None where nobody asked."""


def token_cross_entropy(
    hidden: Tensor,
    labels: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    label_smoothing: float = 0.0,
    count_correct: bool = False,
) -> LossSum:
    """Project the labelled positions to the vocabulary and sum their cross entropy.

    The hidden states are gathered before the projection: padding, prompts and every other position without a label
    never meet the largest matrix of the model.

    Args:
        hidden: What the decoder returns, [B, T, D].
        labels: The token each position predicts, `IGNORE_INDEX` for none, [B, T].
        logits_of: The projection of [N, D] to [N, V].
        label_smoothing: The share of probability spread over the whole vocabulary
            (https://arxiv.org/abs/1512.00567).
        count_correct: Count the correct predictions as well.

    Returns:
        The sums over the labelled positions.
    """
    labelled = labels != IGNORE_INDEX
    targets = labels[labelled]  # [N]
    logits = logits_of(hidden[labelled]).float()  # [N, V]; float: a bfloat16 softmax loses the small probabilities
    loss_sum = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    token_count = labelled.sum()
    nll_sum = correct_count = None
    with torch.no_grad():
        if label_smoothing and count_correct:
            nll_sum = functional.cross_entropy(logits, targets, reduction="sum")
        if count_correct:
            correct_count = (logits.argmax(-1) == targets).sum()
    return LossSum(loss_sum, token_count, nll_sum, correct_count)
