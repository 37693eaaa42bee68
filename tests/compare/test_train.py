"""How many steps a budget is."""

import json

import pytest

from compare.small import small, write_pairs
from litseq.compare.building import build_data, build_module
from litseq.compare.flops import Tokens
from litseq.compare.planning import make_plans
from litseq.compare.train import prepare, steps_for, train

CONVERSATIONS = ("ConversationDataModule", {"packing": True}, "turns.jsonl")
PAIRS = ("PairDataModule", {}, "pairs.tsv")
BLOCKS = ("TextDataModule", {"objective": "blocks"}, "text.txt")


@pytest.mark.parametrize(
    ("data_class", "options", "file"), [CONVERSATIONS, PAIRS, BLOCKS], ids=lambda part: str(part)[:9]
)
def test_tokens_are_counted_without_the_empty_ends_of_rows(tmp_path, data_class, options, file):
    # Conversations over half a row need a row each, so that much of it stays empty.
    words = [" ".join("abcdefghij"[: 4 + i % 5]) for i in range(60)]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps({"turns": [w, w]}) + "\n" for w in words))
    (tmp_path / "pairs.tsv").write_text("".join(f"{w}\t{w}\n" for w in words))
    (tmp_path / "text.txt").write_text("".join(f"{w}\n" for w in words))
    path = str(tmp_path / file)
    sizes = {"vocab_size": 60, "embed_dim": 8, "num_layers": 1, "num_heads": 1, "max_seq_len": 40}
    arguments = {"train": path, "val": path, "vocab_size": 60, "max_tokens": 80} | options
    data = build_data(f"litseq.data.{data_class}", arguments)
    prepare(build_module("litseq.models.DecoderOnly", sizes | {"vocab_size": data.vocab_size}), data)
    loader, tokens, budget = data.train_dataloader(), Tokens(), 3000
    batches = [batch for epoch in range(20) for batch in loader.batch_sampler.plan(epoch)]
    for batch in batches[: steps_for(data, budget)]:
        before = tokens.read
        tokens.add(loader.collate_fn([loader.dataset[int(index)] for index in batch]))
    assert before < budget <= tokens.read


def test_a_budget_counts_every_batch_of_an_accumulation(tmp_path):
    write_pairs(tmp_path)
    comparison = small(tmp_path, trainer={"accelerator": "cpu", "accumulate_grad_batches": 3}, validations=2)
    _, plans = make_plans(comparison, tmp_path)
    found = train(plans[0], tmp_path)
    assert 4000 <= found["tokens"] < 4000 + 3 * 256  # to one step of three batches
    assert len(found["curve"]) in (2, 3)
