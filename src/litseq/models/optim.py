"""The default optimiser and the learning-rate schedules."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from litseq.errors import UsageError

ScheduleName = Literal["inverse_sqrt", "cosine", "constant"]

ADAM_BETAS = (0.9, 0.98)
"""The second is shorter than torch's 0.999, as for the first Transformer (https://arxiv.org/abs/1706.03762)."""


MATRICES = "matrices"
"""Key of a parameter group: whether it holds the matrices of the layers, which some optimisers step apart."""


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that weight decay may shrink and those it may not.

    Matrices decay. Norm weights, biases (all that has fewer than two dimensions) and embeddings do not: a rare
    token's row gets no gradient for many steps and would fade away meanwhile.

    Args:
        module: The module to train.

    Returns:
        One or two parameter groups for a torch optimiser. That of the matrices says `matrices: True`, the other one
        `matrices: False` and `weight_decay: 0.0`.
    """
    embeddings = {
        id(parameter)
        for child in module.modules()
        if isinstance(child, nn.Embedding)
        for parameter in child.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, MATRICES: True},
        {"params": kept, MATRICES: False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def default_optimizer(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with decoupled weight decay (https://arxiv.org/abs/1711.05101) on the matrices."""
    # The fused step is some times faster on a CPU, but Lightning clips no gradients of it in mixed precision.
    trainer = getattr(module, "_trainer", None)
    mixed = trainer is not None and isinstance(trainer.precision_plugin, MixedPrecision)
    fused = not mixed and all(parameter.device.type == "cpu" for parameter in module.parameters())
    return torch.optim.AdamW(
        parameter_groups(module), lr=learning_rate, betas=ADAM_BETAS, weight_decay=weight_decay, fused=fused or None
    )


def time_fraction(trainer: Trainer) -> float:
    """How much of `max_time` is used, 0 where there is no such limit."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector, unknown to the type checker
        if isinstance(callback, Timer):
            elapsed, remaining = callback.time_elapsed(), callback.time_remaining()
            if remaining is not None:
                return min(1.0, elapsed / max(elapsed + remaining, 1e-9))
    return 0.0


def has_time_limit(trainer: Trainer) -> bool:
    """Whether the trainer stops after some time."""
    return any(
        isinstance(callback, Timer) and callback.time_remaining() is not None
        for callback in trainer.callbacks  # type: ignore[attr-defined]  # set where mypy does not look
    )


def learning_rate_factor(
    schedule: ScheduleName, warmup_steps: int, total_steps: float, used_time: Callable[[], float] | None = None
) -> Callable[[int], float]:
    """The factor of the learning rate at each optimizer step.

    Every schedule starts with a linear warm-up. Behind it `constant` stays, `inverse_sqrt` falls with the root of the
    step (https://arxiv.org/abs/1706.03762) and needs no known end, `cosine` falls to zero at the end
    (https://arxiv.org/abs/1608.03983): the last step, or the end of the time limit where that comes first.

    Args:
        schedule: Which.
        warmup_steps: Steps of the warm-up.
        total_steps: Steps of the whole training, infinite where unknown.
        used_time: The fraction of the time limit that is used. None: no limit.

    Returns:
        A function of the step.
    """
    if schedule == "cosine" and math.isinf(total_steps) and used_time is None:
        raise UsageError(
            "schedule is cosine and the training has no end, expected one to fall towards: set max_epochs, max_steps or"
            " max_time of the trainer, or take schedule inverse_sqrt or constant"
        )

    def warmup(step: int) -> float:
        return min(1.0, (step + 1) / max(warmup_steps, 1))

    def inverse_sqrt(step: int) -> float:
        start = max(warmup_steps, 1)
        return warmup(step) * math.sqrt(start / max(step + 1, start))

    def cosine(step: int) -> float:
        by_steps = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        by_time = used_time() if used_time is not None else 0.0
        progress = min(max(by_steps, by_time, 0.0), 1.0)
        return warmup(step) * 0.5 * (1.0 + math.cos(math.pi * progress))

    factors: dict[ScheduleName, Callable[[int], float]] = {
        "inverse_sqrt": inverse_sqrt,
        "cosine": cosine,
        "constant": warmup,
    }
    if schedule not in factors:
        raise UsageError(f"schedule is {schedule!r}, expected one of {', '.join(factors)}")
    return factors[schedule]
