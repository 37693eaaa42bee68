"""Muon for the matrices, AdamW for the rest, as one optimiser."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from litseq.errors import UsageError
from litseq.models.hardware import has_bfloat16
from litseq.models.optim import MATRICES

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""The quintic a x + b x^3 + c x^5, as steep at zero as one that keeps what is near 1 there can be."""

_ITERATIONS = 5
_EPS = 1e-7


class MuonAdamW(Optimizer):
    """Muon for the matrices of the layers, `torch.optim.AdamW` for embeddings, norms and biases.

    Muon makes every update of a matrix orthogonal, so that all its directions are learned equally fast
    (https://kellerjordan.github.io/posts/muon/). Its updates are scaled to the size of AdamW's
    (https://arxiv.org/abs/2502.16982), so that both take one learning rate, usually two to four times what AdamW alone
    would take. Lightning steps one optimiser, and a matrix is all that Muon can step: hence this pair.

    A step is that of `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, with two differences in how it is computed:
    matrices of one shape are made orthogonal together, and in float32 on a CPU without instructions for bfloat16, where
    torch's way costs several times what the rest of a small model's training step does.

    Pass it as `optimizer` of a module, which calls it with parameter groups:
    `DecoderOnly(optimizer=lambda groups: MuonAdamW(groups, lr=4e-3))`.

    Args:
        params: Parameter groups of `litseq.models.optim.parameter_groups`. In a group marked `matrices` Muon takes what has
            two dimensions; without any mark all is AdamW's, and that is refused.
        lr: Highest learning rate of both.
        weight_decay: Decoupled weight decay of groups that do not say otherwise.
        momentum: Muon's.
        betas: AdamW's.

    Raises:
        UsageError: no group is marked `matrices`.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 4e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        groups = list(_split(list(params)))
        if not any(group[MATRICES] for group in groups):
            raise UsageError(
                f"MuonAdamW got no parameter group with {MATRICES!r}: True and a matrix in it, so Muon has nothing to do; "
                "give it litseq.models.optim.parameter_groups(module), as a litseq module's argument `optimizer` does"
            )
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        # It writes its own settings into the groups that it shares with this optimiser.
        rest = [group for group in self.param_groups if not group[MATRICES]]
        self._adamw = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas) if rest else None
        self._momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch has overloads
        """Step both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group[MATRICES]:
                self._step_matrices(group)
        if self._adamw is not None:
            # Again at each step: loading a state replaces both.
            self._adamw.param_groups = [group for group in self.param_groups if not group[MATRICES]]
            self._adamw.state = self.state
            self._adamw.step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = {}
        for param in group["params"]:
            if param.grad is None:
                continue
            state = self.state[param]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(param.grad)
            buffer = state["momentum_buffer"].lerp_(param.grad, 1 - self._momentum)
            params, updates = alike.setdefault(param.shape, ([], []))
            params.append(param)
            updates.append(param.grad.lerp(buffer, self._momentum))  # Nesterov's
        for shape, (params, updates) in alike.items():
            scaled = group["lr"] * 0.2 * math.sqrt(max(shape))
            for param, update in zip(params, orthogonal(torch.stack(updates)), strict=True):
                param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scaled)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors, and singular values near 1 (between 0.7 and 1.2).

    Five Newton-Schulz iterations with the quintic of https://kellerjordan.github.io/posts/muon/.

    Args:
        matrices: [N, rows, columns].

    Returns:
        [N, rows, columns], in bfloat16, or in float32 on a CPU that would have to imitate it.
    """
    x = matrices.float() if matrices.device.type == "cpu" and not has_bfloat16() else matrices.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)  # no singular value is above 1 then
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


def _split(groups: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Each group as at most two: what Muon steps, and what it cannot."""
    for group in groups:
        of_muon = {id(p) for p in group["params"] if group.get(MATRICES) and p.ndim == 2}
        for wanted in (True, False):
            params = [p for p in group["params"] if (id(p) in of_muon) is wanted]
            if params:
                yield {**group, "params": params, MATRICES: wanted}
