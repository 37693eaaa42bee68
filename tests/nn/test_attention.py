"""One attention block: against its definition, against torch.nn, and against itself."""

import pytest
import torch
from torch import Tensor, nn

from litseq.nn import Attention, KeyValue, PositionScheme, Rotary, Scope
from nn.reference import attention_by_hand, random_config, rotate_by_hand, roughen

TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
IDS = torch.zeros(3, 9, dtype=torch.int64)
LENGTHS = torch.tensor([9, 4, 6])
REAL = torch.arange(9) < LENGTHS[:, None]
SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 3, 3, 3, 3], [1, 1, 2, 2, 2, 2, 2, 2, 0], [1] * 9])
PREFIX = torch.tensor([3, 0, 9])
NO_POSITIONS = PositionScheme()
BEFORE = torch.ones(9, 9, dtype=torch.bool).tril()

SCOPES = {
    "causal": (Scope.causal(IDS, NO_POSITIONS), BEFORE.expand(3, 9, 9)),
    "bidirectional": (Scope.bidirectional(9, NO_POSITIONS), torch.ones(3, 9, 9, dtype=torch.bool)),
    "padded": (Scope.bidirectional(9, NO_POSITIONS, REAL), REAL[:, None].expand(3, 9, 9)),
    "lengths": (Scope.bidirectional(9, NO_POSITIONS, None, LENGTHS.int()), REAL[:, None].expand(3, 9, 9)),
    "prefix": (Scope.causal(IDS, NO_POSITIONS, None, PREFIX), BEFORE | (torch.arange(9) < PREFIX[:, None])[:, None]),
    "packed": (Scope.causal(IDS, NO_POSITIONS, SEGMENTS), BEFORE & (SEGMENTS[:, :, None] == SEGMENTS[:, None])),
}


