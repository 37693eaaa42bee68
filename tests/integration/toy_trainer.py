"""A data module of given batches, and a quiet trainer on the CPU."""

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from models.toy_batches import pairs


class Batches(LightningDataModule):
    """Serves lists of rows as batches; with several ranks each takes every other row of a batch."""

    def __init__(self, collate, train, val=(), test=()):
        super().__init__()
        self.collate, self.rows = collate, {"train": train, "val": val, "test": test}

    def loader(self, split):
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader([self.collate(rows[rank::ranks]) for rows in self.rows[split]], batch_size=None)

    def train_dataloader(self):
        return self.loader("train")

    def val_dataloader(self):
        return self.loader("val")

    def test_dataloader(self):
        return self.loader("test")

    def predict_dataloader(self):
        return self.loader("test")


def uneven_batches(count, seed=0):
    """Batches of 2 to 6 rows, each row of 1 to 8 tokens: no two have the same number of labels by design."""
    return [pairs(2 + (3 * i) % 5, seed=seed + i) for i in range(count)]


def trainer(**options):
    """With `limit_val_batches=0` where there is nothing to validate on: Lightning warns of an empty loader."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "max_epochs": 1,
    }
    return Trainer(**(defaults | options))


def sgd(parameters):
    # Plain gradient descent: what a step changes is the gradient, so equal weights mean equal gradients.
    return torch.optim.SGD(parameters, lr=0.5)


def constant(optimizer):
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
