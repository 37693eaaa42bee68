"""One attention for everything: the same object, weights and inputs; only the mask and the source of keys differ.

    python benchmarks/same_attention.py [--out docs/experiments/same-attention.md]

For each use it compares `litseq.nn.Attention` with the definition written out (projections, scores, mask, softmax,
weighted sum), and counts floating-point operations twice: by the formula, and by torch's own counter.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from litseq.nn import Attention, KeyValue, Scope, Step, TransformerConfig
from litseq.nn.positions import PositionScheme

B, T, D, H = 2, 24, 64, 4
PREFIX = 9


@dataclass(frozen=True)
class Use:
    """One row of the table."""

    name: str
    used_by: str
    mask: str
    keys: str
    error: float
    formula: int
    counted: int | None


class NoPositions(PositionScheme):
    """Positions would be a difference besides mask and keys."""


def definition(attention: Attention, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """softmax(Q K' / sqrt(Dh) + mask) V, from the weights and nothing else of the class."""
    wq, wk, wv = attention.qkv.weight.chunk(3)
    query, key, value = (
        (y @ w.T).view(B, -1, H, D // H).transpose(1, 2) for y, w in ((x, wq), (memory, wk), (memory, wv))
    )
    scores = (query @ key.transpose(2, 3) / (D // H) ** 0.5).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2).reshape(B, -1, D) @ attention.out.weight.T


def formula(queries: int, keys: int) -> int:
    """Projections of queries, keys, values and output, scores and weighted sum; a multiplication and addition are two."""
    return 2 * B * D * D * (2 * queries + 2 * keys) + 4 * B * queries * keys * D


def measure() -> list[Use]:
    """All uses on one object."""
    torch.manual_seed(0)
    attention = Attention(TransformerConfig(vocab_size=8, embed_dim=D, num_heads=H, position="none")).eval()
    x, other, ids = torch.randn(B, T, D), torch.randn(B, T, D), torch.zeros(B, T, dtype=torch.int64)
    scheme = NoPositions()
    segments = torch.tensor([[1] * 10 + [2] * 14, [1] * 5 + [2] * 19])
    full = torch.ones(T, T, dtype=torch.bool)
    causal, prefix = full.tril(), full.tril() | (torch.arange(T) < PREFIX)
    packed = causal & (segments[:, :, None] == segments[:, None])
    scopes = {
        "encoder": Scope.bidirectional(T, scheme),
        "causal": Scope.causal(ids, scheme),
        "prefix": Scope.causal(ids, scheme, prefix_lengths=torch.full((B,), PREFIX)),
        "packed": Scope.causal(ids, scheme, segment_ids=segments),
    }

    def plain(name: str) -> Callable[[], Tensor]:
        return lambda: attention(x, scopes[name])[0]

    def cross() -> Tensor:
        return attention(x, Scope.memory(), memory=other)[0]

    rows = [
        ("self, everything seen", "encoder", "none", x, full, plain("encoder")),
        ("self, causal", "decoder, causal language model", "the past", x, causal, plain("causal")),
        ("self, prefix", "prefix language model", "the past and the prefix", x, prefix, plain("prefix")),
        ("self, packed", "pre-training on documents", "the past of its document", x, packed[:, None], plain("packed")),
        ("cross", "decoder to encoder", "none", other, full, cross),
        ("self, causal, from a cache", "generation, token by token", "the past", x, causal, lambda: stepwise(attention, x)),
    ]  # fmt: skip
    uses = []
    with torch.no_grad():
        for name, used_by, mask_name, memory, mask, run in rows:
            error = (run() - definition(attention, x, memory, mask)).abs().max().item()
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                run()
            cached = "cache" in name
            # A step asks once and sees a cache of T places, of which the mask hides the rest. The counter does not look
            # into the operation that does this.
            operations = T * formula(1, 0) + 2 * B * D * D * 2 * T + 4 * B * T * T * D if cached else formula(T, T)
            keys = "another sequence" if memory is other else "the sequence itself"
            uses.append(
                Use(name, used_by, mask_name, keys, error, operations, None if cached else counter.get_total_flops())
            )
    return uses


def stepwise(attention: Attention, x: Tensor) -> Tensor:
    """A token at a time behind a cache."""
    cache = KeyValue(*(x.new_zeros(B, H, T, D // H) for _ in range(2)))
    out = []
    for t in range(T):
        position = torch.full((B,), t, dtype=torch.int32)
        step = Step(position, torch.ones(B, dtype=torch.int32), torch.tensor(t + 1, dtype=torch.int32))
        y, cache = attention(x[:, t : t + 1], Scope.cached(step, 1, T, NoPositions()), past=cache)
        out.append(y)
    return torch.cat(out, dim=1)


def _counted(use: Use) -> str:
    return "-" if use.counted is None else f"{use.counted:,}"


def table(uses: list[Use]) -> str:
    """The page in Markdown."""
    lines = [
        "# The same attention",
        "",
        "One `litseq.nn.Attention`, one set of weights, the same inputs; only the mask and the sequence that keys and values",
        "come from differ. *Difference* is the largest one to the definition written out in plain torch; operations are",
        f"counted by formula and by `torch.utils.flop_counter`, for {B} sequences of {T} tokens, width {D}, {H} heads.",
        "",
        "| use | used by | mask | keys and values | difference | operations, formula | operations, counted |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {u.name} | {u.used_by} | {u.mask} | {u.keys} | {u.error:.0e} | {u.formula:,} | {_counted(u)} |"
        for u in uses
    ]
    lines += [
        "",
        "A mask hides and saves nothing by itself: every use costs the same. Where the architectures differ in cost is how",
        "many queries and keys there are. Behind a cache a step is one operation of litseq's own, into which the counter",
        "does not look. The formula: `2 B D D (2 T + 2 S) + 4 B T S D` for T queries and S keys.",
        "",
        "Made by `python benchmarks/same_attention.py --out docs/experiments/same-attention.md`; the test is",
        "`tests/parity/test_same_attention.py`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    args = parser.parse_args()
    page = table(measure())
    print(page)
    if args.out is not None:
        args.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
