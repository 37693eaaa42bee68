import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging

from integration.toy_trainer import Batches, constant, sgd, trainer, uneven_batches
from litseq.errors import CheckpointError
from litseq.models import DecoderOnly, EncoderDecoder, load_module
from litseq.models.class_path import class_path_of, resolve_class
from models.toy_batches import TINY, decoder_only_batch, encoder_decoder_batch, pairs
from models.user_models import Outer, OwnDecoder, SameWeights


def saved(module, path, **options):
    """Train two steps and save."""
    collate = encoder_decoder_batch if module.architecture == "encoder-decoder" else decoder_only_batch
    run = trainer(limit_val_batches=0, **options)
    run.fit(module, Batches(collate, uneven_batches(2)))
    run.save_checkpoint(path, weights_only=False)
    return path


def same_weights(module, other):
    ours, theirs = module.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "make",
    [
        partial(EncoderDecoder, num_decoder_layers=2, share_embeddings=False),
        partial(DecoderOnly, prefix_lm=True),
        partial(OwnDecoder, depth=2),
        partial(SameWeights, weight=3.0),
        Outer.Nested,
    ],
    ids=["encoder-decoder", "decoder-only", "own-decoder", "same-weights", "nested"],
)
def test_comes_back_as_what_it_was(make, tmp_path):
    module = make(**TINY, optimizer=sgd, scheduler=constant)
    again = load_module(saved(module, tmp_path / "a.ckpt"))
    assert type(again) is type(module)
    assert same_weights(again, module)
    assert not again.training
    assert dict(again.hparams) == {k: v for k, v in module.hparams.items() if k not in ("optimizer", "scheduler")}


def test_numbers_of_numpy_and_paths_are_plain_in_a_checkpoint(tmp_path):
    class Data(Batches):
        def __init__(self, root, sizes):
            super().__init__(encoder_decoder_batch, uneven_batches(2))
            self.save_hyperparameters()

    options = {"learning_rate": np.float64(0.01), "weight_decay": np.float32(0.5), "warmup_steps": np.int64(1)}
    module = SameWeights(**TINY | options | {"embed_dim": np.int64(TINY["embed_dim"])}, weight=np.float32(0.5))
    run = trainer(limit_val_batches=0)
    run.fit(module, Data(tmp_path, [np.int64(1), {"a": np.arange(2)}]))
    run.save_checkpoint(tmp_path / "a.ckpt")
    assert type(load_module(tmp_path / "a.ckpt").hparams["embed_dim"]) is int
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["datamodule_hyper_parameters"] == {"root": str(tmp_path), "sizes": [1, {"a": [0, 1]}]}


def test_class_paths_are_those_of_the_public_door():
    assert class_path_of(EncoderDecoder) == "litseq.models.EncoderDecoder"
    assert class_path_of(OwnDecoder) == "models.user_models.OwnDecoder"
    assert class_path_of(Outer.Nested) == "models.user_models.Outer.Nested"
    for cls in (EncoderDecoder, OwnDecoder, Outer.Nested):
        assert resolve_class(class_path_of(cls)) is cls


def test_record_of_a_data_module(tmp_path):
    class Json:
        def to_json(self):
            return "{}"

    class Data(Batches):
        def __init__(self):
            super().__init__(decoder_only_batch, uneven_batches(1))
            self.tokenizer, self.vocab_size = Json(), 23
            self.prompt_format = {"prefix_ids": (1,), "suffix_ids": (4,), "start_ids": ()}
            self.fingerprint = {"files": [{"path": Path("a.tsv"), "bytes": 3}], "dropped": {"too long": 2}}

    run = trainer(limit_val_batches=0)
    run.fit(DecoderOnly(**TINY), Data())
    run.save_checkpoint(tmp_path / "a.ckpt")
    entry = torch.load(tmp_path / "a.ckpt", weights_only=True)["litseq"]
    assert entry == {
        "class_path": "litseq.models.DecoderOnly",
        "litseq_version": entry["litseq_version"],
        "architecture": "decoder-only",
        "tokenizer": "{}",
        "prompt_format": {"prefix_ids": [1], "suffix_ids": [4], "start_ids": []},
        "data": {"files": [{"path": "a.tsv", "bytes": 3}], "dropped": {"too long": 2}},
        "seed": run.lightning_module.record.seed,
        "chat": None,
    }
    record = load_module(tmp_path / "a.ckpt").record
    assert (record.tokenizer_json, record.prompt_format, record.data) == (
        "{}",
        entry["prompt_format"],
        entry["data"],
    )


