"""Hugging Face datasets as a source, on local data only."""

import gzip
import json
import pickle
import sys
from collections import Counter

import lightning
import pytest
import torch

from integration.toy_trainer import trainer
from litseq.data import ConversationDataModule, PairDataModule, TextDataModule
from litseq.errors import DataError, UsageError
from litseq.models import EncoderDecoder

datasets = pytest.importorskip("datasets")
COUNT = 101
PAIRS = [{"translation": {"en": f"{'x' * (i % 13)}{i:03d}", "de": f"target {i}"}, "id": i} for i in range(COUNT)]
TALKS = [[f"question {i}", f"answer {i}", "more", "less"] for i in range(40)]
# Files that `datasets` closes when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def sources(folder):
    """The same pairs in every form, `datasets`' own cache beside them."""
    lines = [json.dumps(pair) + "\n" for pair in PAIRS]
    for number in range(4):  # COUNT rows in four files
        (folder / f"part{number}.jsonl").write_text("".join(lines[number::4]))
    (folder / "all.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    whole = datasets.Dataset.from_list(PAIRS)
    whole.to_parquet(str(folder / "all.parquet"))
    whole.save_to_disk(str(folder / "saved"))
    datasets.DatasetDict({"train": whole, "validation": whole.select(range(9))}).save_to_disk(str(folder / "splits"))
    parts = [str(folder / f"part{number}.jsonl") for number in range(4)]
    return {
        "saved": {"dataset": str(folder / "saved")},
        "splits": {"dataset": str(folder / "splits"), "split": "train"},
        "parquet": {"dataset": str(folder / "all.parquet")},
        "gzip": {"dataset": str(folder / "all.jsonl.gz")},
        "builder": {"dataset": "json", "data_files": parts},
    }


def pair_module(source, folder, **options):
    fields = {"source_field": "translation.en", "target_field": "translation.de", "tokenizer_kind": "char"}
    if isinstance(source, dict):
        source = {"cache_dir": str(folder / "cache"), **source}
    return PairDataModule(**{"train": source, "max_tokens": 160, **fields} | options)


def numbers(data, batches):
    return [int(data.tokenizer.decode(row.tolist())[-3:]) for batch in batches for row in batch["input_ids"]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["saved", "splits", "parquet", "gzip", "builder"])
def test_every_form_gives_every_pair_once(sources, folder, form, streaming):
    data = pair_module(sources[form] | {"streaming": streaming}, folder)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = list(loader)
    assert sorted(numbers(data, batches)) == list(range(COUNT))
    assert max(batch["input_ids"].numel() + batch["labels"].numel() for batch in batches) <= 160
    assert data.fingerprint["splits"]["train"]["dataset"]["dataset"] == sources[form]["dataset"]
    pickle.dumps(data.fingerprint)


def test_a_saved_directory_needs_no_dictionary_and_other_splits_have_names(sources, folder):
    data = pair_module(str(folder / "splits"), folder, val=str(folder / "splits"), predict=sources["saved"])
    data.setup()
    assert len(data.train_dataloader().dataset) == COUNT
    assert len(data.val_dataloader().dataset) == 9
    assert sorted(numbers(data, data.predict_dataloader())) == list(range(COUNT))
    cut = pair_module(sources["parquet"], folder, val_fraction=0.2)
    cut.setup("fit")
    assert len(cut.val_dataloader().dataset) == 20
    for form, split, count in (
        ("parquet", "train[:10]", 10),
        ("saved", "train[:10%]", 10),
        ("splits", "validation[4:]", 5),
        ("splits", "train[:3]+train[-2:]", 5),
        ("splits", "train+validation[:4]", COUNT + 4),
    ):
        slice_of = pair_module(sources[form] | {"split": split}, folder)
        slice_of.setup("fit")
        assert len(slice_of.train_dataloader().dataset) == count


@pytest.mark.parametrize("streaming", [False, True])
def test_texts_and_conversations(folder, streaming):
    more = {"streaming": streaming, "cache_dir": str(folder / "cache")}
    (folder / "a.csv").write_text("title,body\n" + "".join(f"t,document {i} of many\n" for i in range(60)))
    (folder / "a.txt").write_text("".join(f"document {i} of many\n" for i in range(60)))
    csv = TextDataModule(
        train={"dataset": str(folder / "a.csv"), **more}, text_field="body", block_size=64, tokenizer_kind="char"
    )
    text = TextDataModule(
        train={"dataset": "text", "data_files": str(folder / "a.txt"), **more}, block_size=64, tokenizer_kind="char"
    )
    found = []
    for data in (csv, text):
        data.setup("fit")
        batches = list(data.train_dataloader())
        assert all(batch["input_ids"].shape[1] == 64 and "segment_ids" in batch for batch in batches)
        found.append(sum(int(batch["attention_mask"].sum()) for batch in batches))
    assert found[0] == found[1] == sum(len(f"document {i} of many") + 1 for i in range(60))

    roles = [[{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(talk)] for talk in TALKS]
    rows = [{"said": talk, "messages": messages} for talk, messages in zip(TALKS, roles, strict=True)]
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / f"talks-{streaming}"))
    learned = []
    for options in ({}, {"conversation_field": "said"}, {"packing": True}):
        train = {"dataset": str(folder / f"talks-{streaming}"), **more}
        data = ConversationDataModule(train=train, vocab_size=300, **options)
        data.setup("fit")
        learned.append(sum(int((batch["labels"] >= 0).sum()) for batch in data.train_dataloader()))
    assert learned[0] == learned[1] == learned[2] > 40 * 4


