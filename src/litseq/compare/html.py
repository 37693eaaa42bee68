"""report.html: one file that needs nothing else, to be looked at before it is read."""

import json
from html import escape
from importlib.resources import files
from typing import Any

from litseq.compare.charts import Estimate, Series, grouped_chart, interval_chart, legend, line_chart
from litseq.compare.tables import Table, all_tables, bucketed_by, budget, drawn, measured

_COLOURS = 6


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    colours = {arm: number % _COLOURS for number, arm in enumerate(results["arms"])}
    key = legend([(arm["label"], colours[name]) for name, arm in results["arms"].items()])
    tables = all_tables(results)
    style = files("litseq.compare").joinpath("page.css").read_text(encoding="utf-8")
    body = [
        _head(results),
        _verdict(results),
        _section("Quality", key + _quality(results, colours), tables["quality"], tables["differences"]),
        _section("Learning curves", key + _curves(results, colours)),
        _section(f"Quality by {bucketed_by(results)}", key + _lengths(results, colours), tables["lengths"])
        if tables["lengths"].rows
        else "",
        _section("Speed", key + _speed(results, colours), tables["speed"]),
        _section("Size and memory", "", tables["size"]),
        _section("Cost of training", "", tables["cost"]),
        _examples(results),
        _how(results),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(results['title'])}</title><style>{style}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(results: dict[str, Any]) -> str:
    setup, machine = results["configuration"], results["machine"]
    seeds = len(setup["seeds"])
    return (
        f"<h1>{escape(results['title'])}</h1><p class=soft>{len(results['arms'])} arms, {seeds} seed{'s' if seeds > 1 else ''} each, "
        f"{escape(budget(results))} of training an arm, matched by {escape(setup['match'])}. {escape(results['date'])}, {escape(machine['processor'])}, "
        f"{machine['cores']} cores.</p>"
    )


def _verdict(results: dict[str, Any]) -> str:
    found = results["recommendation"]
    why = "".join(f"<li>{escape(sentence)}</li>" for sentence in found["sentences"])
    caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in found["caveats"])
    return (
        f"<section class=verdict><strong>{escape(found['headline'])}</strong>"
        f"<span class=badge>confidence: {escape(found['confidence'])}</span><ul>{why}</ul></section>"
        f"<details open><summary>What this does not show</summary><ul>{caveats}</ul></details>"
    )


def _section(title: str, plots: str, *tables: Table) -> str:
    shown = "".join(_table(table, named=table.title != title) for table in tables if table.rows)
    return f"<h2>{escape(title)}</h2>{plots}{shown}"