def test_averaged_weights_are_the_ones_taken(tmp_path):
    module = EncoderDecoder(**TINY, optimizer=sgd, scheduler=constant)
    path = saved(module, tmp_path / "a.ckpt")
    averaging = EMAWeightAveraging(decay=0.5)
    run = trainer(limit_val_batches=0, callbacks=[averaging])
    module = EncoderDecoder(**TINY, optimizer=sgd, scheduler=constant)
    snapshots = {}

    def save(*_):
        run.save_checkpoint(path, weights_only=False)
        snapshots["current"] = {name: value.clone() for name, value in module.state_dict().items()}

    averaging.on_train_epoch_end = save
    run.fit(module, Batches(encoder_decoder_batch, uneven_batches(2)))
    averaged, current = load_module(path), load_module(path, weights="current")
    assert same_weights(averaged, module)  # the callback leaves the average behind
    name = "decoder.embedding.weight"
    assert torch.equal(current.state_dict()[name], snapshots["current"][name])
    assert not torch.equal(averaged.state_dict()[name], current.state_dict()[name])


def test_compiled_layers(tmp_path):
    module = DecoderOnly(**TINY)
    module.decoder.layers[0] = torch.compile(module.decoder.layers[0], backend="eager")
    checkpoint = {}
    assert any("_orig_mod." in name for name in module.state_dict())
    path = saved(DecoderOnly(**TINY), tmp_path / "plain.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = module.state_dict()
    torch.save(checkpoint, tmp_path / "compiled.ckpt")

    plain = load_module(tmp_path / "compiled.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), module.parameters(), strict=True))
    checkpoint = torch.load(path, weights_only=True)
    module.on_load_checkpoint(checkpoint)  # and the other way round: plain weights into compiled layers
    module.load_state_dict(checkpoint["state_dict"])


def replace_class_path(path, class_path, target):
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["litseq"]["class_path"] = class_path
    torch.save(checkpoint, target)
    return target


def test_one_clear_error_for_each_wrong_file(tmp_path):
    def fails(match, path):
        with pytest.raises(CheckpointError, match=match) as caught:
            load_module(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))

    good = saved(DecoderOnly(**TINY), tmp_path / "good.ckpt")
    bad = tmp_path / "bad.ckpt"

    fails("does not exist", tmp_path / "none.ckpt")
    fails("is a directory, expected one checkpoint file", tmp_path)
    for content in (b"", b"not a checkpoint", good.read_bytes()[:-5000]):
        bad.write_bytes(content)
        fails("no checkpoint or is cut short", bad)
    torch.save([1, 2], bad)
    fails("no state_dict", bad)
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6"}, bad)
    fails("none of litseq's", bad)
    torch.save({"state_dict": {}, "litseq": Path("code")}, bad)
    fails("plain types and tensors", bad)
    for class_path, match in {
        "no_such.thing.Model": "no_such.thing.Model cannot be imported: no module no_such.thing here; .* PYTHONPATH",
        "models.user_models.Missing": "no class Missing, expected",
        "a.f.<locals>.Model": "inside a function",
        "collections.OrderedDict": "expected a subclass",
        "litseq.models.EncoderDecoder": "does not fit litseq.models.EncoderDecoder",
    }.items():
        fails(match, replace_class_path(good, class_path, bad))


def test_a_module_that_fails_to_import_says_why(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no luck')\n")
    with pytest.raises(CheckpointError, match="needs the module not_installed_anywhere, which is missing"):
        resolve_class("needs_more.Model")
    with pytest.raises(CheckpointError, match="importing broken raised RuntimeError: no luck"):
        resolve_class("broken.Model")


SCRIPT = """
import sys
import torch
from integration.toy_trainer import Batches, trainer, uneven_batches
from models.toy_batches import TINY, decoder_only_batch
from litseq.models import DecoderOnly, load_module

class Mine(DecoderOnly):
    pass

if __name__ == "__main__":
    run = trainer(limit_val_batches=0)
    run.fit(Mine(**TINY), Batches(decoder_only_batch, uneven_batches(1)))
    run.save_checkpoint("mine.ckpt")
    assert type(load_module("mine.ckpt")) is Mine
"""


def test_a_class_of_a_script_is_found_under_the_name_of_its_file(tmp_path, monkeypatch):
    (tmp_path / "train_mine.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "train_mine.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(CheckpointError, match=r"train_mine\.Mine cannot be imported: .*PYTHONPATH"):
        load_module(tmp_path / "mine.ckpt")
    monkeypatch.syspath_prepend(tmp_path)
    assert type(load_module(tmp_path / "mine.ckpt")).__qualname__ == "Mine"


def test_lightning_restores_the_base_class_where_we_restore_the_subclass(tmp_path):
    """Why the class path is recorded: the weights alone do not tell."""
    path = saved(SameWeights(**TINY), tmp_path / "a.ckpt")
    assert type(EncoderDecoder.load_from_checkpoint(path, weights_only=True)) is EncoderDecoder
    assert type(load_module(path)) is SameWeights
    assert issubclass(SameWeights, LightningModule)
    batch = encoder_decoder_batch(pairs(3, seed=0))
    plain = EncoderDecoder.load_from_checkpoint(path, weights_only=True).eval().compute_loss(batch)
    torch.testing.assert_close(load_module(path).compute_loss(batch).loss_sum, 2 * plain.loss_sum)
