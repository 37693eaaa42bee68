"""What a Lightning user expects of any module."""

import math

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint

from integration.toy_trainer import Batches, sgd, trainer, uneven_batches
from litseq.callbacks import CompileLayers
from litseq.errors import UsageError
from litseq.text import Tokenizer
from models.toy_batches import (
    TINY,
    decoder_only_batch,
    encoder_decoder_batch,
    pairs,
    tiny_decoder_only,
    tiny_encoder_decoder,
)
from models.user_models import OwnDecoder

COMPILE = CompileLayers(backend="eager")
KINDS = [(tiny_encoder_decoder, encoder_decoder_batch), (tiny_decoder_only, decoder_only_batch)]
kinds = pytest.mark.parametrize(("make", "collate"), KINDS, ids=["encoder-decoder", "decoder-only"])


def data(collate, train=4):
    return Batches(collate, uneven_batches(train), val=uneven_batches(2, seed=50), test=uneven_batches(2, seed=70))


@kinds
def test_fast_dev_run(make, collate):
    run = trainer(fast_dev_run=True)
    run.fit(make(), data(collate))
    assert {"train/loss", "val/loss", "val/perplexity", "val/accuracy"} <= run.callback_metrics.keys()


@kinds
def test_overfits_a_batch_and_tests_the_best_checkpoint(make, collate, tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val/loss", filename="best")
    run = trainer(
        max_epochs=40,
        overfit_batches=1,
        callbacks=[best],
        enable_checkpointing=True,
        default_root_dir=tmp_path,
        gradient_clip_val=1.0,
    )
    module = make(learning_rate=3e-2, warmup_steps=5)
    rows = uneven_batches(1)
    run.fit(module, Batches(collate, rows, val=rows, test=rows))
    assert run.callback_metrics["val/loss"] < 0.5
    (tested,) = run.test(module, datamodule=Batches(collate, [], test=rows), ckpt_path="best", verbose=False)
    assert tested["test/loss"] == pytest.approx(float(best.best_model_score))
    assert tested["test/perplexity"] == pytest.approx(math.exp(tested["test/loss"]), rel=1e-4)
    assert 0.8 < tested["test/accuracy"] <= 1


@kinds
def test_bfloat16(make, collate):
    exact, mixed = trainer(), trainer(precision="bf16-mixed")
    single, module = make(), make()
    exact.fit(single, data(collate))
    mixed.fit(module, data(collate))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    # Not by the loss, which is now and then the same in its last bit.
    pairs_of = zip(single.parameters(), module.parameters(), strict=True)
    assert not all(torch.equal(ours, theirs) for ours, theirs in pairs_of)
    assert abs(exact.callback_metrics["val/loss"] - mixed.callback_metrics["val/loss"]) < 0.05


@kinds
def test_callbacks_see_mean_losses(make, collate):
    class Outputs(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append((float(outputs["loss"]), float(trainer.callback_metrics["train/loss"])))

    outputs = Outputs()
    trainer(limit_val_batches=0, callbacks=[outputs]).fit(make(), data(collate))
    for loss, logged in outputs.seen:
        assert loss == pytest.approx(logged)


@pytest.mark.filterwarnings("ignore")  # dynamo hides its own warnings, which does not help where they are errors
def test_compiled():
    run, plain = (trainer(max_steps=2, limit_val_batches=0) for _ in range(2))
    # "eager" traces and runs what was traced; the C++ behind "inductor" is torch's matter and takes a minute.
    module = torch.compile(tiny_encoder_decoder(optimizer=sgd), backend="eager")
    run.fit(module, data(encoder_decoder_batch, train=2))
    plain.fit(tiny_encoder_decoder(optimizer=sgd), data(encoder_decoder_batch, train=2))
    compiled, eager = run.callback_metrics["train/loss"], plain.callback_metrics["train/loss"]
    assert float(compiled) == pytest.approx(float(eager), abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # dynamo's, as above
def test_layers_compiled_by_a_callback_train_alike_and_are_plain_again():
    run, plain = (trainer(max_steps=2, limit_val_batches=0, callbacks=callbacks) for callbacks in ([COMPILE], []))
    module, names, compiled = tiny_decoder_only(optimizer=sgd), [], []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            names[:] = pl_module.state_dict()
            compiled.append(pl_module.decoder.layers[0]._compiled_call_impl is not None)

    run.callbacks.append(Look())
    run.fit(module, data(decoder_only_batch, train=2))
    plain.fit(tiny_decoder_only(optimizer=sgd), data(decoder_only_batch, train=2))
    assert float(run.callback_metrics["train/loss"]) == pytest.approx(
        float(plain.callback_metrics["train/loss"]), abs=1e-6
    )
    assert names == list(tiny_decoder_only().state_dict())
    assert compiled == [True, True]
    assert module.decoder.layers[0]._compiled_call_impl is None


@kinds
def test_several_loaders_are_measured_apart(make, collate):
    class Two(Batches):
        def val_dataloader(self):
            return [self.loader("val"), self.loader("test")]

        test_dataloader = predict_dataloader = val_dataloader

    module = make()
    both, first, second = (uneven_batches(2, seed=seed) for seed in (0, 50, 70))
    run = trainer(max_epochs=2)
    run.fit(module, Two(collate, both, val=first, test=second))
    alone = [trainer().validate(module, Batches(collate, [], val=rows), verbose=False)[0] for rows in (first, second)]
    assert alone[0]["val/loss"] != alone[1]["val/loss"]
    for stage, measured in (("val", run.callback_metrics), ("test", None)):
        if measured is None:
            of_loaders = trainer().test(module, Two(collate, [], val=first, test=second), verbose=False)
            measured = of_loaders[0] | of_loaders[1]
        for i, expected in enumerate(alone):
            for name in "loss", "perplexity", "accuracy":
                found = float(measured[f"{stage}/{name}/dataloader_idx_{i}"])
                assert found == pytest.approx(expected[f"val/{name}"], rel=1e-5)
    predicted = trainer().predict(module, Two(collate, [], val=first, test=second))
    assert [len(batches) for batches in predicted] == [2, 2]


@kinds
def test_predict_gives_ids_and_with_a_tokenizer_text(make, collate):
    module = make()
    ids = trainer().predict(module, data(collate))
    assert [len(batch) for batch in ids] == [len(rows) for rows in uneven_batches(2, seed=70)]
    assert all(isinstance(token, int) for batch in ids for row in batch for token in row)

    tokenizer = Tokenizer.train(["a b c d e f g h i j k l m"], vocab_size=23, kind="char")
    module.record.tokenizer_json = tokenizer.to_json()
    texts = trainer().predict(module, data(collate))
    assert texts == [[tokenizer.decode(row) for row in batch] for batch in ids]


def test_a_subclass_decides_on_the_defaults_of_generation():
    torch.manual_seed(0)
    rows = trainer().predict(OwnDecoder(**TINY), data(decoder_only_batch))
    assert max(len(row) for batch in rows for row in batch) == 5


def test_injected_optimizer_and_schedule():
    def step_lr(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    run = trainer(limit_val_batches=0)
    run.fit(tiny_decoder_only(optimizer=sgd, scheduler=step_lr), data(decoder_only_batch, train=3))
    assert type(run.optimizers[0]) is torch.optim.SGD
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * 0.5**3)  # once a step, not once an epoch
    assert [group["weight_decay"] for group in run.optimizers[0].param_groups] == [0, 0.0]


def test_plateau_schedule_watches_the_validation():
    def plateau(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=100.0, factor=0.1)

    run = trainer(max_epochs=3)
    run.fit(tiny_decoder_only(optimizer=sgd, scheduler=plateau), data(decoder_only_batch, train=1))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * 0.1**3)  # no epoch is 100 times better


class Rates(Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_cosine_falls_to_zero_at_the_last_step():
    rates = Rates()
    run = trainer(max_epochs=3, limit_val_batches=0, callbacks=[rates], accumulate_grad_batches=2)
    run.fit(tiny_decoder_only(schedule="cosine", warmup_steps=2, learning_rate=0.1), data(decoder_only_batch, train=4))
    assert run.global_step == 6
    assert max(rates.rates) == pytest.approx(0.1)
    assert rates.rates[-1] == pytest.approx(0.0)


def test_cosine_falls_to_zero_at_the_end_of_the_time():
    rates = Rates()
    run = trainer(
        max_epochs=None, max_time={"seconds": 2}, limit_val_batches=0, callbacks=[rates], num_sanity_val_steps=0
    )
    run.fit(tiny_decoder_only(schedule="cosine", warmup_steps=1, learning_rate=0.1), data(decoder_only_batch, train=4))
    assert rates.rates[0] > 0.08
    assert rates.rates[-1] < 0.01
    assert sorted(rates.rates[1:], reverse=True) == rates.rates[1:]


def test_cosine_without_an_end_is_refused():
    run = trainer(max_epochs=-1, limit_val_batches=0)
    with pytest.raises(UsageError, match="set max_epochs, max_steps or max_time"):
        run.fit(tiny_decoder_only(schedule="cosine"), data(decoder_only_batch))


def test_a_vocabulary_that_does_not_fit_is_refused_before_training():
    class Wide(Batches):
        vocab_size = 24

    with pytest.raises(UsageError, match=r"data has 24 tokens, the model vocab_size 23.*vocab_size=24"):
        trainer().fit(tiny_decoder_only(), Wide(decoder_only_batch, uneven_batches(1)))


def test_another_tokenizer_than_the_trained_one_is_refused():
    class Data(Batches):
        def __init__(self, letters):
            super().__init__(decoder_only_batch, uneven_batches(1), test=uneven_batches(1))
            self.tokenizer = Tokenizer.train([letters], vocab_size=23, kind="char")
            self.vocab_size = self.tokenizer.vocab_size

    module = tiny_decoder_only()
    trainer(limit_val_batches=0).fit(module, Data("a b c"))
    trainer().test(module, Data("a b c"), verbose=False)
    with pytest.raises(UsageError, match="not the one the model was trained with"):
        trainer().test(module, Data("x y z"), verbose=False)


def test_resumes_where_it_stopped(tmp_path):
    def module():
        return tiny_encoder_decoder(warmup_steps=3, learning_rate=1e-2)

    straight = module()
    trainer(max_epochs=4, limit_val_batches=0).fit(straight, data(encoder_decoder_batch))
    first, second = trainer(max_epochs=2, limit_val_batches=0), trainer(max_epochs=4, limit_val_batches=0)
    first.fit(module(), data(encoder_decoder_batch))
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = module()
    second.fit(resumed, data(encoder_decoder_batch), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_any_data_module_will_do():
    class Foreign(LightningDataModule):
        def train_dataloader(self):
            return torch.utils.data.DataLoader([decoder_only_batch(pairs(2, seed=1))], batch_size=None)

    module = tiny_decoder_only()
    trainer(limit_val_batches=0).fit(module, Foreign())
    assert module.record.tokenizer_json is None


def test_a_strategy_that_hides_gradients_is_named():
    module = tiny_decoder_only()
    module._window.add(module.compute_loss(decoder_only_batch(pairs(2, seed=1))))
    module._trainer = trainer()
    with pytest.raises(RuntimeError, match=r"no parameter has a gradient under SingleDeviceStrategy.*ddp"):
        module.on_before_optimizer_step(None)
