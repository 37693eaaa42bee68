"""What can be known to fail before the first training: it is cheaper to hear of it now than behind an hour."""

import inspect
from typing import Any

import torch
from lightning.pytorch import Trainer

from litseq.compare.building import build_data, build_module
from litseq.compare.config import Comparison
from litseq.errors import DataError, UsageError
from litseq.generation import GenerationOptions
from litseq.models.checkpoint import read_checkpoint

_OURS = {"callbacks", "logger", "max_steps", "max_epochs", "max_time", "devices", "num_nodes"}
"""What the comparison itself decides."""


def preflight(comparison: Comparison, tests: dict[str, Any]) -> None:
    """Refuse arguments that no run could use, and validation and test files that cannot be read.

    Raises:
        UsageError: for an argument.
        CheckpointError: for a checkpoint to start from.
        DataError: for a file.
    """
    GenerationOptions.from_mapping(comparison.generation, GenerationOptions())
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    if unknown := sorted(set(comparison.trainer) - known):
        raise UsageError(f"trainer: the Trainer has no argument {', '.join(unknown)}")
    if ours := sorted(set(comparison.trainer) & _OURS):
        raise UsageError(f"trainer: {', '.join(ours)} is decided by the comparison, by its budget among others")
    args = {name: value for name, value in comparison.data.init_args.items() if name != "test"}
    for name, arm in comparison.arms.items():
        with torch.device("meta"):
            # As many tokens as there may be: what the data has is known when its tokenizer is.
            build_module(arm.class_path, {"vocab_size": 1000} | comparison.model | arm.init_args, f"arm {name}")
        build_data(comparison.data.class_path, args | arm.data, f"arm {name}")
        if arm.start_from is not None:
            read_checkpoint(arm.start_from)
    data = build_data(comparison.data.class_path, args)
    for name, paths in (("val", args.get("val")), *tests.items()):
        if paths is None:
            continue
        columns = data.read_all(paths)
        if not columns[0]:
            raise DataError(f"{name}: no example in {paths}, expected at least one")
