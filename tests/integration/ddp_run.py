"""Trains on one or two processes over the same global batches; run as a script for two."""

import sys

import torch
from lightning.pytorch import Callback

from integration.toy_trainer import Batches, constant, sgd, trainer, uneven_batches
from models.toy_batches import encoder_decoder_batch, tiny_encoder_decoder


class Losses(Callback):
    def __init__(self):
        self.steps = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if "train/loss" in trainer.callback_metrics:
            self.steps[trainer.global_step] = float(trainer.callback_metrics["train/loss"])


def train(devices):
    """Five batches in windows of two, the last one incomplete; validation on batches of uneven token counts."""
    module = tiny_encoder_decoder(optimizer=sgd, scheduler=constant)
    losses = Losses()
    strategy = "ddp" if devices > 1 else "auto"
    run = trainer(
        devices=devices, strategy=strategy, accumulate_grad_batches=2, gradient_clip_val=0.5, callbacks=[losses]
    )
    run.fit(module, Batches(encoder_decoder_batch, uneven_batches(5), val=uneven_batches(3, seed=50)))
    metrics = {name: float(value) for name, value in run.callback_metrics.items()}
    return run, {"weights": module.state_dict(), "losses": losses.steps, "metrics": metrics}


if __name__ == "__main__":
    run, result = train(devices=2)
    assert run.world_size == 2
    if run.is_global_zero:
        torch.save(result, sys.argv[1])
