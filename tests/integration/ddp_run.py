"""Trains on one or two processes over the same global batches; run as a script for two."""

import sys

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import _ForwardRedirection
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from integration.toy_trainer import Batches, constant, sgd, trainer, uneven_batches
from litseq.data import PairDataModule
from litseq.models import EncoderDecoder
from litseq.models.sharding import shard_layers
from litseq.models.window import TokenWindow
from models.toy_batches import encoder_decoder_batch, pairs, tiny_encoder_decoder


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


def train_on_file(devices, path):
    """An odd number of pairs of uneven lengths, batched by the data module: one process takes two batches a step."""
    torch.manual_seed(0)
    data = PairDataModule(train=str(path), tokenizer_kind="char", max_tokens=192)
    module = EncoderDecoder(
        vocab_size=data.vocab_size, embed_dim=16, num_layers=1, num_heads=2, max_seq_len=64, dropout=0.0,
        warmup_steps=2, learning_rate=1e-2,
    )  # fmt: skip
    losses = Losses()
    run = trainer(
        devices=devices, strategy="ddp" if devices > 1 else "auto", accumulate_grad_batches=1 if devices > 1 else 2,
        max_epochs=2, limit_val_batches=0, gradient_clip_val=1.0, callbacks=[losses],
    )  # fmt: skip
    run.fit(module, data)
    return losses.steps


class Ranks:
    """What `TokenWindow` asks of a trainer, over the process group that Lightning left behind."""

    accumulate_grad_batches = 1
    world_size = 2

    class strategy:
        @staticmethod
        def reduce(tensor, reduce_op):
            torch.distributed.all_reduce(tensor)
            return tensor


def sharded_gradients():
    """Gradients of layers sharded as `configure_model` does it under FSDP2, each rank on half of the rows.

    Lightning's strategy refuses a CPU, so its parts are called one by one.
    """
    module = tiny_encoder_decoder(num_layers=2)
    names = [name for name, _ in module.named_parameters()]
    strategy = ModelParallelStrategy()
    strategy._device_mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    shard_layers(module, strategy)
    shard_layers(module, strategy)  # an averaging callback calls `configure_model` once more
    batch = encoder_decoder_batch(pairs(6, seed=1)[torch.distributed.get_rank() :: 2])
    window = TokenWindow()
    window.add(loss := _ForwardRedirection()(module, module, "compute_loss", batch)).backward()
    assert loss.token_count > 0
    window.close(Ranks, module.parameters())
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(isinstance(gradient, DTensor) for gradient in gradients)
    return dict(zip(names, (gradient.full_tensor() for gradient in gradients), strict=True))


def plain_gradients():
    """The same of one process, by the mean over all tokens."""
    module = tiny_encoder_decoder(num_layers=2)
    loss = module.compute_loss(encoder_decoder_batch(pairs(6, seed=1)))
    (loss.loss_sum / loss.token_count).backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


if __name__ == "__main__":
    run, result = train(devices=2)
    assert run.world_size == 2
    result["file losses"] = train_on_file(2, sys.argv[2])
    result["sharded"] = sharded_gradients()
    if run.is_global_zero:
        torch.save(result, sys.argv[1])
