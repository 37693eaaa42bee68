"""The gradient of an optimizer step is that of the mean over its tokens, however they were batched."""

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn import functional

from integration.toy_trainer import Batches, constant, sgd, trainer, uneven_batches
from models.toy_batches import decoder_only_batch, encoder_decoder_batch, tiny_decoder_only, tiny_encoder_decoder


class Recorder(Callback):
    """Keeps the logged loss of every optimizer step."""

    def __init__(self):
        self.losses = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        if "train/loss" in trainer.callback_metrics:
            self.losses.append(float(trainer.callback_metrics["train/loss"]))


def fit(module, datamodule, **options):
    run = trainer(limit_val_batches=0, **options)
    run.fit(module, datamodule)
    return run


def weights(module):
    return torch.nn.utils.parameters_to_vector(module.parameters()).detach()


def joined(batches, sizes):
    rows = iter(batches)
    return [[row for _ in range(size) for row in next(rows)] for size in sizes]


MODULES = [(tiny_encoder_decoder, encoder_decoder_batch), (tiny_decoder_only, decoder_only_batch)]


@pytest.mark.parametrize(("make", "collate"), MODULES, ids=["encoder-decoder", "decoder-only"])
@pytest.mark.parametrize("clip", [None, 0.2], ids=["free", "clipped"])
def test_accumulated_micro_batches_equal_one_batch(make, collate, clip):
    micro = uneven_batches(6)  # two windows, the second incomplete
    one, many = make(optimizer=sgd, scheduler=constant), make(optimizer=sgd, scheduler=constant)
    start = weights(one)
    fit(one, Batches(collate, joined(micro, [4, 2])), gradient_clip_val=clip)
    fit(many, Batches(collate, micro), gradient_clip_val=clip, accumulate_grad_batches=4)
    assert (weights(one) - start).norm() > 1e-2
    torch.testing.assert_close(weights(many), weights(one), atol=1e-6, rtol=0)


def test_the_gradient_is_that_of_plain_cross_entropy():
    rows = uneven_batches(1)[0]
    module, plain = (tiny_encoder_decoder(optimizer=sgd, scheduler=constant) for _ in range(2))
    fit(module, Batches(encoder_decoder_batch, [rows]))

    batch = encoder_decoder_batch(rows)
    logits = plain(batch["input_ids"], batch["decoder_input_ids"], batch["attention_mask"])
    functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()).backward()
    sgd(plain.parameters()).step()
    torch.testing.assert_close(weights(module), weights(plain), atol=1e-6, rtol=0)


def test_logged_losses_are_means_over_the_tokens_of_a_step():
    micro = uneven_batches(6)
    one, many = Recorder(), Recorder()
    modules = [tiny_decoder_only(optimizer=sgd, scheduler=constant) for _ in range(2)]
    a = fit(modules[0], Batches(decoder_only_batch, joined(micro, [2, 2, 2])), callbacks=[one])
    b = fit(modules[1], Batches(decoder_only_batch, micro), callbacks=[many], accumulate_grad_batches=2)
    assert len(set(one.losses)) >= 2
    assert sorted(set(many.losses)) == pytest.approx(sorted(set(one.losses)), abs=1e-6)
    for name in ("train/loss", "train/loss_epoch"):
        assert float(b.callback_metrics[name]) == pytest.approx(float(a.callback_metrics[name]), abs=1e-6)


def test_a_batch_without_labels_changes_nothing():
    def collate(rows):
        batch = decoder_only_batch(rows)
        return batch if len(rows) != 2 else {**batch, "labels": torch.full_like(batch["labels"], -100)}

    micro = uneven_batches(2)
    assert [len(rows) for rows in micro] == [2, 5]
    one, two = (tiny_decoder_only(optimizer=sgd, scheduler=constant) for _ in range(2))
    fit(one, Batches(collate, micro[1:]))
    fit(two, Batches(collate, micro), accumulate_grad_batches=2)
    torch.testing.assert_close(weights(two), weights(one), atol=1e-6, rtol=0)
