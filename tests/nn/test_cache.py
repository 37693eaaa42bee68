"""Reading a sequence in pieces with a cache gives what reading it at once gives."""

import math

import pytest
import torch
from torch import Tensor, nn

from litseq.nn import KeyValue, PositionScheme, Scope, Step, TransformerDecoder, TransformerEncoder
from litseq.nn.ops import cached_attention
from nn.reference import random_config, roughen

LENGTHS = torch.tensor([12, 6, 9])
CHUNKS = {"single tokens": (1,) * 12, "several": (4, 3, 5), "mixed": (5, 1, 1, 3, 2), "whole": (12,)}


class Alibi(PositionScheme):
    """Linear biases (https://arxiv.org/abs/2108.12409), a scheme that acts on the scores."""

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        slopes = torch.tensor([2.0**-h for h in range(1, 5)])[:, None, None]
        distance = (query_positions[:, None, :, None] - key_positions[:, None, None, :]).abs()
        return -slopes * distance


class AlibiDecoder(TransformerDecoder):
    def build_positions(self, config: object) -> PositionScheme:
        return Alibi()


def in_chunks(
    decoder: TransformerDecoder,
    ids: Tensor,
    chunks: tuple[int, ...],
    prefix: Tensor | None = None,
    cross: list[KeyValue] | None = None,
    memory_lengths: Tensor | None = None,
) -> list[Tensor]:
    """Logits of each row, read in ragged chunks; rows that are through leave."""
    cache = decoder.new_cache(len(ids), 20)
    for layer in cache:  # what a row has not written must not matter
        layer.key.fill_(math.pi)
        layer.value.fill_(math.pi)
    done = torch.zeros(len(ids), dtype=torch.int32)
    out: list[list[Tensor]] = [[] for _ in ids]
    for chunk in chunks:
        new = (LENGTHS - done).clamp(0, chunk).int()
        rows = new.nonzero()[:, 0]
        if not len(rows):
            continue
        tokens = torch.zeros(len(rows), int(new.max()), dtype=torch.int64)
        for line, row in zip(tokens, rows.tolist(), strict=True):
            line[: new[row]] = ids[row, done[row] : done[row] + new[row]]
        step = Step(
            (done + new - 1)[rows], new[rows], (done + new)[rows].max(), None if prefix is None else prefix[rows].int()
        )
        past = [KeyValue(layer.key[rows], layer.value[rows]) for layer in cache]
        some_cross = None if cross is None else [KeyValue(kv.key[rows], kv.value[rows]) for kv in cross]
        lengths = None if memory_lengths is None else memory_lengths[rows]
        hidden, present = decoder.step(tokens, step, past, some_cross, lengths)
        for layer, written in zip(cache, present, strict=True):
            layer.key[rows], layer.value[rows] = written.key, written.value
        for line, row in zip(decoder.logits(hidden), rows.tolist(), strict=True):
            out[row].append(line[: new[row]])
        done += new
    return [torch.cat(parts) for parts in out]


def check(full: Tensor, pieces: list[Tensor]) -> None:
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(pieces[row], full[row, :length], atol=2e-5, rtol=0.0)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("position", ["rotary", "learned", "sinusoidal", "none"])
@torch.no_grad()
def test_decoder_only(position: str, kv_heads: int, chunks: str) -> None:
    torch.manual_seed(0)
    decoder = roughen(TransformerDecoder(random_config(position=position, num_kv_heads=kv_heads)))
    ids = torch.randint(0, 50, (3, 12))
    check(decoder.logits(decoder(ids)), in_chunks(decoder, ids, CHUNKS[chunks]))


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("position", ["rotary", "sinusoidal"])
@torch.no_grad()
def test_decoder_with_a_padded_memory(position: str, kv_heads: int, chunks: str) -> None:
    torch.manual_seed(0)
    config = random_config(position=position, num_kv_heads=kv_heads, norm="layer", norm_position="post", bias=True)
    encoder = roughen(TransformerEncoder(config))
    decoder = roughen(TransformerDecoder(config, cross_attention=True))
    source, ids = torch.randint(0, 50, (3, 7)), torch.randint(0, 50, (3, 12))
    lengths = torch.tensor([7, 3, 5], dtype=torch.int32)
    mask = torch.arange(7) < lengths[:, None]
    memory = encoder(source, mask)
    # The form the exported encoder takes gives the same.
    torch.testing.assert_close(encoder(source, lengths=lengths)[mask], memory[mask], atol=1e-5, rtol=0.0)
    full = decoder.logits(decoder(ids, memory=memory, memory_mask=mask))
    check(full, in_chunks(decoder, ids, CHUNKS[chunks], None, decoder.cross_keys_values(memory), lengths))


@pytest.mark.parametrize("kv_heads", [2, 4])
@torch.no_grad()
def test_a_visible_prefix_is_read_at_once_and_then_continued(kv_heads: int) -> None:
    torch.manual_seed(0)
    decoder = roughen(TransformerDecoder(random_config(num_kv_heads=kv_heads)))
    ids, prefix = torch.randint(0, 50, (3, 12)), torch.tensor([5, 5, 5])
    full = decoder.logits(decoder(ids, prefix_lengths=prefix))
    check(full, in_chunks(decoder, ids, (5, 1, 2, 4), prefix))


