"""`litseq fit|validate|predict` as a user meets them, in their own directory with their own class."""

import sys

import pytest

torch = pytest.importorskip("torch", reason="needs the extra [train]")

from integration.toy_trainer import trainer  # noqa: E402  all of these need torch
from litseq.cli import train  # noqa: E402  as above
from litseq.data import PairDataModule  # noqa: E402  as above
from litseq.errors import CheckpointError, LitseqError, UsageError  # noqa: E402  as above
from litseq.models import DecoderOnly, EncoderDecoder, load_module  # noqa: E402  as above

USER_MODULE = """
from litseq.models import DecoderOnly

class Mine(DecoderOnly):
    \"\"\"A model.

    Args:
        extra: Its own argument.
    \"\"\"

    def __init__(self, extra: int = 3, **kwargs):
        super().__init__(**kwargs)
"""

CONFIG = """
seed_everything: 1
model:
  class_path: {model}
  init_args:
    embed_dim: 16
    num_heads: 2
    num_layers: 1
    max_seq_len: 32
data:
  class_path: litseq.data.PairDataModule
  init_args: {{train: train.tsv, val: train.tsv, predict: prompts.txt, vocab_size: 40, max_tokens: 200}}
trainer:
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  max_steps: 2
  limit_val_batches: 1
  callbacks:
    class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {{dirpath: kept, filename: a, monitor: val/loss, enable_version_counter: false}}
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["one", "two", "three", "four", "five"]
    (tmp_path / "train.tsv").write_text("".join(f"{a} {b}\t{b} {a}\n" for a in words for b in words))
    (tmp_path / "prompts.txt").write_text("one two\nthree\nfour five\n")
    return tmp_path


def config(directory, model):
    (directory / "my.yaml").write_text(CONFIG.format(model=model))
    return ["-c", "my.yaml"]


def test_a_class_of_the_users_own_from_fit_to_predict(directory, capsys):
    name = f"mine_{directory.name}"  # imported once a process under this name
    (directory / f"{name}.py").write_text(USER_MODULE)
    arguments = config(directory, f"{name}.Mine")
    assert train.run(["fit", *arguments, "--model.extra=4"]) == 0

    module = load_module("kept/a.ckpt")
    assert type(module).__name__ == "Mine"
    assert isinstance(module, DecoderOnly)
    assert (module.hparams["extra"], module.hparams["embed_dim"]) == (4, 16)
    assert module.hparams["vocab_size"] == module.record.load_tokenizer().vocab_size
    assert module.record.data["splits"]["train"]["examples"] == 25

    capsys.readouterr()
    assert train.run(["validate", *arguments, "--ckpt_path=kept/a.ckpt"]) == 0
    assert "val/perplexity" in capsys.readouterr().out
    assert train.run(["predict", *arguments, "--ckpt_path", "kept/a.ckpt"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_checkpoint_of_a_script(directory, capsys):
    data = PairDataModule(train="train.tsv", val="train.tsv", vocab_size=40, max_tokens=200)
    module = EncoderDecoder(vocab_size=data.vocab_size, embed_dim=8, num_layers=1, num_heads=2, max_seq_len=32)
    run = trainer(max_steps=1, limit_val_batches=0)
    run.fit(module, data)
    run.save_checkpoint("script.ckpt")

    # The checkpoint's arguments, and its class, overrule those of the configuration.
    arguments = config(directory, "litseq.models.DecoderOnly")
    assert train.run(["validate", *arguments, "--ckpt_path=script.ckpt"]) == 0
    assert "val/perplexity" in capsys.readouterr().out


def test_a_checkpoint_that_a_configuration_names_is_looked_at(directory):
    (directory / "resume.yaml").write_text("ckpt_path: train.tsv\n")
    with pytest.raises(CheckpointError, match=r"train.tsv is no checkpoint"):
        train.run(["fit", *config(directory, "litseq.models.DecoderOnly"), "-c", "resume.yaml"])


# Overriding it is what is tested.
@pytest.mark.filterwarnings("ignore:.*configure_optimizers. will be overridden")
def test_optimizers_come_from_the_command_line_and_stay_out_of_the_checkpoint(directory):
    arguments = config(directory, "litseq.models.EncoderDecoder")
    injected = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.25"]
    assert train.run(["fit", *arguments, *injected]) == 0
    checkpoint = torch.load("kept/a.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.25
    assert not {"optimizer", "scheduler"} & checkpoint["hyper_parameters"].keys()
    assert type(load_module("kept/a.ckpt")) is EncoderDecoder

    (directory / "kept/a.ckpt").unlink()
    assert train.run(["fit", *arguments, "--optimizer=Adam", "--optimizer.lr=0.125"]) == 0  # Lightning's own way
    checkpoint = torch.load("kept/a.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 0.125
    assert type(load_module("kept/a.ckpt")) is EncoderDecoder


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--model.num_heads=3"], "embed_dim 16 is no multiple of num_heads 3"),
        (["--model.norm=batch"], r'"norm".*rms.*layer.*Got value: batch'),
        (["--model.no_such=1"], "Option 'no_such' is not accepted"),
        (["--model=no_such_module.Model"], "No module named 'no_such_module'"),
        (["--trainer.no_such=1"], "unrecognized arguments: --trainer.no_such=1"),
        (["--trainer.accelerator=gpu", "--trainer.devices=9"], "gpu"),
        (["--model.schedule=cosine", "--trainer.max_steps=-1", "--trainer.max_epochs=-1"], "cosine"),
        (["--ckpt_path=none.ckpt"], "none.ckpt does not exist"),
        (["--ckpt_path", "train.tsv"], "train.tsv is no checkpoint"),
        (["-c", "binary.ckpt"], "binary.ckpt cannot be read as a configuration"),
        (["--config=empty.yaml"], "empty.yaml is empty, expected"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(directory, options, match, capsys):
    (directory / "binary.ckpt").write_bytes(b"PK\x03\x04\xaf\xfe")
    (directory / "empty.yaml").touch()
    with pytest.raises(LitseqError, match=match) as caught:
        train.run(["fit", *config(directory, "litseq.models.DecoderOnly"), *options])
    assert isinstance(caught.value, UsageError | CheckpointError)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300
    assert "usage" not in capsys.readouterr().err


def test_help_lists_the_arguments_with_their_descriptions(directory, capsys):
    with pytest.raises(SystemExit) as caught:
        train.run(["fit", "--model.help=litseq.models.EncoderDecoder"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Layers of the decoder. None: as many as the encoder has." in text
    assert "What the learning rate does behind the warm-up." in text
