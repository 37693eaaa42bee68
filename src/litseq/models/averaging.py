"""The mean of the weights of several checkpoints."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litseq.errors import CheckpointError, UsageError
from litseq.models.checkpoint import read_checkpoint
from litseq.models.record import COMPILED_PREFIX

KEPT = ("epoch", "global_step", "pytorch-lightning_version", "hparams_name", "hyper_parameters", "litseq")
"""What an averaged checkpoint takes over from the last one: enough to restore, export and fine-tune the module."""


def average_checkpoints(paths: Sequence[str | Path], out: str | Path, *, force: bool = False) -> None:
    """Write a checkpoint whose weights are the mean of those of several, usually the last ones of a training.

    "Attention is all you need" (https://arxiv.org/abs/1706.03762, section 6.1) averages its last 5 or 20. Where a
    checkpoint holds a running average (EMA) as well, that is what goes in, as everywhere.

    Args:
        paths: Checkpoints of one training, or of several that began with the same weights; the last one gives the rest.
        out: The file to write; it appears whole or not at all. It holds no optimizer: training cannot be resumed from it.
        force: Replace `out`.

    Raises:
        UsageError: `out` exists, or there is nothing to average.
        CheckpointError: A file is no checkpoint of litseq, or the checkpoints are not of one model.
    """
    if not paths:
        raise UsageError("no checkpoint to average, expected at least one")
    out = Path(out)
    if out.exists() and not force:
        raise UsageError(f"{out} exists already; name another file, or replace it with --force")
    last = read_checkpoint(paths[-1])
    checkpoint: dict[str, Any] = {name: last[name] for name in KEPT if name in last}
    checkpoint["litseq"] = last["litseq"] | {"averaged": [Path(path).name for path in paths]}
    checkpoint["state_dict"] = _mean(paths)
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        torch.save(checkpoint, beside)
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)


def _mean(paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """One checkpoint in memory at a time; sums in double precision, so that the mean of equal weights is the weights."""
    sums: dict[str, Tensor] = {}
    result: dict[str, Tensor] = {}
    for path in paths:
        state = {
            name.replace(COMPILED_PREFIX, ""): value for name, value in read_checkpoint(path)["state_dict"].items()
        }
        if result:
            _check_same(result, state, paths[0], path)
        result = state
        for name, value in state.items():
            if value.is_floating_point():
                sums[name] = sums[name].add_(value) if name in sums else value.double()
    return {
        name: (sums[name] / len(paths)).to(value.dtype) if name in sums else value.clone()
        for name, value in result.items()
    }


def _check_same(first: dict[str, Tensor], other: dict[str, Tensor], first_path: str | Path, path: str | Path) -> None:
    different = sorted(
        name
        for name in first.keys() | other.keys()
        if name not in first or name not in other or first[name].shape != other[name].shape
    )
    if different:
        raise CheckpointError(
            f"{path} and {first_path} are not of one model: they differ in {', '.join(different[:3])}"
            f"{' and more' if len(different) > 3 else ''}; average checkpoints of one training"
        )
