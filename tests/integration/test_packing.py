"""Packed rows through a model: nothing goes from one document to another, and each is read as if it were alone."""

import json

import pytest
import torch

from litseq.data import ConversationDataModule, TextDataModule
from litseq.models import DecoderOnly


def text(path):
    path.write_text("".join("ab cd "[: 1 + i % 6] * (1 + i % 5) + f"{i}\n" for i in range(60)))
    return TextDataModule(train=str(path), tokenizer_kind="char", block_size=48, max_tokens=192)


def conversations(path, **options):
    talks = [[f"q{i}", "a" * (1 + i % 7)] * (1 + i % 2) for i in range(60)]
    path.write_text("".join(json.dumps({"turns": talk}) + "\n" for talk in talks))
    return ConversationDataModule(train=str(path), vocab_size=120, max_tokens=192, packing=True, **options)


def long_rows(path):
    return conversations(path, packed_length=96)


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal"])
@pytest.mark.parametrize("make", [text, conversations, long_rows])
def test_no_gradient_leaks_and_a_document_is_read_as_if_alone(tmp_path, make, position):
    torch.manual_seed(0)
    data = make(tmp_path / "data")
    module = DecoderOnly(
        vocab_size=data.vocab_size, embed_dim=16, num_layers=2, num_heads=2, max_seq_len=48, position=position
    ).eval()
    data.trainer = type("Trainer", (), {"lightning_module": module, "world_size": 1, "global_rank": 0})()
    data.setup("fit")
    batch = next(batch for batch in data.train_dataloader() if int(batch["segment_ids"].max()) > 1)
    embedded = []
    module.decoder.embedding.register_forward_hook(
        lambda _, __, output: embedded.append(output) or output.retain_grad()
    )
    hidden = module.hidden_states(batch)
    row = int(batch["segment_ids"].max(dim=1).values.argmax())
    segments = batch["segment_ids"][row]
    for segment in range(1, int(segments.max()) + 1):
        inside = segments == segment
        embedded[0].grad = None
        hidden[row][inside].pow(2).sum().backward(retain_graph=True)
        touched = embedded[0].grad.abs().sum(dim=-1)
        assert (touched[row][inside] > 0).all()
        assert (touched[row][~inside] == 0).all()
        assert (touched[torch.arange(len(touched)) != row] == 0).all()
        alone = module.hidden_states({"input_ids": batch["input_ids"][row][inside][None]})
        torch.testing.assert_close(hidden[row][inside], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal"])
def test_padding_may_be_longer_than_any_document(tmp_path, position):
    (tmp_path / "one.jsonl").write_text(json.dumps({"turns": ["q", "a"]}) + "\n")
    data = ConversationDataModule(
        train=str(tmp_path / "one.jsonl"), vocab_size=100, packing=True, packed_length=192, max_tokens=192
    )
    module = DecoderOnly(vocab_size=data.vocab_size, embed_dim=8, num_heads=2, max_seq_len=48, position=position)
    data.trainer = type("Trainer", (), {"lightning_module": module, "world_size": 1, "global_rank": 0})()
    data.setup("fit")
    loss = module.compute_loss(next(iter(data.train_dataloader())))
    assert loss.loss_sum.isfinite()
    assert loss.token_count > 0
