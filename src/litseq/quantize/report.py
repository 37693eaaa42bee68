"""What a quantised bundle costs: measured against the fp32 bundle, on given texts or on the model's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from litseq.bundle import Manifest
from litseq.errors import UsageError
from litseq.quantize.runner import Row, Runner
from litseq.quantize.samples import Text
from litseq.runtime import Generator
from litseq.runtime.processor import this_processor

BATCH_ROWS, BATCH_TOKENS = 8, 24
_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm",
)  # fmt: skip


@dataclass
class QuantizationReport:
    """How far a quantised bundle is from the fp32 one."""

    measured_on: str
    """Which texts."""
    positions: int
    """Next-token distributions compared, each after the same tokens (teacher forcing)."""
    kl: float
    """Mean of KL(fp32 || quantised) in nats."""
    greedy_agreement: float
    """Share of positions where both find the same token likeliest."""
    rows_changed_by_batch: str
    """Of texts generated alone and in a batch of 8, how many came out differently."""
    bytes_before: int
    bytes_after: int
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """With validation texts: perplexity, BLEU and chrF as {"fp32": ..., "quantised": ...}."""
    machine: dict[str, object] = field(default_factory=dict)
    kept_at_8_bits: float = 0.0
    """Of an int4 bundle: the share of the weights in the layers that 4 bits would have hurt too much."""

    def to_dict(self) -> dict[str, object]:
        """Plain types, for the manifest."""
        return asdict(self)


def compare(before: Runner, after: Runner, rows: Sequence[Row]) -> tuple[float, float, int]:
    """Mean KL, greedy agreement and positions over rows, each from the end of its prompt on."""
    kl, same, count = 0.0, 0, 0
    for row in rows:
        first = row.prompt - 1
        expected, found = (_log_softmax(runner.run(row)[0][first:]) for runner in (before, after))
        possible = np.isfinite(expected)  # a token that the module forbids has no share in it
        kl += float((np.exp(expected[possible]) * (expected[possible] - found[possible])).sum())
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        count += len(expected)
    return max(0.0, kl / count), same / count, count


def loss_rise(before: Runner, after: Runner, rows: Sequence[Row], *, given: bool) -> float:
    """How much the mean negative log-probability of rows rises, in nats a token; perplexity rises by a factor of its exp.

    Args:
        before: The fp32 graphs.
        after: The quantised ones.
        rows: What to read.
        given: The rows are given texts, whose own tokens count. Else the model wrote them by its own probabilities: then
            the expectation over all tokens it might have written, which is KL(fp32 || quantised), says the same with less
            noise.
    """
    if not given:
        return compare(before, after, rows)[0]
    rise, count = 0.0, 0
    for row in rows:
        targets = np.array(row.tokens[row.prompt :])
        places = np.arange(len(targets))
        expected, found = (_log_softmax(runner.run(row)[0][row.prompt - 1 : -1]) for runner in (before, after))
        rise += float((expected[places, targets] - found[places, targets]).sum())
        count += len(targets)
    return rise / max(1, count)


def changed_by_batch(generator: Generator, rows: Sequence[Row], has_encoder: bool) -> str:
    """Greedy output of rows alone against the same rows together."""
    chosen = rows[:BATCH_ROWS]
    prompts = [
        list((row.source or ()) if has_encoder else row.tokens[: max(1, len(row.tokens) // 2)]) for row in chosen
    ]
    options = {"max_new_tokens": BATCH_TOKENS, "do_sample": False}
    alone = [generator.generate([prompt], **options)[0].token_ids for prompt in prompts]
    together = [completion.token_ids for completion in generator.generate(prompts, batch_size=len(prompts), **options)]
    changed = sum(a != b for a, b in zip(alone, together, strict=True))
    return f"{changed} of {len(prompts)}"


def perplexity(generator: Generator, rows: Sequence[Row], has_encoder: bool) -> float:
    """Of everything behind the prompts."""
    if has_encoder:
        starts = [list(row.source or ()) for row in rows]
    else:
        starts = [list(row.tokens[: row.prompt]) for row in rows]
    scores = generator.score(starts, [list(row.tokens[row.prompt :]) for row in rows])
    values = [value for score in scores for value in score.logprobs]
    return math.exp(-sum(values) / max(1, len(values)))


def need_sacrebleu() -> None:
    """Say so where it is missing.

    Raises:
        UsageError: sacrebleu is not installed.
    """
    try:
        import sacrebleu  # noqa: F401  only whether it can be
    except ImportError:
        raise UsageError("BLEU and chrF of pairs need sacrebleu; install it: pip install sacrebleu") from None


def text_metrics(generator: Generator, texts: Sequence[Text]) -> dict[str, float]:
    """BLEU and chrF of greedy output for the sources of pairs."""
    import sacrebleu

    outputs = [c.text for c in generator.generate([text.source or "" for text in texts], do_sample=False)]
    targets = [[text.target for text in texts]]
    return {
        "bleu": float(sacrebleu.corpus_bleu(outputs, targets).score),
        "chrf": float(sacrebleu.corpus_chrf(outputs, targets).score),
    }


def machine() -> dict[str, object]:
    """What the kernels that were measured depend on."""
    processor = this_processor()
    return {
        "cpu": processor.name,
        "features": [feature for feature in _FEATURES if feature in processor.features],
        "onnxruntime": onnxruntime.__version__,
    }


def size(directory: Path, manifest: Manifest) -> int:
    """Bytes of graphs and weights."""
    names = [name for name in manifest.files if name != manifest.tokenizer.file and not name.endswith(".md")]
    return sum((directory / name).stat().st_size for name in names)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))  # type: ignore[no-any-return]  # numpy types it Any
