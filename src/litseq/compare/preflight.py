"""What can be known to fail before the first training: it is cheaper to hear of it now than behind an hour."""

import inspect
import logging
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from litseq.compare.building import build_data, build_module
from litseq.compare.config import Comparison
from litseq.compare.scoring import bleu_can_tell, text_metrics
from litseq.data import ConversationDataModule, SequenceDataModule
from litseq.data.lines import check_file
from litseq.data.sources import flat_paths
from litseq.errors import DataError, UsageError
from litseq.generation import GenerationOptions
from litseq.models.checkpoint import read_checkpoint

_LIMITS = {"max_steps", "min_steps", "max_epochs", "min_epochs", "max_time", "limit_train_batches", "overfit_batches"}
_OURS = _LIMITS | {"callbacks", "logger", "devices", "num_nodes", "fast_dev_run", "barebones", "enable_checkpointing"}
"""What the comparison itself decides: for how long, on what, and that there are checkpoints to resume from and to export."""
_GLOBAL = {"deterministic", "benchmark"}
"""Arguments by which a Trainer changes torch itself as soon as it is made."""


def preflight(comparison: Comparison) -> None:
    """Refuse arguments that no run could use, and validation and test files that cannot be read.

    Raises:
        UsageError: for an argument.
        CheckpointError: for a checkpoint to start from.
        DataError: for a file.
    """
    options = GenerationOptions.from_mapping(comparison.generation, GenerationOptions())
    if options.num_return_sequences > 1:
        raise UsageError(
            f"generation: num_return_sequences is {options.num_return_sequences}, expected 1: one output an input is scored"
        )
    _check_trainer(comparison.trainer)
    args = {name: value for name, value in comparison.data.init_args.items() if name != "test"}
    for name, arm in comparison.arms.items():
        with torch.device("meta"):
            # As many tokens as there may be: what the data has is known when its tokenizer is.
            build_module(arm.class_path, {"vocab_size": 1000} | comparison.model | arm.init_args, f"arm {name}")
        own = build_data(comparison.data.class_path, args | arm.data, f"arm {name}")
        train = (args | arm.data).get("train")
        for path in flat_paths(train):
            check_file(path)
        if arm.data.get("val") is not None:
            _read(own, f"arm {name}: val", arm.data["val"])
        if comparison.budget.tokens is not None and isinstance(train, dict) and train.get("streaming"):
            raise UsageError(
                f"arm {name}: how many steps budget.tokens is cannot be known of a stream; give budget.minutes, or leave"
                " out streaming"
            )
        if arm.start_from is not None:
            read_checkpoint(arm.start_from)
    data = build_data(comparison.data.class_path, args)
    if args.get("val") is not None:
        _read(data, "val", args["val"])
    columns = [_read(data, name, paths) for name, paths in comparison.test_sets.items()]
    _check_metric(comparison, data, columns[0])


def _check_trainer(arguments: dict[str, Any]) -> None:
    """Refuse arguments that a Trainer does not take, or that would end or empty a training behind the budget's back."""
    if unknown := sorted(set(arguments) - set(inspect.signature(Trainer.__init__).parameters)):
        raise UsageError(f"trainer: the Trainer has no argument {', '.join(unknown)}")
    if ours := sorted(set(arguments) & _OURS):
        raise UsageError(f"trainer: {', '.join(ours)} is decided by the comparison, by its budget among others")
    if arguments.get("limit_val_batches") == 0:
        raise UsageError(
            "trainer: limit_val_batches is 0, expected at least one batch: every arm is judged by its validation loss"
        )
    accumulated = arguments.get("accumulate_grad_batches", 1)
    if not isinstance(accumulated, int) or accumulated < 1:
        raise UsageError(f"trainer: accumulate_grad_batches is {accumulated!r}, expected a number of at least 1")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "devices": 1}
    told = logging.getLogger("lightning.pytorch")
    level = told.level
    told.setLevel(logging.WARNING)  # which devices there are is of interest where it trains
    try:
        Trainer(**(quiet | {name: value for name, value in arguments.items() if name not in _GLOBAL}))
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
    finally:
        told.setLevel(level)


def _read(data: SequenceDataModule, name: str, paths: Any) -> tuple[Any, ...]:
    if paths is None:
        raise UsageError(f"tests: {name} names no file")
    columns = data.read_all(paths)
    if not columns[0]:
        raise DataError(f"{name}: no example in {paths}, expected at least one")
    return columns


def _check_metric(comparison: Comparison, data: SequenceDataModule, columns: tuple[Any, ...]) -> None:
    """Whether the metric that decides can say anything of the test set that decides."""
    try:
        text_metrics(comparison.bleu_tokenizers)
        bleu_tells = len(columns) != 2 or bleu_can_tell(comparison.bleu_tokenizers, columns[1])
    except (ImportError, RuntimeError, OSError) as error:  # a package that is not there, or a model to download
        raise UsageError(f"bleu_tokenizers: {' '.join(str(error).split())}") from error
    plain_text = len(columns) != 2 and not isinstance(data, ConversationDataModule)
    if plain_text and comparison.metric in ("bleu", "chrf", "exact_match"):
        raise UsageError(
            f"metric is {comparison.metric}, and plain text has no one right output: expected bits_per_byte"
        )
    if comparison.metric == "bleu" and not bleu_tells:
        raise UsageError(
            "metric is bleu, which is 0 whatever is generated, for no reference of the test set has four words: expected"
            " another metric, such as chrf or exact_match, or another of bleu_tokenizers, such as char"
        )
