"""A trainer that ends with a bundle: of which weights, and when not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from litseq.bundle import open_bundle
from litseq.callbacks import OnnxExport
from litseq.data import PairDataModule
from litseq.errors import UsageError
from litseq.models import EncoderDecoder, load_module


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "pairs.tsv"
    file.write_text("".join(f"{a} {b}\t{b} {a}\n" for a in "abcdefgh" for b in "abcdefgh"))
    return file


class Recorder(lightning.Callback):
    """Keeps a weight at every validation."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, torch.Tensor]] = []

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking:
            loss = float(trainer.callback_metrics["val/loss"])
            self.seen.append((loss, pl_module.encoder.final_norm.weight.detach().clone()))


class Spoiler(lightning.Callback):
    """Makes the last weights worse, so that best and last differ."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch == trainer.max_epochs - 1:
            pl_module.decoder.embedding.weight.data.normal_(0, 3)


def fit(pairs: Path, directory: Path, *callbacks: lightning.Callback, **options: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    module = EncoderDecoder(
        vocab_size=40, embed_dim=32, num_layers=1, num_heads=2, max_seq_len=24, warmup_steps=1, schedule="constant",
    )  # fmt: skip
    data = PairDataModule(train=str(pairs), val_fraction=0.2, vocab_size=40, max_tokens=128)
    trainer = lightning.Trainer(
        **{"max_epochs": 4, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        | {"accelerator": "cpu", "default_root_dir": directory, "callbacks": list(callbacks)}
        | {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)}
        | options
    )
    trainer.fit(module, data)
    return module


def norm_in(bundle: Path) -> np.ndarray:
    """The encoder's final norm as the bundle has it: small enough to stand in the graph."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(bundle / "encoder.onnx", load_external_data=False).graph
    return next(numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("final_norm.weight"))


@pytest.mark.parametrize("keeps_checkpoints", [False, True])
def test_the_best_weights_are_exported(pairs: Path, tmp_path: Path, keeps_checkpoints: bool) -> None:
    recorder = Recorder()
    saver = [ModelCheckpoint(tmp_path / "checkpoints", monitor="val/loss")] if keeps_checkpoints else []
    fit(pairs, tmp_path, Spoiler(), recorder, OnnxExport(str(tmp_path / "b"), monitor="val/loss"), *saver)
    loss, weight = min(recorder.seen, key=lambda seen: seen[0])
    assert loss < recorder.seen[-1][0], "the last weights are the best: this test tests nothing"
    np.testing.assert_allclose(norm_in(tmp_path / "b"), weight.numpy(), atol=1e-6)
    metrics = open_bundle(tmp_path / "b").manifest.provenance["metrics"]
    assert metrics["val/loss"] == pytest.approx(loss, abs=1e-5)


def test_the_last_weights_are_exported(pairs: Path, tmp_path: Path) -> None:
    module = fit(pairs, tmp_path, OnnxExport(str(tmp_path / "b")))
    np.testing.assert_allclose(norm_in(tmp_path / "b"), module.encoder.final_norm.weight.detach().numpy(), atol=1e-6)
    assert open_bundle(tmp_path / "b").manifest.prompt_format["suffix_ids"] == [2]


def test_the_averaged_weights_are_exported(pairs: Path, tmp_path: Path) -> None:
    current = []

    class Current(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
            current[:] = [pl_module.encoder.final_norm.weight.detach().clone()]

    saver = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    fit(
        pairs, tmp_path, EMAWeightAveraging(decay=0.9), OnnxExport(str(tmp_path / "b"), weights="ema"), saver, Current()
    )
    average = load_module(tmp_path / "checkpoints" / "last.ckpt").encoder.final_norm.weight.detach()
    np.testing.assert_allclose(norm_in(tmp_path / "b"), average.numpy(), atol=1e-6)
    assert not torch.allclose(average, current[0], atol=1e-4)


def test_no_bundle_of_a_dev_run(pairs: Path, tmp_path: Path) -> None:
    fit(pairs, tmp_path, OnnxExport(str(tmp_path / "b"), monitor="val/loss"), fast_dev_run=True)
    assert not (tmp_path / "b").exists()


def test_what_would_fail_at_the_end_is_refused_at_the_beginning(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="no bundle"):
        fit(pairs, tmp_path, OnnxExport(str(tmp_path / "b")))
    with pytest.raises(UsageError, match="EMAWeightAveraging"):
        fit(pairs, tmp_path, OnnxExport(str(tmp_path / "c"), weights="ema"))
    with pytest.raises(UsageError, match="has met no tokenizer"):
        module = EncoderDecoder(vocab_size=40, embed_dim=8, num_layers=1, num_heads=2)
        options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", "max_steps": 1}
        lightning.Trainer(callbacks=[OnnxExport(tmp_path / "c")], **options).fit(module, [{}])
    with pytest.raises(ValueError, match="needs monitor"):
        OnnxExport("b", weights="best")
    with pytest.raises(ValueError, match="expected best, last, average or ema"):
        OnnxExport("b", weights="worst")
    with pytest.raises(UsageError, match="was not logged"):
        fit(pairs, tmp_path, OnnxExport(str(tmp_path / "c"), monitor="val/bleu"))


TWO_RANKS = """
import sys
import lightning
from litseq.callbacks import OnnxExport
from litseq.data import PairDataModule
from litseq.models import EncoderDecoder

if __name__ == "__main__":
    lightning.seed_everything(0)
    model = EncoderDecoder(vocab_size=40, embed_dim=32, num_layers=1, num_heads=2, max_seq_len=24)
    data = PairDataModule(train=sys.argv[1], val_fraction=0.2, vocab_size=40, max_tokens=128)
    trainer = lightning.Trainer(
        max_steps=2, val_check_interval=1, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, callbacks=[OnnxExport(sys.argv[2], monitor="val/loss")],
    )
    trainer.fit(model, data)
"""


def test_rank_zero_exports_and_the_other_waits(pairs: Path, tmp_path: Path, start: Any) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    process = start([sys.executable, str(script), str(pairs), str(tmp_path / "b")], stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert open_bundle(tmp_path / "b").manifest.parity["passed"] is True
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "two_ranks.py"]