@pytest.mark.parametrize(("form", "ranks", "workers"), [("builder", 2, 2), ("gzip", 3, 0), ("builder", 1, 2)])
def test_ranks_and_workers_read_disjoint_parts(sources, folder, form, ranks, workers):
    seen = Counter()
    for rank in range(ranks):
        data = pair_module(sources[form] | {"streaming": True}, folder, num_workers=workers)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.dataset.ranks, loader.dataset.rank = ranks, rank
        seen.update(numbers(data, loader))
    assert seen == Counter(range(COUNT))


def test_a_window_bounds_what_is_shuffled_and_epochs_differ(sources, folder):
    data = pair_module(sources["gzip"] | {"streaming": True, "window": 1}, folder)
    data.setup("fit")
    first, again = (numbers(data, data.train_dataloader()) for _ in range(2))
    assert first == again
    data.trainer = type("Trainer", (), {"current_epoch": 1, "world_size": 1, "global_rank": 0})()
    other = numbers(data, data.train_dataloader())
    assert sorted(other) == sorted(first)
    assert other != first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("window", [1, 10_000])
def test_a_stream_goes_on_where_it_was(sources, folder, workers, window, monkeypatch):
    monkeypatch.setattr("litseq.data.hub.PIECE", 8)

    def loader():
        data = pair_module(sources["builder"] | {"streaming": True, "window": window}, folder, num_workers=workers)
        data.setup("fit")
        return data, data.train_dataloader()

    data, each = loader()
    whole = [batch["input_ids"].tolist() for batch in each]
    for stop in (1, 2, len(whole) - 1) if workers == 0 else (3,):
        data, each = loader()
        for _, _ in zip(range(stop), each, strict=False):
            pass
        state = json.loads(json.dumps(data.state_dict()))  # plain types
        resumed, rest = loader()
        resumed.load_state_dict({"streams": [_numbered(state["streams"][0])]})
        assert [batch["input_ids"].tolist() for batch in rest] == whole[stop:]


def _numbered(state):
    """JSON makes texts of the numbers of workers."""
    return state | {"places": {int(worker): place for worker, place in state["places"].items()}}


def test_what_workers_get_is_picklable(sources, folder):
    data = pair_module(sources["builder"] | {"streaming": True}, folder)
    data.setup("fit")
    copied = pickle.loads(pickle.dumps(data.train_dataloader().dataset))
    assert len(list(copied)) == len(list(data.train_dataloader()))


