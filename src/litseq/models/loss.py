"""Cross entropy over the positions that carry a label, as a sum and a count."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litseq.nn.batch import IGNORE_INDEX

CPU_CHUNK = 2**18
"""Logits worked on at a time on a CPU: what a second-level cache holds of them in float32, once or twice."""
DEVICE_CHUNK = 2**26
"""The same on an accelerator, where few large kernels are fast and memory is what to save."""


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
    logits = logits_of(hidden[labelled])  # [N, V]
    loss_sum = cross_entropy_sum(logits, targets, label_smoothing)
    token_count = labelled.sum()
    nll_sum = correct_count = None
    with torch.no_grad():
        if label_smoothing and count_correct:
            nll_sum = cross_entropy_sum(logits, targets)
        if count_correct:
            correct_count = (logits.argmax(-1) == targets).sum()
    return LossSum(loss_sum, token_count, nll_sum, correct_count)


@torch.compiler.disable  # the loop over chunks would be unrolled anew for every number of tokens
def cross_entropy_sum(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """`torch.nn.functional.cross_entropy` with reduction "sum", quicker on a CPU.

    The softmax of a batch is the largest tensor of a training, and torch walks over it about ten times, label smoothing
    included: log-softmax, a gradient of zeros but for the labels, one for the smoothing, their sum, and back. Here the
    rows go through in chunks that stay in the cache, and between forward and backward nothing is kept but the logits: with
    smoothing a third of torch's time for bfloat16 logits, and two thirds for float32.

    Args:
        logits: [N, V], of any floating type; the work is done in float32, since a bfloat16 softmax loses the small
            probabilities.
        targets: Token ids, [N].
        label_smoothing: As `token_cross_entropy`.

    Returns:
        A float32 scalar; its gradient has no gradient.
    """
    return _CrossEntropySum.apply(logits, targets, label_smoothing)


class _CrossEntropySum(torch.autograd.Function):
    # With y = (1 - s) onehot(t) + s / V: loss = logsumexp(x) - y . x and d loss / d x = softmax(x) - y.

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        rows, vocab_size = _chunk_rows(logits), logits.shape[1]
        # Not the default dtype, which `bf16-true` changes.
        log_sum = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        total = torch.zeros((), dtype=torch.float32, device=logits.device)
        for x, z, t in zip(logits.split(rows), log_sum.split(rows), targets.split(rows), strict=True):
            x = x.float()
            torch.logsumexp(x, 1, out=z)
            losses = z - (1 - smoothing) * x.gather(1, t[:, None]).squeeze(1)
            if smoothing:
                losses -= smoothing / vocab_size * x.sum(1)
            total += losses.sum()
        ctx.save_for_backward(logits, log_sum, targets)
        ctx.smoothing = smoothing
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, log_sum, targets = ctx.saved_tensors
        rows, vocab_size = _chunk_rows(logits), logits.shape[1]
        gradient = torch.empty_like(logits)
        chunks = (tensor.split(rows) for tensor in (logits, log_sum, targets, gradient))
        for x, z, t, out in zip(*chunks, strict=True):
            p = (x.float() - z[:, None]).exp_()
            if ctx.smoothing:
                p -= ctx.smoothing / vocab_size
            p.scatter_add_(1, t[:, None], p.new_full((len(t), 1), ctx.smoothing - 1))
            out.copy_(p.mul_(grad))
        return gradient, None, None


def _chunk_rows(logits: Tensor) -> int:
    chunk = CPU_CHUNK if logits.device.type == "cpu" else DEVICE_CHUNK
    return max(1, chunk // logits.shape[1])