def heads_of(block: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    projected = block.qkv(x).unflatten(-1, (-1, block.head_dim)).transpose(1, 2)
    return projected.split([block.num_heads, block.num_kv_heads, block.num_kv_heads], dim=1)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", SCOPES)
@torch.no_grad()
def test_self_attention_is_its_definition(name: str, kv_heads: int) -> None:
    torch.manual_seed(0)
    block = roughen(Attention(random_config(num_kv_heads=kv_heads, bias=True)))
    scope, allowed = SCOPES[name]
    x = torch.randn(3, 9, 64)
    expected = block.out(attention_by_hand(*heads_of(block, x), allowed))
    torch.testing.assert_close(block(x, scope)[0], expected, **TOLERANCE)


@pytest.mark.parametrize("kv_heads", [2, 4])
@torch.no_grad()
def test_cross_attention_is_its_definition(kv_heads: int) -> None:
    torch.manual_seed(0)
    block = roughen(Attention(random_config(num_kv_heads=kv_heads)))
    x, memory = torch.randn(3, 5, 64), torch.randn(3, 9, 64)
    query, (_, key, value) = heads_of(block, x)[0], heads_of(block, memory)
    expected = block.out(attention_by_hand(query, key, value, REAL[:, None].expand(3, 5, 9)))
    for scope in (Scope.memory(REAL), Scope.memory(key_lengths=LENGTHS.int())):
        torch.testing.assert_close(block(x, scope, memory=memory)[0], expected, **TOLERANCE)
        prepared = block.keys_values(memory)
        torch.testing.assert_close(block(x, scope, memory=prepared)[0], expected, **TOLERANCE)


@torch.no_grad()
def test_the_same_computation_serves_self_and_cross_attention() -> None:
    """Same weights, same inputs: a sequence that attends to itself as memory attends to itself."""
    torch.manual_seed(0)
    block = roughen(Attention(random_config(num_kv_heads=2)))
    x = torch.randn(3, 9, 64)
    own, _ = block(x, Scope.bidirectional(9, NO_POSITIONS, REAL))
    cross, _ = block(x, Scope.memory(REAL), memory=x)
    torch.testing.assert_close(own, cross, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("length", [0, 1])
@torch.no_grad()
def test_a_prefix_of_at_most_one_token_is_causal(length: int) -> None:
    torch.manual_seed(0)
    block = roughen(Attention(random_config()))
    x = torch.randn(3, 9, 64)
    causal, _ = block(x, Scope.causal(IDS, NO_POSITIONS))
    prefix, _ = block(x, Scope.causal(IDS, NO_POSITIONS, None, torch.full((3,), length)))
    torch.testing.assert_close(causal, prefix, atol=1e-6, rtol=0.0)


@torch.no_grad()
def test_rotary_turns_pairs_by_their_position() -> None:
    torch.manual_seed(0)
    block = roughen(Attention(random_config(num_kv_heads=2)))
    rotary = Rotary(16, 40, base=500.0)
    x = torch.randn(3, 9, 64)
    query, key, value = heads_of(block, x)
    positions = torch.arange(9).expand(3, 9)
    query, key = (rotate_by_hand(t, positions, 500.0) for t in (query, key))
    expected = block.out(attention_by_hand(query, key, value, BEFORE.expand(3, 9, 9)))
    torch.testing.assert_close(block(x, Scope.causal(IDS, rotary))[0], expected, **TOLERANCE)


@torch.no_grad()
def test_it_equals_torchs_multi_head_attention() -> None:
    torch.manual_seed(0)
    block = roughen(Attention(random_config(bias=True)))
    theirs = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    theirs.in_proj_weight.copy_(block.qkv.weight)
    theirs.in_proj_bias.copy_(block.qkv.bias)
    theirs.out_proj.weight.copy_(block.out.weight)
    theirs.out_proj.bias.copy_(block.out.bias)
    x, memory = torch.randn(3, 9, 64), torch.randn(3, 9, 64)
    causal, _ = theirs(x, x, x, attn_mask=~BEFORE, need_weights=False)
    torch.testing.assert_close(block(x, Scope.causal(IDS, NO_POSITIONS))[0], causal, **TOLERANCE)
    cross, _ = theirs(x, memory, memory, key_padding_mask=~REAL, need_weights=False)
    torch.testing.assert_close(block(x, Scope.memory(REAL), memory=memory)[0], cross, **TOLERANCE)


def test_training_asks_for_the_fused_kernel_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = nn.functional.scaled_dot_product_attention

    def spy(*args: Tensor, **options: object) -> Tensor:
        calls.append(options)
        return original(*args, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    Attention(random_config())(torch.randn(3, 9, 64), Scope.causal(IDS, NO_POSITIONS))
    assert calls[0]["is_causal"] is True
    assert calls[0]["attn_mask"] is None


def test_without_padding_there_is_no_mask_at_all() -> None:
    seen = []
    block = Attention(random_config())
    block.attend = lambda q, k, v, mask, is_causal: seen.append((mask, is_causal)) or q
    block(torch.randn(3, 9, 64), Scope.bidirectional(9, NO_POSITIONS))
    block(torch.randn(3, 9, 64), Scope.memory(), memory=KeyValue(torch.randn(3, 4, 5, 16), torch.randn(3, 4, 5, 16)))
    assert seen == [(None, False), (None, False)]


def test_bfloat16_training_on_a_cpu_computes_attention_in_single_precision() -> None:
    torch.manual_seed(0)
    block = Attention(random_config(num_kv_heads=2))
    x = torch.randn(3, 9, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = block(x, Scope.causal(IDS, Rotary(16, 40)))
        out.sum().backward()
    assert out.dtype == torch.bfloat16
    expected, _ = block(x, Scope.causal(IDS, Rotary(16, 40)))
    torch.testing.assert_close(out.float(), expected, atol=2e-3, rtol=0.05)
    assert block.qkv.weight.grad.isfinite().all()
