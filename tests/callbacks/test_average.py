"""Averages of weights: what is written, exported and refused."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from integration.toy_trainer import Batches, trainer, uneven_batches
from litseq.callbacks import AverageCheckpoints, OnnxExport
from litseq.cli.main import main
from litseq.errors import CheckpointError, UsageError
from litseq.models import average_checkpoints, load_module
from litseq.text import Tokenizer
from models.toy_batches import decoder_only_batch, tiny_decoder_only

# Two callbacks, or a resumed run, write into one directory.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


class Texts(Batches):
    """With a tokenizer, which an export needs."""

    def __init__(self):
        super().__init__(decoder_only_batch, uneven_batches(3), val=uneven_batches(1))
        self.tokenizer = Tokenizer.train(["a b c d e f g h i j k l m n o p q r"], vocab_size=23, kind="char")
        self.vocab_size = self.tokenizer.vocab_size


def fit(directory, *callbacks, epochs=4, checkpoint=None):
    module = tiny_decoder_only(learning_rate=1e-2, warmup_steps=1)
    run = trainer(
        max_epochs=epochs, callbacks=list(callbacks), enable_checkpointing=True, default_root_dir=directory,
        num_sanity_val_steps=0,
    )  # fmt: skip
    run.fit(module, Texts(), ckpt_path=checkpoint, weights_only=checkpoint is not None or None)
    return module


def mean(paths):
    states = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


class Exported:
    """Stands in for `export_bundle`, whose work other tests check: keeps the module it was given."""

    max_error, tolerance, token_agreement, positions, quantization = 0.0, 1e-4, 1.0, 1, None

    def __call__(self, module, tokenizer, directory, **options):
        self.module = module
        return self


def test_the_last_k_are_kept_averaged_and_exported(tmp_path, monkeypatch):
    exported = Exported()
    monkeypatch.setattr("litseq.callbacks.onnx_export.export_bundle", exported)
    fit(tmp_path, AverageCheckpoints(3, str(tmp_path / "c")), OnnxExport(str(tmp_path / "b"), weights="average"))
    kept = sorted((tmp_path / "c").glob("to-average-*.ckpt"))
    assert [path.stem for path in kept] == ["to-average-step=12", "to-average-step=6", "to-average-step=9"]
    averaged = load_module(tmp_path / "c" / "average.ckpt")
    expected = mean(kept)
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)
        assert torch.equal(value, exported.module.state_dict()[name])

    first, last = kept[1], kept[0]
    command = ["average", str(first), str(last), str(tmp_path / "two.ckpt")]
    assert main(command) == 0
    two = torch.load(tmp_path / "two.ckpt", weights_only=True)
    assert two["litseq"]["averaged"] == [first.name, last.name]
    assert "optimizer_states" not in two
    expected = mean([first, last])
    torch.testing.assert_close(two["state_dict"]["decoder.embedding.weight"], expected["decoder.embedding.weight"])
    assert main(command) == 2  # it exists
    assert main([*command, "--force"]) == 0


def test_one_checkpoint_averages_to_itself(tmp_path):
    module = fit(tmp_path, AverageCheckpoints(1, str(tmp_path)), epochs=1)
    for name, value in load_module(tmp_path / "average.ckpt").state_dict().items():
        assert torch.equal(value, module.state_dict()[name])


# It resumes in another directory, as is meant.
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_averages_what_the_stopped_one_has_kept(tmp_path):
    def callbacks(name):
        return ModelCheckpoint(tmp_path / name, save_last=True), AverageCheckpoints(3, str(tmp_path / name))

    fit(tmp_path, *callbacks("a"), epochs=2)
    fit(tmp_path, *callbacks("b"), epochs=3, checkpoint=tmp_path / "a" / "last.ckpt")
    averaged = torch.load(tmp_path / "b" / "average.ckpt", weights_only=True)["litseq"]["averaged"]
    assert averaged == ["to-average-step=3.ckpt", "to-average-step=6.ckpt", "to-average-step=9.ckpt"]


# The toy loader cannot resume; the place in the data is not what is tested.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")
def test_a_run_resumed_inside_an_accumulation_keeps_no_step_twice(tmp_path):
    inside = tmp_path / "inside.ckpt"

    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 3:
                trainer.save_checkpoint(inside, weights_only=False)

    for extra, checkpoint in ([Save()], None), ([], inside):
        average = AverageCheckpoints(9, str(tmp_path), every_n_train_steps=1)
        run = trainer(
            callbacks=[average, *extra], enable_checkpointing=True, accumulate_grad_batches=3, limit_val_batches=0
        )
        data = Batches(decoder_only_batch, uneven_batches(6))
        run.fit(tiny_decoder_only(), data, ckpt_path=checkpoint, weights_only=checkpoint is not None or None)
        assert sorted(Path(path).stem for path in average.best_k_models) == ["to-average-step=1", "to-average-step=2"]
        (tmp_path / "to-average-step=2.ckpt").unlink()  # as where the run was killed at `inside`


def test_the_running_average_or_the_raw_weights_are_exported(tmp_path, capsys, monkeypatch):
    exported, plain = Exported(), tmp_path / "plain.ckpt"
    monkeypatch.setattr("litseq.export.export_bundle", exported)
    run = trainer(callbacks=[EMAWeightAveraging(decay=0.9)], limit_val_batches=0, max_epochs=2)
    run.callbacks[0].on_train_epoch_end = lambda *_: run.save_checkpoint(tmp_path / "ema.ckpt", weights_only=False)
    run.fit(tiny_decoder_only(learning_rate=1e-2, warmup_steps=1), Texts())
    averaged, raw = (load_module(tmp_path / "ema.ckpt", weights=which) for which in ("averaged", "current"))
    assert not torch.equal(averaged.decoder.embedding.weight, raw.decoder.embedding.weight)
    for arguments, wanted in (["--weights=ema"], averaged), ([], averaged), (["--weights=raw"], raw):
        assert main(["export", str(tmp_path / "ema.ckpt"), str(tmp_path / "b"), *arguments]) == 0
        assert torch.equal(exported.module.decoder.embedding.weight, wanted.decoder.embedding.weight)

    run = trainer(limit_val_batches=0)
    run.fit(tiny_decoder_only(), Texts())
    run.save_checkpoint(plain)
    capsys.readouterr()
    assert main(["export", str(plain), str(tmp_path / "none"), "--weights", "ema"]) == 2
    assert "holds no running average" in capsys.readouterr().err


def test_what_cannot_be_averaged_is_refused(tmp_path):
    paths = []
    for width in (16, 32):
        run = trainer(limit_val_batches=0)
        run.fit(tiny_decoder_only(embed_dim=width), Texts())
        paths.append(tmp_path / f"{width}.ckpt")
        run.save_checkpoint(paths[-1])
    with pytest.raises(CheckpointError, match=r"are not of one model: they differ in decoder\..* and more"):
        average_checkpoints(paths, tmp_path / "out.ckpt")
    assert not (tmp_path / "out.ckpt").exists()
    with pytest.raises(CheckpointError, match="does not exist"):
        average_checkpoints([tmp_path / "missing.ckpt"], tmp_path / "out.ckpt")
    with pytest.raises(UsageError, match="no checkpoint to average"):
        average_checkpoints([], tmp_path / "out.ckpt")
    with pytest.raises(ValueError, match="expected at least 1"):
        AverageCheckpoints(0)
    with pytest.raises(UsageError, match=r"add litseq\.callbacks\.AverageCheckpoints"):
        fit(tmp_path, OnnxExport(str(tmp_path / "b"), weights="average"))
