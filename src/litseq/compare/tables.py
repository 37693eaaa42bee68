"""The tables of a report, once for Markdown and HTML: a title, a head, rows of cells."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Table:
    """A table; the first column names the rows."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def all_tables(results: dict[str, Any]) -> dict[str, Table]:
    """Every table of finished results, by the section it belongs to."""
    return {
        "quality": quality(results),
        "differences": differences(results),
        "lengths": by_length(results),
        "cost": cost(results),
        "size": size(results),
        "speed": speed(results),
    }


def measured(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms of which at least one run came to its end."""
    return {name: arm for name, arm in results["arms"].items() if arm["seeds"]}


def digits(results: dict[str, Any], metric: str) -> int:
    """How many decimals a metric is given with."""
    return 4 if metric == "bits_per_byte" else 2


def budget(results: dict[str, Any]) -> str:
    """How long an arm trained, in words."""
    setup = results["configuration"]
    tokens, minutes = setup["budget"]["tokens"], setup["budget"]["minutes"]
    if not tokens:
        return f"{minutes:g} minutes"
    if setup["match"] == "compute":  # each arm has its own number of them
        return f"the operations of {tokens:,} tokens of {results['arms'][results['reference']]['label']}"
    return f"{tokens:,} tokens"


def drawn(results: dict[str, Any]) -> str:
    """What the intervals resample."""
    unit: str = next(iter(results["tests"].values()))["resampled"]["unit"]
    return unit


def quality(results: dict[str, Any]) -> Table:
    """Scores with intervals."""
    arms = measured(results)
    rows = []
    for test, found in results["tests"].items():
        for metric, scores in found["scores"].items():
            about, n = results["metrics"][metric], digits(results, metric)
            cells = []
            for arm in arms:
                score = scores[arm]
                spread = score["seed_deviation"]
                over = "" if spread is None else f", seeds ± {spread:.{n}f}"
                cells.append(f"{score['value']:.{n}f} [{score['low']:.{n}f}, {score['high']:.{n}f}]{over}")
            unit = f" ({about['unit']})" if about["unit"] else ""
            arrow = "" if about["higher_is_better"] else ", lower is better"
            rows.append([f"{test}: {about['label']}{unit}{arrow}", *cells])
    signatures = [f"{m['label']}: {m['signature']}" for m in results["metrics"].values() if m["signature"]]
    note = (
        f"In brackets the 95 % interval of a bootstrap over {drawn(results)}; ± is the standard deviation over seeds."
    )
    return Table("Quality", ["", *_labels(arms)], rows, " ".join([note, *(f"{text}." for text in signatures)]))


def differences(results: dict[str, Any]) -> Table:
    """Every pair of arms by the metric that decides."""
    metric = results["main_metric"]
    n = digits(results, metric)
    rows = []
    for test, found in results["tests"].items():
        for d in found["differences"][metric]:
            names = f"{test}: {results['arms'][d['arm']]['label']} - {results['arms'][d['against']]['label']}"
            if not d["seeds"]:
                rows.append([names, "no seed in common", "", "", ""])
                continue
            diff, over = d["difference"], d["seed_interval"]
            rows.append(
                [
                    names,
                    f"{diff['value']:+.{n}f} [{diff['low']:+.{n}f}, {diff['high']:+.{n}f}]",
                    f"{d['p_value']:.3f}",
                    ", ".join(f"{value:+.{n}f}" for value in d["by_seed"]),
                    "-" if over is None else f"[{over['low']:+.{n}f}, {over['high']:+.{n}f}]",
                ]
            )
    label = results["metrics"][metric]["label"]
    head = ["", f"{label}, 95 % over {drawn(results)}", "p", "by seed", "95 % over seeds"]
    return Table(
        "Differences",
        head,
        rows,
        f"Paired bootstrap on the same {drawn(results)}; p as sacreBLEU's paired bootstrap test.",
    )


def by_length(results: dict[str, Any]) -> Table:
    """The deciding metric by the length of the input."""
    arms = measured(results)
    n = digits(results, results["main_metric"])
    test, found = next(iter(results["tests"].items()))
    rows = [
        [f"{bucket['words']} ({bucket['sentences']})"]
        + [
            f"{bucket['arms'][arm]['value']:.{n}f} [{bucket['arms'][arm]['low']:.{n}f}, {bucket['arms'][arm]['high']:.{n}f}]"
            for arm in arms
        ]
        for bucket in found["by_length"]
    ]
    return Table(f"By {bucketed_by(results)} ({test})", ["", *_labels(arms)], rows)


def bucketed_by(results: dict[str, Any]) -> str:
    """What the parts of the first test set differ in."""
    buckets = next(iter(results["tests"].values()))["by_length"]
    turns = bool(buckets) and buckets[0]["words"].startswith("turn ")
    return "turn of the conversation" if turns else "words of the input"


def cost(results: dict[str, Any]) -> Table:
    """What training took, the mean over seeds."""
    arms = measured(results)

    def mean(arm: str, name: str) -> float:
        values = [run["training"][name] or 0 for run in arms[arm]["seeds"].values()]
        return float(sum(values)) / len(values)

    rows = [
        ["tokens read", *(f"{mean(a, 'tokens'):,.0f}" for a in arms)],
        ["optimizer steps", *(f"{mean(a, 'steps'):,.0f}" for a in arms)],
        ["operations (formula)", *(f"{mean(a, 'flops'):.3g}" for a in arms)],
        ["time, validation included", *(duration(mean(a, "seconds")) for a in arms)],
        ["tokens/s", *(f"{mean(a, 'tokens_per_second'):,.0f}" for a in arms)],
        ["padding", *(f"{mean(a, 'padding'):.1%}" for a in arms)],
        ["peak memory of the process", *(mib(mean(a, "peak_bytes")) for a in arms)],
    ]
    return Table(
        "Cost of training", ["", *_labels(arms)], rows, "Mean over seeds. Tokens and tokens/s count no padding."
    )


def size(results: dict[str, Any]) -> Table:
    """What the bundles weigh."""
    arms = measured(results)
    runs = {name: next(iter(arm["seeds"].values())) for name, arm in arms.items()}
    rows = [
        ["parameters", *(f"{arm['parameters']:,}" for arm in arms.values())],
        ["changed to match", *(arm["changes"] or "-" for arm in arms.values())],
        ["bundle", *(mib(run["export"]["bytes"]) for run in runs.values())],
        [
            "torch against onnxruntime, tokens equal",
            *(f"{run['export']['parity_token_agreement']:.1%}" for run in runs.values()),
        ],
    ]
    memory = {name: (arm["speed"] or {}).get("memory") for name, arm in arms.items()}
    if all(memory.values()):
        rows.append(["memory, loaded", *(mib(m["loaded_bytes"]) for m in memory.values() if m)])
        batch = next(iter(memory.values()))
        rows.append(
            [
                f"memory, peak at batch {batch['batch'] if batch else ''}",
                *(mib(m["peak_bytes"]) for m in memory.values() if m),
            ]
        )
    return Table(
        "Size",
        ["", *_labels(arms)],
        rows,
        "Memory is the largest resident size of a process that serves only this bundle.",
    )


def speed(results: dict[str, Any]) -> Table:
    """Decode speed and latency."""
    arms = {name: arm for name, arm in measured(results).items() if arm["speed"]}
    if not arms:
        return Table("Speed", [""], [], "It was not measured.")
    cells = {name: {(c["batch"], c["length"]): c for c in arm["speed"]["grid"]} for name, arm in arms.items()}
    rows = []
    for key in sorted({key for found in cells.values() for key in found}):
        texts = [
            f"{c['tokens_per_second']:,.0f} tokens/s, p50 {c['p50_ms']:.1f} ms, p95 {c['p95_ms']:.1f} ms"
            if (c := found.get(key))
            else "too long"
            for found in cells.values()
        ]
        rows.append([f"batch {key[0]}, {key[1]} tokens", *texts])
    answers = [
        f"p50 {a['p50_ms']:.1f} ms, p95 {a['p95_ms']:.1f} ms, {a['mean_tokens']:.1f} tokens"
        for a in (arm["speed"]["latency"] for arm in arms.values())
    ]
    rows.append(["one test input, to its end", *answers])
    return Table(
        "Speed of generation",
        ["", *_labels(arms)],
        rows,
        "onnxruntime on this machine's processor; the arms took turns. Rows of a batch generate the number of tokens named, whatever they are.",
    )


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def mib(size: float) -> str:
    """Bytes as MiB."""
    return f"{size / 2**20:,.1f} MiB"


def _labels(arms: dict[str, dict[str, Any]]) -> list[str]:
    return [arm["label"] for arm in arms.values()]
