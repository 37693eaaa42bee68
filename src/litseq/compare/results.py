"""From the files of the runs to results.json: scores, intervals, differences, costs, examples."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import litseq
from litseq.compare.config import Comparison
from litseq.compare.files import OUTPUTS, RESULT, read_json
from litseq.compare.items import conversation_numbers
from litseq.compare.planning import ArmPlan, run_directory
from litseq.compare.recommend import recommend
from litseq.compare.scoring import (
    BITS_PER_BYTE,
    PERPLEXITY,
    Metric,
    bleu_can_tell,
    length_buckets,
    likelihood_rows,
    named_buckets,
    text_metrics,
    text_rows,
)
from litseq.compare.statistics import (
    Floats,
    Interval,
    compare,
    estimate,
    over_seeds,
    resampled_scores,
    resamples,
    summed,
)
from litseq.errors import DataError
from litseq.runtime.processor import this_processor

_EXAMPLES = 8
_BUCKET_RESAMPLES = 300


@dataclass
class _Scored:
    """One metric on one test set: everything by arm and seed."""

    metric: Metric
    rows: dict[str, dict[int, Floats]]
    scores: dict[str, dict[int, Floats]]
    conversations: list[int] | None = None
    """Which each row is of; answers of one are not independent, so whole conversations are resampled."""

    @property
    def sentences(self) -> int:
        """Of how many it is."""
        return len(next(iter(next(iter(self.rows.values())).values())))

    @property
    def drawn(self) -> dict[str, Any]:
        """What is resampled, and how many there are."""
        if self.conversations is None:
            return {"unit": "sentences", "count": self.sentences}
        return {"unit": "conversations", "count": len(set(self.conversations))}

    def resample(self, rows: Floats, count: int, inside: list[int] | None = None) -> Floats:
        """Scores of resamples of rows, which are all of them or those `inside`."""
        if self.conversations is not None:
            rows = summed(rows, self.conversations if inside is None else [self.conversations[i] for i in inside])
        return resampled_scores(rows, self.metric.score, resamples(len(rows), count))

    def values(self, arm: str, seeds: list[int] | None = None) -> list[float]:
        chosen = self.rows[arm] if seeds is None else seeds
        return [self.metric.score(self.rows[arm][seed].sum(axis=0)) for seed in chosen]

    def resampled(self, arm: str, seeds: list[int] | None = None) -> list[Floats]:
        return [self.scores[arm][seed] for seed in (self.rows[arm] if seeds is None else seeds)]


def collect(
    comparison: Comparison,
    arms: list[ArmPlan],
    plans: list[dict[str, Any]],
    failed: dict[tuple[str, int], str],
    out: Path,
) -> dict[str, Any]:
    """Everything that was measured, as results.json holds it."""
    runs: dict[str, dict[int, Any]] = {arm.name: {} for arm in arms}
    outputs: dict[str, dict[int, Any]] = {arm.name: {} for arm in arms}
    for plan in plans:
        directory = run_directory(out, plan["arm"], plan["seed"])
        result = read_json(directory / RESULT)
        if result is not None:
            runs[plan["arm"]][plan["seed"]] = result
            outputs[plan["arm"]][plan["seed"]] = read_json(directory / OUTPUTS)
    outputs = {name: found for name, found in outputs.items() if found}
    speed = read_json(out / "speed.json") or {}
    tests = {}
    main = _main_metric(comparison, outputs)
    metrics: dict[str, Metric] = {}
    for test in plans[0]["tests"]:
        scored = _score(comparison, outputs, test)
        metrics |= {name: one.metric for name, one in scored.items()}
        tests[test] = _test_results(comparison, outputs, test, scored, main)
    results = {
        "litseq_version": litseq.__version__,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": _machine(),
        "title": comparison.title,
        "configuration": asdict(comparison),
        "reference": comparison.reference_arm,
        "metrics": {
            name: {"label": m.label, "unit": m.unit, "higher_is_better": m.higher_is_better, "signature": m.signature}
            for name, m in metrics.items()
        },
        "main_metric": main,
        "arms": {arm.name: _arm(arm, runs[arm.name], speed.get(arm.name)) for arm in arms},
        "tests": tests,
        "failed": [{"arm": arm, "seed": seed, "reason": reason} for (arm, seed), reason in failed.items()],
    }
    results["recommendation"] = recommend(results)
    return results


def _arm(arm: ArmPlan, runs: dict[int, Any], speed: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "label": arm.label,
        "class_path": arm.class_path,
        "init_args": arm.size.init_args,
        "parameters": arm.size.parameters,
        "changes": arm.size.changes,
        "tokens_budget": arm.tokens,
        "data": arm.data,
        "seeds": {str(seed): run for seed, run in runs.items()},
        "speed": speed,
    }


def _score(comparison: Comparison, outputs: dict[str, dict[int, Any]], test: str) -> dict[str, _Scored]:
    """Rows and resampled scores of every metric, the one that decides first."""
    first = next(iter(next(iter(outputs.values())).values()))[test]
    everything = [answers[test] for seeds in outputs.values() for answers in seeds.values()]
    known = [i for i in range(len(first["texts"])) if all(answers["tokens"][i] for answers in everything)]
    likelihood = {m.name: m for m in (BITS_PER_BYTE, PERPLEXITY)}
    texts = (
        {m.name: (m, scorer) for m, scorer in text_metrics(comparison.bleu_tokenizers)} if first["generated"] else {}
    )
    numbers = conversation_numbers(first["groups"]) or None
    found = {name: _Scored(pair[0], {}, {}, numbers) for name, pair in texts.items()}
    numbers = numbers and [numbers[i] for i in known]
    found |= {name: _Scored(metric, {}, {}, numbers) for name, metric in likelihood.items() if known}
    for arm, seeds in outputs.items():
        for seed, all_tests in seeds.items():
            answers = all_tests[test]
            rows = {n: text_rows(m, s, answers["outputs"], answers["references"]) for n, (m, s) in texts.items()}
            rows |= likelihood_rows(*([answers[key][i] for i in known] for key in ("nats", "tokens", "references")))
            for name, one in found.items():
                one.rows.setdefault(arm, {})[seed] = rows[name]
                one.scores.setdefault(arm, {})[seed] = one.resample(rows[name], comparison.resamples)
    return found


def _test_results(
    comparison: Comparison, outputs: dict[str, dict[int, Any]], test: str, scored: dict[str, _Scored], main: str
) -> dict[str, Any]:
    some = next(iter(next(iter(outputs.values())).values()))[test]
    if main not in scored:
        raise DataError(
            f"{test}: no answer fits into every arm together with its input, so {main} cannot be measured; give the arms"
            " a larger max_seq_len"
        )
    likelihood = scored.get(BITS_PER_BYTE.name)
    return {
        "sentences": len(some["texts"]),
        "sentences_with_likelihood": 0 if likelihood is None else likelihood.sentences,
        "resampled": scored[main].drawn,
        "generated": some["generated"],
        "scores": {name: {arm: _arm_score(one, arm) for arm in outputs} for name, one in scored.items()},
        "differences": {
            name: [_difference(one, left, right) for left, right in combinations(outputs, 2)]
            for name, one in scored.items()
        },
        "by_length": _by_length(scored[main], some, comparison) if some["generated"] else [],
        "too_long": {arm: max(a[test]["too_long"] for a in seeds.values()) for arm, seeds in outputs.items()},
        "examples": _examples(outputs, test),
    }


def _arm_score(one: _Scored, arm: str) -> dict[str, Any]:
    by_seed = one.values(arm)
    interval = estimate(by_seed, one.resampled(arm))
    return asdict(interval) | {
        "by_seed": dict(zip(map(str, one.rows[arm]), by_seed, strict=True)),
        "seed_deviation": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        "seed_interval": _plain(over_seeds(by_seed)),
    }


def _difference(one: _Scored, left: str, right: str) -> dict[str, Any]:
    seeds = [seed for seed in one.rows[left] if seed in one.rows[right]]
    if not seeds:
        return {"arm": left, "against": right, "seeds": 0}
    found = compare(
        one.values(left, seeds), one.values(right, seeds), one.resampled(left, seeds), one.resampled(right, seeds)
    )
    return {
        "arm": left,
        "against": right,
        "seeds": len(seeds),
        "difference": asdict(found.interval),
        "p_value": found.p_value,
        "by_seed": found.by_seed,
        "seed_interval": _plain(found.seed_interval),
    }


def _by_length(one: _Scored, answers: dict[str, Any], comparison: Comparison) -> list[dict[str, Any]]:
    found = []
    if one.sentences < len(answers["texts"]):
        return []  # some were too long to be scored, so rows and texts do not go together
    for words, inside in named_buckets(answers["groups"]) or length_buckets(answers["texts"]):
        count = min(_BUCKET_RESAMPLES, comparison.resamples)
        arms = {}
        for arm, seeds in one.rows.items():
            rows = [some[inside] for some in seeds.values()]
            values = [one.metric.score(part.sum(axis=0)) for part in rows]
            arms[arm] = asdict(estimate(values, [one.resample(part, count, inside) for part in rows]))
        found.append({"words": words, "sentences": len(inside), "arms": arms})
    return found


def _main_metric(comparison: Comparison, outputs: dict[str, dict[int, Any]]) -> str:
    """The metric that decides, by the kind of data where it is not given."""
    first = next(iter(next(iter(next(iter(outputs.values())).values())).values()))
    if comparison.metric is not None:
        return comparison.metric
    if not first["generated"] or first["groups"]:
        return BITS_PER_BYTE.name
    return "bleu" if bleu_can_tell(comparison.bleu_tokenizers, first["references"]) else "chrf"


def _examples(outputs: dict[str, dict[int, Any]], test: str) -> list[dict[str, Any]]:
    """Items of every length, those first on which the arms disagree; of each arm's first seed."""
    answers = {arm: next(iter(seeds.values()))[test] for arm, seeds in outputs.items()}
    some = next(iter(answers.values()))
    count = len(some["outputs"])
    differ = [i for i in range(count) if len({a["outputs"][i] for a in answers.values()}) > 1]
    pool = sorted(differ if len(differ) >= _EXAMPLES else range(count), key=lambda i: (len(some["texts"][i]), i))
    chosen = pool[:: max(1, len(pool) // _EXAMPLES)][:_EXAMPLES]
    return [
        {
            "input": some["texts"][i],
            "reference": some["references"][i],
            "outputs": {arm: found["outputs"][i] for arm, found in answers.items()},
        }
        for i in chosen
    ]


def _plain(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": this_processor().name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }
