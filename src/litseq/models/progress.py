"""Where a run stands in its epoch, as its checkpoints say it."""

from typing import Any

from lightning.pytorch import Trainer


def reopen_epoch(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Undo that Lightning counts an epoch as done in which `max_steps`, `max_time` or a callback ended the run.

    Whoever extends such a run would skip the rest of the epoch. Counted as one that goes on, it is resumed like any
    checkpoint out of the middle of an epoch.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop")
    if loop is None:
        return
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    unread = not batches["is_last_batch"] and 0 < batches["current"]["ready"] < trainer.num_training_batches
    if unread and epochs["current"]["processed"] == epochs["current"]["ready"]:
        checkpoint["epoch"] -= 1
        for count in epochs["current"], epochs["total"]:
            count["completed"] = count["processed"] = count["ready"] - 1


def close_epoch(checkpoint: dict[str, Any], trainer: Trainer) -> None:
    """Count an epoch as done of which the last batch is: Lightning, resuming, tells that by the epoch's length.

    A stream has none. The next epoch's batches would be numbered on from the last one's, and so be seeded otherwise.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop")
    if loop is None or trainer.num_training_batches != float("inf"):
        return
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
    within = batches["current"]["completed"] < batches["current"]["processed"]
    if batches["is_last_batch"] and within and epochs["current"]["processed"] < epochs["current"]["ready"]:
        for which in "current", "total":
            batches[which]["completed"] += 1
            epochs[which]["processed"] += 1
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