class Save(lightning.Callback):
    def __init__(self, directory, steps):
        self.directory, self.steps = directory, steps

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.directory / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.directory / f"epoch{trainer.current_epoch}.ckpt")


def test_training_resumes_bit_for_bit(sources, folder, tmp_path):
    """In the middle of the first epoch and of a later one, and between the two."""

    def run(path=None, callbacks=()):
        lightning.seed_everything(3, verbose=False)
        data = pair_module(sources["builder"] | {"streaming": True, "window": 32}, folder)
        module = EncoderDecoder(vocab_size=data.vocab_size, embed_dim=8, num_layers=1, num_heads=2, max_seq_len=64)
        run = trainer(max_epochs=2, callbacks=list(callbacks), limit_val_batches=0)
        run.fit(module, data, ckpt_path=path)
        return run.global_step, module.state_dict()

    epoch = 14
    steps, straight = run(callbacks=[Save(tmp_path, (7, epoch, epoch + 5))])
    assert steps == 2 * epoch
    for name in ("7", f"{epoch}", "epoch0", f"{epoch + 5}"):
        resumed_steps, resumed = run(tmp_path / f"{name}.ckpt")
        assert resumed_steps == steps, name
        for weight in straight:
            assert torch.equal(straight[weight], resumed[weight]), (name, weight)


def test_a_dataset_in_memory_is_refused(folder):
    with pytest.raises(UsageError, match=r"train= is of type Dataset, expected files.*save_to_disk"):
        pair_module(datasets.Dataset.from_dict({"source": ["a"], "target": ["b"]}), folder)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ({"name": "x"}, UsageError, "no 'dataset' with a name or a path"),
        ({"dataset": "x", "spilt": "train"}, UsageError, "unknown 'spilt'"),
        ({"dataset": "x", "window": 0}, UsageError, "window=0"),
        ({"dataset": "x", "window": "9"}, UsageError, "window='9', expected a number"),
        ({"dataset": "x", "streaming": "no"}, UsageError, "streaming='no', expected true or false"),
        ({"dataset": "SPLITS", "split": "dev"}, DataError, "no such split, found 'train', 'validation'"),
        ({"dataset": "SPLITS", "split": "train", "streaming": True, "x": 1}, UsageError, "unknown 'x'"),
        ({"dataset": "json", "data_files": "none.jsonl"}, DataError, "datasets cannot load it"),
    ],
)
def test_mistakes_are_named(sources, folder, train, error, message):
    train = {name: str(folder / "splits") if value == "SPLITS" else value for name, value in train.items()}
    with pytest.raises(error, match=message):
        pair_module(train, folder).setup("fit")


def test_missing_columns_and_what_streams_cannot_do(sources, folder):
    with pytest.raises(DataError, match=r"train='.*' \(train\) line 1: no field 'english', found 'translation', 'id'"):
        pair_module(sources["saved"], folder, source_field="english").setup("fit")
    with pytest.raises(UsageError, match="val_fraction= does not go with streaming=True"):
        pair_module(sources["saved"] | {"streaming": True}, folder, val_fraction=0.1)
    with pytest.raises(UsageError, match="predict= does not go with streaming=True"):
        pair_module(sources["saved"], folder, predict=sources["saved"] | {"streaming": True})
    data = pair_module(sources["builder"] | {"streaming": True}, folder, num_workers=2)
    data.setup("fit")
    state = {"epoch": 0, "workers": 1, "batches": 1, "first": 0, "places": {}}
    data.load_state_dict({"streams": [state]})
    with pytest.raises(UsageError, match=r"num_workers=1 .* not 2"):
        next(iter(data.train_dataloader()))
    with pytest.raises(UsageError, match="of 2 ranks"):
        data.load_state_dict({"streams": [state, state]})


def test_the_extra_is_named_where_it_is_missing(sources, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"needs datasets.*pip install 'litseq\[datasets\]'"):
        pair_module(sources["builder"], folder).setup("fit")
