"""Restoring a module of any subclass from its checkpoint."""

import zipfile
from pathlib import Path
from typing import Any, Literal

import torch

from litseq.errors import CheckpointError
from litseq.models.base import SequenceModule
from litseq.models.class_path import resolve_class
from litseq.models.record import rename_state


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of litseq without running any code of it; its tensors stay on disk until they are used.

    Args:
        path: The file.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: There is none, or it is none of litseq's.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a directory, expected one checkpoint file: make one of a sharded checkpoint with"
            f" python -m lightning.pytorch.utilities.consolidate_checkpoint {path}"
        )
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, expected a checkpoint that the trainer has written")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is no checkpoint or is cut short, expected a file that the trainer has written")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds over damaged files, some without a message
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint of plain types and tensors: {reason[:200]}; a subclass that saves"
            " objects in its checkpoint or its hyper-parameters must leave them out"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(
            f"{path} holds no Lightning checkpoint (no state_dict), expected one the trainer has written"
        )
    entry = checkpoint.get("litseq")
    if not isinstance(entry, dict) or not isinstance(entry.get("class_path"), str):
        raise CheckpointError(
            f"{path} is a Lightning checkpoint but none of litseq's (no entry litseq), expected one of a subclass of"
            " litseq.models.SequenceModule"
        )
    return checkpoint


def load_module(path: str | Path, weights: Literal["any", "averaged", "current"] = "any") -> SequenceModule:
    """Restore the module of a checkpoint as the class it was trained as.

    Args:
        path: A checkpoint the trainer has written.
        weights: Which weights of a run with Lightning's WeightAveraging callback: the `averaged` ones, or the `current`
            ones, those the optimiser was at. Other checkpoints have only the latter. `any`: the averaged ones where
            there are any.

    Returns:
        The module, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: One line that says what is wrong with the file or the class.
    """
    checkpoint = read_checkpoint(path)
    if weights == "averaged" and "current_model_state" not in checkpoint:
        raise CheckpointError(
            f"{path} holds no running average of the weights; train with lightning.pytorch.callbacks.EMAWeightAveraging,"
            " or take the weights it has"
        )
    class_path = checkpoint["litseq"]["class_path"]
    try:
        cls = resolve_class(class_path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not issubclass(cls, SequenceModule):
        raise CheckpointError(
            f"{path} names {class_path}, expected a subclass of litseq.models.SequenceModule: the class has changed"
            " since the checkpoint was written"
        )
    try:
        module = cls.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        if weights == "current" and "current_model_state" in checkpoint:
            state = dict(checkpoint["current_model_state"])
            rename_state(state, module.state_dict().keys())
            module.load_state_dict(state)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CheckpointError(
            f"{path} does not fit {class_path}: {type(error).__name__}: {' '.join(lines)[:400]}; load it with the code"
            " it was trained with"
        ) from error
    return module.eval()
