"""Muon for the matrices, AdamW for the rest, as one optimiser."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from litseq.errors import UsageError
from litseq.models.optim import MATRICES


class MuonAdamW(Optimizer):
    """`torch.optim.Muon` for the matrices of the layers, `torch.optim.AdamW` for embeddings, norms and biases.

    Muon makes every update of a matrix orthogonal, so that all its directions are learned equally fast
    (https://kellerjordan.github.io/posts/muon/). Its updates are scaled to the size of AdamW's
    (https://arxiv.org/abs/2502.16982), so that both take one learning rate, usually two to four times what AdamW alone
    would take. Lightning steps one optimiser, and a matrix is all that Muon can step: hence this pair.

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
        # Both write their own settings into the groups that they share with this optimiser.
        self._muon = torch.optim.Muon(
            [group for group in self.param_groups if group[MATRICES]],
            lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
        rest = [group for group in self.param_groups if not group[MATRICES]]
        self._adamw = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas) if rest else None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, of_matrices in ((self._muon, True), (self._adamw, False)):
            if part is not None:
                # Again at each step: loading a state replaces both.
                part.param_groups = [group for group in self.param_groups if group[MATRICES] is of_matrices]
                part.state = self.state
                part.step()
        return loss


def _split(groups: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Each group as at most two: what Muon steps, and what it cannot."""
    for group in groups:
        of_muon = {id(p) for p in group["params"] if group.get(MATRICES) and p.ndim == 2}
        for wanted in (True, False):
            params = [p for p in group["params"] if (id(p) in of_muon) is wanted]
            if params:
                yield {**group, "params": params, MATRICES: wanted}