@pytest.mark.parametrize("chunks", CHUNKS)
@torch.no_grad()
def test_a_scheme_that_acts_on_the_scores(chunks: str) -> None:
    torch.manual_seed(0)
    decoder = roughen(AlibiDecoder(random_config(position="none")))
    ids = torch.randint(0, 50, (3, 12))
    full = decoder.logits(decoder(ids))
    check(full, in_chunks(decoder, ids, CHUNKS[chunks]))
    without = roughen(TransformerDecoder(random_config(position="none")))
    without.load_state_dict(decoder.state_dict())
    assert not torch.allclose(without.logits(without(ids)), full, atol=1e-2)


class CountedLayer(nn.Module):
    """No attention: adds how many tokens the row holds, its state of fixed size."""

    attention = property(lambda self: self)
    cross_attention = None

    def cache_dims(self) -> tuple[tuple[int, ...], ...]:
        return ((1,),)

    def forward(
        self,
        x: Tensor,
        scope: Scope,
        past: tuple[Tensor] | None = None,
        memory: object = None,
        memory_scope: object = None,
    ) -> tuple[Tensor, tuple[Tensor] | None]:
        seen = torch.arange(1, x.shape[1] + 1)[None, :, None] + (0 if past is None else past[0][:, None])
        return x + seen, None if past is None else (past[0] + scope.step.new_lengths[:, None],)


class CountingDecoder(AlibiDecoder):
    def build_layer(self, config: object, index: int) -> nn.Module:
        return super().build_layer(config, index) if index else CountedLayer()


@torch.no_grad()
def test_the_first_layer_may_carry_no_keys_and_attend_to_no_memory() -> None:
    torch.manual_seed(0)
    decoder = CountingDecoder(random_config(position="none"), cross_attention=True).eval()
    ids, memory = torch.randint(0, 50, (1, 6)), torch.randn(1, 5, 64)
    full = decoder(ids, memory=memory)
    cross = decoder.cross_keys_values(memory)
    assert [len(layer) for layer in cross] == [0, 2]
    past, pieces = decoder.new_cache(1, 9), []
    for begin, end in ((0, 4), (4, 5), (5, 6)):
        lengths = (torch.tensor(v, dtype=torch.int32) for v in ([end - 1], [end - begin], end))
        hidden, past = decoder.step(ids[:, begin:end], Step(*lengths), past, cross, torch.tensor([5]).int())
        pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, 1), full, atol=2e-5, rtol=0.0)


@torch.no_grad()
def test_a_row_does_not_see_its_neighbours() -> None:
    torch.manual_seed(0)
    decoder = roughen(TransformerDecoder(random_config()))
    ids = torch.randint(0, 50, (3, 12))
    together = in_chunks(decoder, ids, CHUNKS["mixed"])
    ids[1:] = torch.randint(0, 50, (2, 12))
    again = in_chunks(decoder, ids, CHUNKS["mixed"])
    assert torch.equal(together[0], again[0])


def test_decoding_calls_one_custom_op(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = TransformerDecoder(random_config()).eval()
    step = Step(torch.tensor([0, 1], dtype=torch.int32), torch.tensor([1, 2], dtype=torch.int32), torch.tensor(2))
    calls = []

    def spy(*args: object) -> tuple[Tensor, Tensor, Tensor]:
        calls.append(args)
        return cached_attention(*args)

    monkeypatch.setattr("litseq.nn.attention.cached_attention", spy)
    with torch.no_grad():
        decoder.step(torch.zeros(2, 2, dtype=torch.int64), step, decoder.new_cache(2, 8))
    assert len(calls) == 2  # one a layer


def test_the_custom_ops_keep_their_contract() -> None:
    """Shapes, strides, no aliasing, no mutation: what torch.library checks."""
    cos, sin = torch.rand(40, 8), torch.rand(40, 8)
    lengths = [torch.tensor(v, dtype=torch.int32) for v in ([3, 1], [2, 1], 4)]
    cache = torch.randn(2, 2, 9, 16), torch.randn(2, 2, 9, 16)
    arguments = (torch.randn(2, 2, 8 * 16), *cache, *lengths, cos, sin, None, None, 4, 0.25)
    torch.library.opcheck(
        torch.ops.litseq.cached_attention.default, arguments, test_utils=("test_schema", "test_faketensor")
    )
    memory = torch.randn(2, 4, 5, 16), torch.randn(2, 4, 5, 16)
    torch.library.opcheck(
        torch.ops.litseq.attend_lengths.default,
        (torch.randn(2, 3, 64), *memory, torch.tensor([5, 2], dtype=torch.int32), 4, 0.25),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_a_cache_needs_its_scope() -> None:
    decoder = TransformerDecoder(random_config())
    layer = decoder.layers[0]
    with pytest.raises(AssertionError, match=r"Scope\.cached"):
        layer(torch.randn(1, 2, 64), Scope.causal(torch.zeros(1, 2), decoder.positions), decoder.new_cache(1, 4)[0])
