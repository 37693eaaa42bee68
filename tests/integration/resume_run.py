"""A small training with everything that has a state: dropout, AdamW, a schedule, an average, accumulation, workers.

As a script: `resume_run.py DIRECTORY KILL_AT WORKERS SAVED` trains and kills itself in the middle of micro-batch
KILL_AT. Checkpoints are SAVED after every second `step`, or after each `validation`, which comes between two micro-batches of a step as well.
"""

import os
import signal
import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from integration.toy_trainer import trainer
from litseq.data import PairDataModule
from litseq.models import EncoderDecoder

EPOCHS, SAVED_EVERY = 3, 2


class Kill(Callback):
    """No handler runs, nothing is flushed: as when the machine goes away."""

    def __init__(self, at):
        self.at, self.seen = at, 0

    def on_before_optimizer_step(self, *_):
        self.maybe()

    def on_after_backward(self, *_):
        self.seen += 1
        self.maybe()

    def maybe(self):
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class Final(Callback):
    """Keeps what training ended with, before the average takes the place of the weights."""

    def on_train_end(self, trainer, pl_module):
        self.state = {
            "current": {name: value.clone() for name, value in pl_module.state_dict().items()},
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        }


def write_data(directory):
    lines = [f"{'ab' * (i % 9)}{i}\t{i}{'cd' * (i % 7)}\n" for i in range(120)]
    (Path(directory) / "train.tsv").write_text("".join(lines))
    (Path(directory) / "val.tsv").write_text("".join(lines[:20]))


def run(directory, checkpoint=None, kill_at=None, workers=0, saved="step", schedule="cosine", **limits):
    """Train to the end, or to death; the module and the trainer."""
    torch.set_num_threads(1)  # the order of sums depends on it
    lightning.seed_everything(5, verbose=False)
    directory = Path(directory)
    data = PairDataModule(
        train=str(directory / "train.tsv"), val=str(directory / "val.tsv"), tokenizer_kind="char", max_tokens=256,
        num_workers=workers,
    )  # fmt: skip
    module = EncoderDecoder(
        vocab_size=data.vocab_size, embed_dim=16, num_layers=1, num_heads=2, max_seq_len=64, dropout=0.3,
        warmup_steps=3, schedule=schedule, learning_rate=1e-2,
    )  # fmt: skip
    every = {"step": {"every_n_train_steps": SAVED_EVERY}, "validation": {}, "epoch": {"save_on_train_epoch_end": True}}
    saver = ModelCheckpoint(directory, filename="{step}", save_last=True, **every[saved])
    callbacks = [Final(), EMAWeightAveraging(decay=0.8), saver]
    if kill_at is not None:
        callbacks.append(Kill(kill_at))
    trained = trainer(
        **{"max_epochs": EPOCHS} | limits, accumulate_grad_batches=2, gradient_clip_val=1.0, callbacks=callbacks,
        enable_checkpointing=True, val_check_interval=3, default_root_dir=directory,
    )  # fmt: skip
    trained.fit(module, data, ckpt_path=checkpoint, weights_only=checkpoint is not None or None)
    return module, trained


def state_of(module, trained):
    """All that decides how training goes on: weights, those of the average (left behind), optimizer, schedule."""
    final = next(callback for callback in trained.callbacks if isinstance(callback, Final))
    return {"average": module.state_dict(), "step": trained.global_step} | final.state


if __name__ == "__main__":
    run(sys.argv[1], kill_at=int(sys.argv[2]), workers=int(sys.argv[3]), saved=sys.argv[4])
