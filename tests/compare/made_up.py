"""Results with numbers of choice, for the rules and the report."""


def interval(value, half):
    return {"value": value, "low": value - half, "high": value + half}


def results(difference, half, by_seed, seed_half=None, margin=1.0, p50=(10.0, 20.0), failed=()):
    """Arm a scores 40, arm b `difference` less."""
    seeds = list(range(1, len(by_seed) + 1))
    speed = [
        {
            "grid": [{"batch": 1, "length": 16, "tokens_per_second": 1e3 / ms, "p50_ms": ms, "p95_ms": 2 * ms}],
            "latency": {"p50_ms": ms, "p95_ms": 2 * ms, "mean_tokens": 9.0, "inputs": 3, "ms": [ms] * 3},
            "memory": {"loaded_bytes": 2**26, "peak_bytes": 2**27, "python_bytes": 2**25, "batch": 8},
        }
        for ms in p50
    ]
    training = {
        "tokens": 5e6, "steps": 100, "flops": 1e15, "seconds": 600.0, "tokens_per_second": 9e3, "padding": 0.04,
        "peak_bytes": 2**30,
        "curve": [{"step": i, "tokens": 1e5 * i, "seconds": i, "flops": 1e12 * i, "val/loss": 5 / i} for i in range(1, 9)],
    }  # fmt: skip
    export = {"bytes": 2**22, "parity_token_agreement": 1.0}
    arms = {
        name: {
            "label": f"arm <{name}>",
            "init_args": {"learning_rate": 1e-3},
            "data": {},
            "parameters": 10_000,
            "changes": "",
            "seeds": {str(seed): {"training": training, "export": export} for seed in seeds},
            "speed": speed[number],
        }
        for number, name in enumerate("ab")
    }
    score = {
        name: interval(40 - shift, 1.0)
        | {"by_seed": {str(s): 40 - shift for s in seeds}, "seed_deviation": 0.2 if len(seeds) > 1 else None}
        for name, shift in (("a", 0), ("b", difference))
    }
    found = {
        "arm": "a",
        "against": "b",
        "seeds": len(seeds),
        "difference": interval(difference, half),
        "p_value": 0.01,
        "by_seed": by_seed,
        "seed_interval": None if seed_half is None else interval(difference, seed_half),
    }
    test = {
        "sentences": 100,
        "sentences_with_likelihood": 100,
        "resampled": {"unit": "sentences", "count": 100},
        "generated": True,
        "scores": {"bleu": score},
        "differences": {"bleu": [found]},
        "by_length": [{"words": "1-5", "sentences": 50, "arms": {name: interval(40, 2) for name in "ab"}}],
        "too_long": {"a": 0, "b": 0},
        "examples": [{"input": "a <b> & c", "reference": "x", "outputs": {"a": "x", "b": "</dd><script>"}}],
    }
    return {
        "title": "Made up & <odd>",
        "litseq_version": "0",
        "date": "2026-11-24T16:00+00:00",
        "machine": {"system": "Linux", "processor": "a processor", "cores": 2, "python": "3.11"},
        "configuration": {
            "margin": margin, "seeds": seeds, "budget": {"tokens": 5_000_000, "minutes": None}, "match": "parameters",
            "tolerance": 0.02,
        },
        "reference": "a",
        "metrics": {"bleu": {"label": "BLEU", "unit": "", "higher_is_better": True, "signature": "nrefs:1|tok:13a"}},
        "main_metric": "bleu",
        "arms": arms,
        "tests": {"test": test},
        "failed": list(failed),
    }  # fmt: skip
