"""BLEU and chrF of generated texts against sacrebleu, and which examples they are of."""

import json

import lightning
import pytest
import sacrebleu
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from sacrebleu.metrics import BLEU, CHRF
from torch.utils.data import DataLoader, IterableDataset

from integration.toy_trainer import trainer
from litseq.callbacks import TextMetrics
from litseq.callbacks.text_metrics import CorpusScore, examples
from litseq.data import ConversationDataModule, PairDataModule, TextDataModule
from litseq.errors import UsageError
from litseq.models import DecoderOnly, EncoderDecoder
from litseq.models.predict import generate_ids
from litseq.text.messages import read_turns


class Stream(IterableDataset):
    """Batches of which nobody knows the number."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("texts")
    words = ["red", "green", "blue", "cat", "dog"]
    lines = [" ".join(words[(i * k) % 5] for k in range(1, 3 + i % 4)) for i in range(40)]
    (directory / "train.tsv").write_text("".join(f"{line}\t{line}\n" for line in lines))
    (directory / "val.tsv").write_text("".join(f"{line}\t{line}\n" for line in lines[:17]))
    (directory / "text.txt").write_text("\n".join(lines))
    return directory


def pairs(files, **options):
    return PairDataModule(
        train=str(files / "train.tsv"), val=str(files / "val.tsv"), vocab_size=40, max_tokens=64, **options
    )


def model(kind, data):
    torch.manual_seed(0)
    return kind(
        vocab_size=data.vocab_size, embed_dim=32, num_layers=1, num_heads=2, max_seq_len=32, dropout=0.0,
        learning_rate=2e-2, warmup_steps=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "loss_on"), [(EncoderDecoder, "target"), (DecoderOnly, "target"), (DecoderOnly, "all")]
)
def test_the_scores_are_those_of_sacrebleu(files, kind, loss_on):
    data = pairs(files, loss_on=loss_on)
    module = model(kind, data)
    metrics = TextMetrics(limit=100, max_new_tokens=8)
    run = trainer(max_epochs=8, callbacks=[metrics])
    run.fit(module, data)
    pairs_of_file = [line.split("\t") for line in (files / "val.tsv").read_text().splitlines()]
    tokenizer = data.tokenizer
    outputs = generate_ids(
        module.eval(),
        [data.prompt_format.render(tokenizer.encode(source)) for source, _ in pairs_of_file],
        {"max_new_tokens": 8},
    )
    texts, references = [tokenizer.decode(ids) for ids in outputs], [target for _, target in pairs_of_file]
    assert any(texts)
    bleu = sacrebleu.corpus_bleu(texts, [references], force=True).score
    assert float(run.callback_metrics["val/bleu"]) == pytest.approx(bleu, abs=0.01)
    chrf = sacrebleu.corpus_chrf(texts, [references]).score
    assert float(run.callback_metrics["val/chrf"]) == pytest.approx(chrf, abs=0.01)
    assert chrf > 20


def test_outputs_may_be_as_long_on_every_rank(files, monkeypatch):
    seen = []

    def generate(module, prompts, options):
        seen.append(options["max_new_tokens"])
        return [[] for _ in prompts]

    monkeypatch.setattr("litseq.callbacks.text_metrics.generate_ids", generate)
    data = pairs(files)
    run = trainer(callbacks=[TextMetrics(limit=3)], max_steps=1, val_check_interval=1)
    # Another rank has a reference of 40 tokens.
    monkeypatch.setattr(
        run.strategy, "reduce", lambda value, *_, reduce_op="mean": value * 0 + 40 if reduce_op == "max" else value
    )
    run.fit(model(EncoderDecoder, data), data)
    assert seen == [40 + 20 + 1]


def test_bad_and_empty_outputs_are_scored_as_sacrebleu_scores_them():
    texts = ["", "a cat is on it", "the dog runs away now", "x y z", ""]
    references = ["a dog sits there", "a cat sat down", "the dog ran far away", "red green", "b"]
    for score, expected in (
        (CorpusScore(BLEU(force=True)), sacrebleu.corpus_bleu(texts, [references]).score),
        (CorpusScore(CHRF()), sacrebleu.corpus_chrf(texts, [references]).score),
    ):
        score.update(texts[:2], references[:2])
        score.update([], [])
        score.update(texts[2:], references[2:])
        assert expected > 1
        assert float(score.compute()) == pytest.approx(expected, abs=1e-4)


def test_every_answer_of_a_conversation_is_an_example(tmp_path):
    turns = [["who", "ann", "and now", "bob it is", "so", "yes"], ["one", "two"]]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps({"turns": each}) + "\n" for each in turns))
    data = ConversationDataModule(train=str(tmp_path / "talks.jsonl"), vocab_size=60, max_tokens=200)
    data.setup("fit")
    module = DecoderOnly(vocab_size=data.vocab_size, embed_dim=16, num_layers=1, num_heads=2, max_seq_len=200)
    found = [pair for batch in data.train_dataloader() for pair in examples(module, batch)]
    messages = [read_turns(each) for each in turns]
    assert sorted(found) == sorted(
        (data.chat_format.prompts([talk[:i]], [200])[0].encoded,
         [*data.tokenizer.encode(talk[i].content), data.chat_format.stop_ids[0]])
        for talk in messages for i in range(1, len(talk), 2)
    )  # fmt: skip


def test_the_limit_takes_long_and_short_ones_alike(files):
    data = pairs(files)
    module, metrics = model(EncoderDecoder, data), TextMetrics(limit=3)
    run = trainer(max_epochs=1, callbacks=[metrics])
    run.fit(module, data)
    lengths = sorted(len(target) for _, target in metrics._pairs)
    seen = []
    metrics.bleu.update = lambda texts, references: seen.extend(references)
    metrics._score(run, module.eval())
    chosen = sorted(len(data.tokenizer.encode(reference)) + 1 for reference in seen)
    assert (chosen[0], chosen[2]) == (lengths[0], lengths[-1])
    assert chosen[0] < chosen[1] < chosen[2]


@pytest.mark.parametrize("sized", [True, False])
def test_the_average_generates_where_there_is_one(files, sized):
    data = pairs(files)
    module = model(EncoderDecoder, data)
    seen = {}
    if not sized:
        whole = data.val_dataloader
        data.val_dataloader = lambda: DataLoader(Stream(whole()), batch_size=None)

    class Spy(TextMetrics):
        def _score(self, trainer, module):
            seen["scored"] = module.decoder.embedding.weight.detach().clone()
            super()._score(trainer, module)

    averaging = EMAWeightAveraging(decay=0.9)
    run = trainer(max_epochs=2, callbacks=[averaging, Spy(limit=2)])
    run.fit(module, data)
    assert torch.equal(seen["scored"], module.decoder.embedding.weight)  # the average is left behind


def test_every_nth_validation_and_never_in_the_sanity_check(files):
    data, calls = pairs(files), []

    class Count(TextMetrics):
        def _score(self, trainer, module):
            calls.append(trainer.current_epoch)
            super()._score(trainer, module)

    trainer(max_epochs=4, callbacks=[Count(limit=1, every_n_validations=2)]).fit(model(EncoderDecoder, data), data)
    assert calls == [1, 3]


def test_what_it_refuses(files):
    data = TextDataModule(train=str(files / "text.txt"), val=str(files / "text.txt"), vocab_size=40, block_size=16)
    with pytest.raises(UsageError, match="packed blocks have none"):
        lightning.Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[TextMetrics()], num_sanity_val_steps=0,
        ).fit(model(DecoderOnly, data), data)  # fmt: skip
    with pytest.raises(ValueError, match="expected at least 1 each"):
        TextMetrics(limit=0)
