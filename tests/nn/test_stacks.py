"""The stacks: packing, prefixes, positions, shared tables, limits."""

import pytest
import torch

from litseq.nn import TransformerDecoder, TransformerEncoder
from litseq.nn.positions import segment_positions
from nn.reference import random_config, roughen

POSITIONS = ["rotary", "learned", "sinusoidal"]


@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_packed_documents_are_as_if_alone(position: str) -> None:
    torch.manual_seed(0)
    decoder = roughen(TransformerDecoder(random_config(position=position)))
    documents = [torch.randint(0, 50, (length,)) for length in (4, 1, 7)]
    row = torch.cat([*documents, torch.zeros(2, dtype=torch.int64)])[None]
    segments = torch.tensor([[1] * 4 + [2] + [3] * 7 + [0] * 2])
    packed = decoder(row, segment_ids=segments)[0].split([4, 1, 7, 2])
    for document, hidden in zip(documents, packed, strict=False):
        torch.testing.assert_close(hidden, decoder(document[None])[0], atol=1e-5, rtol=0.0)


def test_no_gradient_flows_between_packed_documents() -> None:
    torch.manual_seed(0)
    decoder = roughen(TransformerDecoder(random_config()))
    ids = torch.arange(10)[None]  # every token occurs once, so a row of the table's gradient is one position
    segments = torch.tensor([[1] * 4 + [2] * 6])
    decoder(ids, segment_ids=segments)[0, 4:].sum().backward()
    gradient = decoder.embedding.weight.grad
    assert gradient[:4].abs().max() == 0
    assert gradient[4:10].abs().sum(1).min() > 0


def test_the_future_is_not_seen_but_the_prefix_is() -> None:
    torch.manual_seed(0)
    decoder = roughen(TransformerDecoder(random_config()))
    ids = torch.arange(10)[None]
    for prefix, seen in ((None, 4), (torch.tensor([6]), 6)):
        decoder.zero_grad()
        decoder(ids, prefix_lengths=prefix)[0, 3].sum().backward()
        weight = decoder.embedding.weight.grad.abs().sum(1)
        assert (weight[:seen] > 0).all()
        assert weight[seen:].max() == 0


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    config = random_config()
    encoder, decoder = roughen(TransformerEncoder(config)), roughen(TransformerDecoder(config, cross_attention=True))
    source, target = torch.randint(0, 50, (1, 5)), torch.randint(0, 50, (1, 6))
    alone = decoder(target, memory=encoder(source))
    mask = torch.arange(9)[None] < 5
    padded = torch.cat([source, torch.full((1, 4), 7)], dim=1)
    longer = torch.cat([target, torch.full((1, 3), 7)], dim=1)
    together = decoder(longer, memory=encoder(padded, mask), memory_mask=mask)[:, :6]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0.0)


def test_positions_of_packed_rows_begin_anew() -> None:
    segments = torch.tensor([[1, 1, 2, 2, 2, 0], [5, 5, 5, 5, 5, 5]])
    assert segment_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]


def test_shared_and_tied_tables_are_one() -> None:
    config = random_config()
    encoder = TransformerEncoder(config)
    decoder = TransformerDecoder(config, cross_attention=True, embedding=encoder.embedding)
    assert decoder.embedding is encoder.embedding
    assert decoder.lm_head is None
    untied = TransformerDecoder(random_config(tie_embeddings=False))
    assert untied.lm_head is not None
    hidden = torch.randn(2, 64)
    torch.testing.assert_close(decoder.logits(hidden), hidden @ encoder.embedding.weight.T)


@pytest.mark.parametrize("stack", [TransformerEncoder, TransformerDecoder])
def test_too_long_a_row_is_one_clear_line(stack: type) -> None:
    with pytest.raises(ValueError, match=r"41 tokens in a row, max_seq_len is 40"):
        stack(random_config())(torch.zeros(1, 41, dtype=torch.int64))


@torch.no_grad()
def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    torch.manual_seed(0)
    decoder = TransformerDecoder(random_config(vocab_size=500))
    ids = torch.randint(0, 500, (8, 20))
    loss = torch.nn.functional.cross_entropy(decoder.logits(decoder(ids)).flatten(0, 1), torch.randint(0, 500, (160,)))
    assert abs(loss - torch.log(torch.tensor(500.0))) < 0.1


def test_it_learns_to_copy() -> None:
    """Loss of the second half of `x x`, which only attention to the first half can bring down."""
    torch.manual_seed(0)
    decoder = TransformerDecoder(random_config(vocab_size=12)).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(150):
        half = torch.randint(1, 12, (32, 6))
        ids = torch.cat([half, half], dim=1)
        logits = decoder.logits(decoder(ids[:, :-1]))[:, 6:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 7:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