def _table(table: Table, named: bool) -> str:
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        "<tr>"
        + "".join(
            f"<th scope=row>{escape(cell)}</th>" if not i else f"<td>{_cell(cell)}</td>" for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f"<p class=soft>{escape(table.note)}</p>" if table.note else ""
    title = f"<h3>{escape(table.title)}</h3>" if named else ""
    return f"{title}<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}"


def _cell(text: str) -> str:
    """A number on a line of its own, what belongs to it smaller below: else six arms are wider than any screen."""
    main, mark, rest = text.partition(" [") if " [" in text else text.partition(", p50")
    return f"{escape(main)}<small>{escape(mark.lstrip(' ,') + rest)}</small>" if mark else escape(text)


def _figure(chart: str, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>" if chart else ""


def _plots(*figures: str) -> str:
    return f"<div class=plots>{''.join(figures)}</div>"


def _quality(results: dict[str, Any], colours: dict[str, int]) -> str:
    metric = results["main_metric"]
    about = results["metrics"][metric]
    figures = []
    for test, found in results["tests"].items():
        scores = [
            Estimate(
                results["arms"][arm]["label"], colours[arm], s["value"], s["low"], s["high"], _singles(s["by_seed"])
            )
            for arm, s in found["scores"][metric].items()
        ]
        figures.append(
            _figure(
                interval_chart(scores, about["label"], f"{about['label']} on {test}"),
                f"{test}: bars are 95 % intervals over {drawn(results)}, hollow dots single seeds.",
            )
        )
        pairs = [
            Estimate(
                f"{results['arms'][d['arm']]['label']} - {results['arms'][d['against']]['label']}",
                colours[d["arm"]],
                d["difference"]["value"],
                d["difference"]["low"],
                d["difference"]["high"],
                d["by_seed"] if len(d["by_seed"]) > 1 else [],
            )
            for d in found["differences"][metric]
            if d["seeds"]
        ]
        if pairs:
            figures.append(
                _figure(
                    interval_chart(pairs, f"difference in {about['label']}", f"Differences on {test}", zero=True),
                    f"{test}: differences on the same {drawn(results)}. An interval across the line at 0 shows no difference.",
                )
            )
    return _plots(*figures)


def _singles(by_seed: dict[str, float]) -> list[float]:
    return list(by_seed.values()) if len(by_seed) > 1 else []


def _curves(results: dict[str, Any], colours: dict[str, int]) -> str:
    figures = []
    for x, x_label in (
        ("tokens", "tokens read"),
        ("seconds", "seconds of training"),
        ("flops", "operations (formula)"),
    ):
        series = [
            Series(
                f"{arm['label']}, seed {seed}",
                colours[name],
                [(p[x], p["val/loss"]) for p in run["training"]["curve"] if "val/loss" in p],
                number > 0,
            )
            for name, arm in measured(results).items()
            for number, (seed, run) in enumerate(arm["seeds"].items())
        ]
        figures.append(
            _figure(
                line_chart(series, x_label, "validation loss", f"Validation loss by {x_label}"),
                f"Validation loss by {x_label}; further seeds are dashed.",
            )
        )
    return _plots(*figures)


def _lengths(results: dict[str, Any], colours: dict[str, int]) -> str:
    found = next(iter(results["tests"].values()))["by_length"]
    groups = [
        (
            bucket["words"],
            [Estimate(results["arms"][arm]["label"], colours[arm], **score) for arm, score in bucket["arms"].items()],
        )
        for bucket in found
    ]
    label = results["metrics"][results["main_metric"]]["label"]
    return _plots(
        _figure(
            grouped_chart(groups, label, f"{label} by {bucketed_by(results)}", bars=False),
            f"{label} by {bucketed_by(results)}, with 95 % intervals.",
        )
    )


def _speed(results: dict[str, Any], colours: dict[str, int]) -> str:
    arms = {name: arm for name, arm in measured(results).items() if arm["speed"]}
    cells: dict[tuple[int, int], list[tuple[str, float]]] = {}
    for name, arm in arms.items():
        for cell in arm["speed"]["grid"]:
            cells.setdefault((cell["batch"], cell["length"]), []).append((name, cell["tokens_per_second"]))
    lengths = sorted({length for _, length in cells})
    figures = []
    for length in lengths:
        groups = [
            (f"batch {batch}", [_bar(results, colours, name, value) for name, value in found])
            for (batch, size), found in sorted(cells.items())
            if size == length
        ]
        figures.append(
            _figure(
                grouped_chart(groups, "tokens/s", f"Tokens per second, {length} tokens a row"),
                f"Generated tokens per second, {length} tokens a row.",
            )
        )
    latency = [
        (title, [_bar(results, colours, n, a["speed"]["latency"][key]) for n, a in arms.items()])
        for key, title in (("p50_ms", "median"), ("p95_ms", "95th percentile"))
    ]
    if arms:
        figures.append(
            _figure(
                grouped_chart(latency, "ms", "Latency of one input"),
                "Time until one test input is answered to its end.",
            )
        )
    return _plots(*figures)


def _bar(results: dict[str, Any], colours: dict[str, int], arm: str, value: float) -> Estimate:
    return Estimate(results["arms"][arm]["label"], colours[arm], value, value, value)


def _examples(results: dict[str, Any]) -> str:
    test, found = next(iter(results["tests"].items()))
    parts = [
        f"<h2>Outputs side by side</h2><p class=soft>{escape(test)}, short to long, first seed; those on which the arms differ, where there are enough.</p>"
    ]
    for example in found["examples"]:
        rows = [("input", example["input"], ""), ("expected", example["reference"], "")]
        rows += [
            (results["arms"][arm]["label"], text, "right" if text == example["reference"] else "")
            for arm, text in example["outputs"].items()
        ]
        cells = "".join(
            f'<dt>{escape(name)}</dt><dd class="{mark}" dir=auto>{escape(text) or "<em>nothing</em>"}</dd>'
            for name, text, mark in rows
        )
        parts.append(f"<div class=example><dl>{cells}</dl></div>")
    return "".join(parts)


def _how(results: dict[str, Any]) -> str:
    setup = escape(json.dumps(results["configuration"], indent=1, ensure_ascii=False))
    failed = "".join(
        f"<li>{escape(run['arm'])}, seed {run['seed']}: {escape(run['reason'])}</li>" for run in results["failed"]
    )
    failures = f"<h2>Runs that failed</h2><ul>{failed}</ul>" if failed else ""
    machine = results["machine"]
    return (
        f"{failures}<h2>How it was made</h2><details><summary>The configuration</summary><pre>{setup}</pre></details>"
        f"<footer>litseq {escape(results['litseq_version'])}, Python {escape(machine['python'])}, {escape(machine['system'])}, "
        f"{escape(machine['processor'])}. Every number is in results.json.</footer>"
    )
