"""The report in Markdown, from the merged results."""

from pathlib import Path
from typing import Any

from cases import CASES
from shapes import SHAPES
from systems import SYSTEMS

_MEASURES = {
    "decode": "tokens a second behind the first token: batch x (n - 1) / (T(n) - T(1))",
    "whole": "tokens a second of whole calls: batch x n / T(n)",
    "first": "prompt tokens a second: batch x prompt / T(1)",
}


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write `benchmarks.md`."""
    (out / "benchmarks.md").write_text(render(results), encoding="utf-8")


def render(results: dict[str, Any]) -> str:
    """The page."""
    cases = results["cases"]
    done = [found for found in cases.values() if found.get("ratio") is not None]
    lines = ["# Speed beside the peers", ""]
    if not done:
        return "\n".join([*lines, "Nothing was measured yet.", ""])
    versions: dict[str, str] = {}
    for found in done:
        versions |= found.get("versions", {})
    met = sum(found["ratio"] >= found["case"]["target"] for found in done)
    dates = sorted(found["date"] for found in done)
    lines += [
        "Made by `benchmarks/peers` ([how](bench.md#beside-the-peers)); the numbers are in "
        "[benchmarks.json](benchmarks.json).",
        "",
        f"{done[-1]['cpu']}, {done[-1]['threads']} threads. "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        + f". {dates[0]} to {dates[-1][-5:]}. `{results['command']}`",
        "",
        "Same weights for everybody, each system in a process of its own, one running while the others are stopped, in "
        "turns, medians. Of a system with several settings the fastest counts. A ratio above 1 means that litseq is "
        f"faster than the **best** of all peers. {met} of {len(done)} aims are met.",
        "",
        *_summary(done),
    ]
    for measure, text in _MEASURES.items():
        part = [found for found in done if found["case"]["measure"] == measure]
        if part:
            lines += [f"## {text[0].upper()}{text[1:]}", "", *_table(part), ""]
    lines += _scenarios([found for found in done if found["case"]["measure"] not in _MEASURES])
    lines += _missing(cases)
    lines += ["## Models", "", *(f"- `{shape.name}`: {shape.description}" for shape in SHAPES.values()), ""]
    if any(found.get("quick") for found in done):
        lines += ["**Some of these numbers come from a smoke run (`--quick`) and mean nothing.**", ""]
    return "\n".join(lines)


def _summary(done: list[dict[str, Any]]) -> list[str]:
    lines = ["| case | litseq / best peer | best peer | aim | |", "|---|---:|---|---:|---|"]
    for found in done:
        case = found["case"]
        mark = (
            "met"
            if found["ratio"] >= case["target"]
            else f"missed by {100 * (1 - found['ratio'] / case['target']):.0f} %"
        )
        extra = ""
        if "bandwidth_share" in found:
            aim = f" (aim {100 * case['bandwidth_target']:.0f} %)" if case["bandwidth_target"] else ""
            low, high = (round(rate / 1e9) for rate in (min(found["bandwidths"]), max(found["bandwidths"])))
            measured = str(low) if low == high else f"{low} to {high}"
            extra = f"; {100 * found['bandwidth_share']:.0f} % of the memory bandwidth, {measured} GB/s{aim}"
        lines.append(
            f"| {case['name']} | **{found['ratio']:.2f} x** | {found['best_peer']} | {case['target']:.2f} x | {mark}{extra} |"
        )
    return [*lines, ""]


def _table(part: list[dict[str, Any]]) -> list[str]:
    names = [name for name in SYSTEMS if any(_best(found, name) for found in part)]
    lines = ["| case | " + " | ".join(names) + " | ms to the first token | rows equal to transformers' fp32 |"]
    lines.append("|---|" + "---:|" * len(names) + "---|---|")
    for found in part:
        best = [_best(found, name) for name in names]
        cells = [_cell(*entry, found) if entry else "" for entry in best]
        shown = [(name, entry[1]) for name, entry in zip(names, best, strict=True) if entry]
        first = " / ".join(f"{values['first_milliseconds']:.1f}" for _, values in shown)
        equal = " / ".join(str(values["rows_equal"]) for _, values in shown)
        lines.append(f"| {found['case']['name']} | " + " | ".join(cells) + f" | {first} | {equal} of {found['rows']} |")
    return lines


def _best(found: dict[str, Any], system: str) -> tuple[str, dict[str, Any]] | None:
    own = {name: values for name, values in found["systems"].items() if values.get("system") == system}
    return max(own.items(), key=lambda item: item[1]["tokens_per_second"]) if own else None


def _cell(name: str, values: dict[str, Any], found: dict[str, Any]) -> str:
    speed = values["tokens_per_second"]
    text = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
    if len(values["repeats"]) > 1:
        text += f" ({min(values['repeats']):,.0f}-{max(values['repeats']):,.0f})"
    setting = name.partition(" (")[2].rstrip(")")
    return f"{text} {setting}".strip() if name != found.get("best_peer") else f"**{text}** {setting}".strip()


def _scenarios(part: list[dict[str, Any]]) -> list[str]:
    if not part:
        return []
    lines = ["## Beyond one batch", "", "| case | ratio | aim | what was measured |", "|---|---:|---:|---|"]
    for found in part:
        case = found["case"]
        lines.append(f"| {case['name']} | {found['ratio']:.2f} x | {case['target']:.2f} x | {found.get('note', '')} |")
    return [*lines, ""]


def _missing(cases: dict[str, Any]) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, found in cases.items():
        for system, reason in (found.get("absent", {}) | found.get("failed", {})).items():
            reasons.setdefault((system, reason), []).append(name)
    lines = [f"- {system}: {reason} ({', '.join(names)})" for (system, reason), names in sorted(reasons.items())]
    unmeasured = [case.name for case in CASES if cases.get(case.name, {}).get("ratio") is None]
    if unmeasured:
        lines.append(f"- not measured: {', '.join(unmeasured)}")
    return ["## Left out", "", *lines, ""] if lines else []
