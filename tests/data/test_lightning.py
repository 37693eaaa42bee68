"""The DataModules under a real Trainer: two processes, the stages, and LightningCLI."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lightning
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from litseq.data import PairDataModule, SequenceDataModule, TextDataModule

COUNT = 101
pytestmark = pytest.mark.filterwarnings(
    # Lightning's advice for larger jobs, and a module that predicts nothing, on purpose.
    "ignore:.*does not have many workers",
    "ignore:predict returned None",
    # Lightning 2.6 calls what jsonargparse 4.53 is about to rename.
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs whose source is their number, so that every row says which example it is."""
    path = tmp_path_factory.mktemp("pairs") / "train.tsv"
    path.write_text("".join(f"{'x' * (i % 13)}{i:03d}\ttarget {i}\n" for i in range(COUNT)))
    return str(path)


class Recorder(lightning.LightningModule):
    """Writes down which examples it is given."""

    architecture = "encoder-decoder"

    def __init__(self, vocab_size: int = 100):
        super().__init__()
        self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {"train": [], "val": [], "predict": []}

    def record(self, stage, batch):
        decode = self.trainer.datamodule.tokenizer.decode
        numbers = [int(decode(row.tolist())[-3:]) for row in batch["input_ids"]]
        self.seen[stage].append([self.current_epoch, self.global_rank, numbers])

    def training_step(self, batch, batch_idx):
        self.record("train", batch)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.record("val", batch)

    def predict_step(self, batch, batch_idx):
        self.record("predict", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def options(**more):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return {"accelerator": "cpu", "enable_model_summary": False, **quiet} | more


def data(path, **more):
    return PairDataModule(**{"train": path, "val": path, "tokenizer_kind": "char", "max_tokens": 128} | more)


def test_fit_validate_and_predict_see_every_example_once(pairs):
    trainer, module = lightning.Trainer(**options(max_epochs=2)), Recorder()
    trainer.fit(module, datamodule=data(pairs))
    for epoch in (0, 1):
        numbers = [n for e, _, numbers in module.seen["train"] for n in numbers if e == epoch]
        assert sorted(numbers) == list(range(COUNT))
    first, second = ([b for e, _, b in module.seen["train"] if e == epoch] for epoch in (0, 1))
    assert first != second  # the epoch reaches the sampler
    module.seen["val"].clear()
    trainer.validate(module, datamodule=data(pairs), verbose=False)
    assert sorted(n for _, _, numbers in module.seen["val"] for n in numbers) == list(range(COUNT))
    trainer.predict(module, datamodule=data(pairs, predict=pairs))
    assert [n for _, _, numbers in module.seen["predict"] for n in numbers] == list(range(COUNT))


def test_loaders_handed_to_the_trainer_as_such(pairs):
    """Several, too: Lightning makes their batch samplers anew, which were not made in hooks of its own."""

    class Decoder(Recorder):
        def record(self, stage, batch):
            numbers = [int(served.tokenizer.decode(row.tolist())[-3:]) for row in batch["input_ids"]]
            self.seen[stage].append([self.current_epoch, self.global_rank, numbers])

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            self.record("predict", batch)

    served = data(pairs, predict=pairs)
    served.setup()
    module = Decoder()
    lightning.Trainer(**options(max_epochs=1)).fit(module, served.train_dataloader(), served.val_dataloader())
    for stage in "train", "val":
        assert sorted(n for _, _, numbers in module.seen[stage] for n in numbers) == list(range(COUNT))
    lightning.Trainer(**options()).predict(module, [served.predict_dataloader(), served.predict_dataloader()])
    assert [n for _, _, numbers in module.seen["predict"] for n in numbers] == 2 * list(range(COUNT))


def test_no_validation_data_and_fast_dev_run(pairs):
    module = Recorder()
    lightning.Trainer(**options(fast_dev_run=2)).fit(module, datamodule=data(pairs, val=None))
    assert len(module.seen["train"]) == 2
    assert not module.seen["val"]


def test_overfit_batches_repeats_the_same_batches(pairs):
    module = Recorder()
    lightning.Trainer(**options(max_epochs=3, overfit_batches=2)).fit(module, datamodule=data(pairs))
    epochs = [[b for e, _, b in module.seen["train"] if e == epoch] for epoch in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(epochs[0]) == 2


def test_worker_processes_give_the_same_batches(pairs):
    batches = []
    for workers in (0, 2):
        module = data(pairs, num_workers=workers)
        module.setup("fit")
        batches.append([{k: v.tolist() for k, v in batch.items()} for batch in module.train_dataloader()])
    assert batches[0] == batches[1]


TWO_RANKS = """
import json, sys
import lightning
sys.path.insert(0, sys.argv[1])
from test_lightning import Recorder, data, options

class Writer(Recorder):
    def on_fit_end(self):
        with open(f"{self.path}.{self.global_rank}", "w") as file:
            json.dump(self.seen, file)

# Lightning's sampler in the place of ours, then our own.
for injected in (True, False):
    trainer = lightning.Trainer(**options(
        strategy="ddp_fork", devices=2, max_epochs=2, num_sanity_val_steps=0, use_distributed_sampler=injected
    ))
    module = Writer()
    module.path = f"{sys.argv[3]}.{injected}"
    trainer.fit(module, datamodule=data(sys.argv[2]))

class Saver(Writer):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        if (self.current_epoch, batch_idx) == (1, 2):
            self.trainer.save_checkpoint(f"{self.path}.ckpt")

stream = {"dataset": f"{sys.argv[3]}.jsonl", "streaming": True, "window": 40, "cache_dir": f"{sys.argv[3]}.cache"}
trainer = lightning.Trainer(**options(strategy="ddp_fork", devices=2, max_epochs=2, num_sanity_val_steps=0))
module = Saver()
module.path = f"{sys.argv[3]}.stream"
trainer.fit(module, datamodule=data(stream, val=stream | {"split": "train"}))
"""


def test_two_ranks_share_the_examples_in_equal_steps(pairs, tmp_path):
    here = os.path.dirname(__file__)
    records = [
        dict(zip(("source", "target"), line.split("\t"), strict=True)) for line in Path(pairs).read_text().splitlines()
    ]
    (tmp_path / "seen.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, "-c", TWO_RANKS, here, pairs, str(tmp_path / "seen")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for injected, stage, epoch in itertools.product((True, False), ("train", "val"), (0, 1)):
        ranks = [json.loads((tmp_path / f"seen.{injected}.{rank}").read_text())[stage] for rank in range(2)]
        steps = [[numbers for e, _, numbers in seen if e == epoch] for seen in ranks]
        assert len(steps[0]) == len(steps[1]) > 1
        numbers = Counter(n for rank in steps for batch in rank for n in batch)
        assert numbers == Counter(range(COUNT))
    # Of a stream a rank that has more left than the other leaves it out; in validation nothing waits.
    ranks = [json.loads((tmp_path / f"seen.stream.{rank}").read_text()) for rank in range(2)]
    for epoch in (0, 1):
        steps = [[numbers for e, _, numbers in seen["train"] if e == epoch] for seen in ranks]
        assert len(steps[0]) == len(steps[1]) > 5
        numbers = Counter(n for rank in steps for batch in rank for n in batch)
        assert max(numbers.values()) == 1
        assert len(numbers) > COUNT - 20
        numbers = Counter(n for seen in ranks for e, _, batch in seen["val"] if e == epoch for n in batch)
        assert numbers == Counter(range(COUNT))
    checkpoint = torch.load(tmp_path / "seen.stream.ckpt", weights_only=True)
    streams = checkpoint["PairDataModule"]["streams"]
    assert [(state["epoch"], state["batches"]) for state in streams] == [(1, 3), (1, 3)]


class Anything(lightning.LightningModule):
    def __init__(self, vocab_size: int = 5):
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [
        ("litseq.data.PairDataModule", {"train": "FILE", "val": ["FILE"]}),
        ("litseq.data.PairDataModule", {"train": ["SIDE", "SIDE"], "architecture": "decoder-only"}),
        ("litseq.data.PairDataModule", {"train": [["SIDE", "SIDE"]], "val_fraction": 0.1, "loss_on": "all"}),
        ("litseq.data.TextDataModule", {"train": "SIDE", "documents": "blank", "block_size": 64}),
        ("litseq.data.TextDataModule", {"train": ["SIDE"], "objective": "prefix", "max_tokens": 1024}),
    ],
)
def test_a_config_file_can_say_every_source(pairs, tmp_path, monkeypatch, class_path, init_args):
    monkeypatch.setattr(sys, "argv", ["litseq"])
    side = tmp_path / "side.txt"
    side.write_text("one\ntwo\n\nthree\n" if "Text" in class_path else "one\ntwo\nthree\n" * 10)
    text = yaml.safe_dump({"data": {"class_path": class_path, "init_args": {**init_args, "vocab_size": 60}}})
    (tmp_path / "config.yaml").write_text(text.replace("FILE", pairs).replace("SIDE", str(side)))

    class CLI(LightningCLI):
        def add_arguments_to_parser(self, parser):
            parser.link_arguments("data.vocab_size", "model.vocab_size", apply_on="instantiate")

    cli = CLI(
        Anything,
        SequenceDataModule,
        subclass_mode_data=True,
        run=False,
        seed_everything_default=False,
        args=[f"--config={tmp_path}/config.yaml"],
    )
    assert isinstance(cli.datamodule, PairDataModule | TextDataModule)
    assert cli.model.hparams.vocab_size == cli.datamodule.vocab_size <= 60
    cli.datamodule.setup("fit")
    assert next(iter(cli.datamodule.train_dataloader()))
    torch.save(dict(cli.datamodule.hparams), tmp_path / "hparams.pt")
    torch.load(tmp_path / "hparams.pt", weights_only=True)


def test_help_shows_the_arguments(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["litseq"])
    for name, words in (("PairDataModule", "two aligned text files"), ("TextDataModule", "What a document is")):
        with pytest.raises(SystemExit):
            LightningCLI(
                Anything,
                SequenceDataModule,
                subclass_mode_data=True,
                run=False,
                args=[f"--data.help=litseq.data.{name}"],
            )
        printed = " ".join(capsys.readouterr().out.split())
        assert words in printed
        assert "--data.max_tokens MAX_TOKENS" in printed


class Halved(PairDataModule):
    """A user's: one argument of its own, one changed on its way, all others fixed."""

    def __init__(self, path: str, max_tokens: int = 400, upper: bool = False):
        super().__init__(train=path, max_tokens=max_tokens // 2, tokenizer_kind="char", seed=9)

    def read(self, given, bad):
        sources, targets = super().read(given, bad)
        return sources, [target.upper() for target in targets] if self.hparams["upper"] else targets


def test_a_subclass_may_fix_and_change_arguments(pairs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fit"])
    arguments = [f"--data.path={pairs}", "--data.upper=true", "--data.max_tokens=300"]
    cli = LightningCLI(Recorder, Halved, args=arguments, run=False, seed_everything_default=False)
    for data in (cli.datamodule, Halved(pairs, 300, upper=True)):
        assert (data.hparams["seed"], data.hparams["max_tokens"]) == (9, 150)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        assert batch["input_ids"].numel() + batch["labels"].numel() <= 150
        assert data.tokenizer.decode(batch["labels"][0][:6].tolist()) == "TARGET"
