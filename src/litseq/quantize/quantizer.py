"""`quantize_bundle`: a smaller, faster bundle from an fp32 one, and what that costs."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from litseq.bundle import Bundle, FileEntry, Manifest, check_target, create_bundle, open_bundle
from litseq.bundle.card import CARD_FILE, card_text, manifest_name
from litseq.errors import BundleError
from litseq.quantize import report as reports
from litseq.quantize.apply import apply
from litseq.quantize.blocks_form import BlockWeight, block_size
from litseq.quantize.compensation import Sensitivity, compensate
from litseq.quantize.hessians import hessians
from litseq.quantize.linears import MIN_ELEMENTS
from litseq.quantize.mixing import raised, relative_error, smallest_share
from litseq.quantize.options import QuantizeOptions
from litseq.quantize.plan import Weight, find_weights
from litseq.quantize.report import QuantizationReport
from litseq.quantize.rounding import round_to_nearest
from litseq.quantize.rows_form import RowWeight, round_rows
from litseq.quantize.runner import Row, Runner, graph_files
from litseq.quantize.samples import Sampler, Text, read_texts
from litseq.quantize.weights import WEIGHTS_FILE, load_graph, save_graphs
from litseq.runtime import Generator
from litseq.runtime.sessions import check_threads

CALIBRATION_TOKENS = 12288
MEASURED_TOKENS = 2048
TRIAL_TOKENS = 4096
MEASURED_PAIRS = 200

Say = Callable[[str], None]


def quantize_bundle(
    bundle: str | Path,
    out: str | Path,
    to: Literal["int8", "int4"] | QuantizeOptions,
    *,
    force: bool = False,
    say: Say = lambda text: None,
) -> QuantizationReport:
    """Write a quantised copy of an fp32 bundle; needs no torch.

    Args:
        bundle: The fp32 bundle.
        out: Where the quantised one goes; it appears whole or not at all.
        to: `int8`, `int4`, or all options.
        force: Replace an existing bundle.
        say: Told what is being done.

    Returns:
        What it costs, which the manifest and the card of the new bundle state too.

    Raises:
        UsageError: `out` exists, or an option cannot be.
        BundleError: `bundle` is damaged, quantised already, or has nothing to quantise.
    """
    options = to if isinstance(to, QuantizeOptions) else QuantizeOptions(to)
    check_target(out, force=force)
    source = open_bundle(bundle)
    with create_bundle(out, force=force) as draft:
        kept = set(source.manifest.files) - set(graph_files(source.manifest)) - {WEIGHTS_FILE, CARD_FILE}
        for name in sorted(kept):
            shutil.copyfile(source.file(name), draft.path / name)
        manifest, report = quantize_files(source, draft.path, options, say)
        (draft.path / CARD_FILE).write_text(card_text(manifest, draft.path), encoding="utf-8")
        draft.finish(manifest)
    return report


def quantize_files(
    source: Bundle, target: Path, options: QuantizeOptions, say: Say = lambda text: None
) -> tuple[Manifest, QuantizationReport]:
    """Write quantised graphs and weights of `source` into a directory, which holds the other files already.

    Returns:
        The manifest of the new bundle, but for its files, and what the quantisation costs.
    """
    manifest = source.manifest
    if manifest.quantization:
        raise BundleError(
            f"{source.path} is quantised to {manifest.quantization.get('scheme')} already; quantise the fp32 bundle"
        )
    threads = check_threads(options.threads)
    models = {file: load_graph(source.file(file)) for file in graph_files(manifest)}
    before = _generator(source, threads)  # checks that graphs, weights and manifest fit together
    weights = find_weights(models)
    if not any(weight.linears for weight in weights):
        named = source.path.with_name(manifest_name(source.path))  # a draft has another name
        raise BundleError(
            f"{named} multiplies with no constant matrix of {MIN_ELEMENTS} elements or more, so there is nothing to "
            "quantise; keep it in fp32"
        )
    sampler = Sampler(manifest, before)
    given = read_given(options, pairs=manifest.encoder is not None, chat=bool(manifest.chat))
    calibration, calibrated_on = _calibration(sampler, options, given.calibration, say)
    say(f"rounding {len(weights)} matrices")
    done, errors = _quantise(source, models, weights, options, calibration, threads, target)
    kept = _keep_at_8_bits(source, weights, done, errors, sampler, options, given.calibration, threads, target, say)
    apply(models, weights, done)
    save_graphs(models, target)

    say("measuring")
    files = {file.name: FileEntry(file.stat().st_size, "0" * 64) for file in target.iterdir() if file.is_file()}
    new = replace(manifest, files=files)
    report = _measure(source, Bundle(target, new), before, sampler, options, given.validation, threads)
    report.kept_at_8_bits = kept
    facts: dict[str, object] = {
        "scheme": options.to,
        "form": options.form,
        "batch": "large" if options.form == "rows" else "small",
        "bits": {"layers": options.bits, "head": _head_bits(options), "tables": _head_bits(options)},
        "block": None if options.form == "rows" else options.widest_block,
        "batch_invariant": options.form == "rows",
        "rounding": "compensated" if calibration else "nearest",
        "calibrated_on": calibrated_on,
        "report": report.to_dict(),
    }
    return replace(new, quantization=facts), report


def quantize_in_place(
    directory: Path, manifest: Manifest, options: QuantizeOptions
) -> tuple[Manifest, QuantizationReport]:
    """Quantise the graphs of a draft: a directory with all files of a bundle but its manifest and card."""
    sizes = {file.name: FileEntry(file.stat().st_size, "0" * 64) for file in directory.iterdir()}
    source = Bundle(directory, replace(manifest, files=sizes))
    with tempfile.TemporaryDirectory(prefix=f".{directory.name.strip('.')}.", dir=directory.parent) as beside:
        shutil.copyfile(source.file(manifest.tokenizer.file), Path(beside) / manifest.tokenizer.file)
        new, report = quantize_files(source, Path(beside), options)
        for file in Path(beside).iterdir():
            file.replace(directory / file.name)
    return replace(new, files={}), report


def _generator(bundle: Bundle, threads: int) -> Generator:
    """A generator without the bundle's own defaults: beams, a penalty or a stop string are none of what is measured."""
    kept = {name: value for name, value in bundle.manifest.generation.items() if name == "max_new_tokens"}
    return Generator(
        replace(bundle, manifest=replace(bundle.manifest, generation=kept)), threads=threads, spinning=False
    )


def _calibration(
    sampler: Sampler, options: QuantizeOptions, texts: list[Text], say: Say
) -> tuple[list[Row], str | None]:
    if options.to == "int8" or not options.compensate:
        return [], None
    if options.calibration is not None:
        rows = sampler.rows(texts, CALIBRATION_TOKENS)
        return rows, f"{len(rows)} rows, {sum(len(row.tokens) for row in rows)} tokens of {options.calibration.name}"
    say("letting the model write texts to calibrate on")
    rows = sampler.own_rows()
    return rows, f"{len(rows)} rows, {sum(len(row.tokens) for row in rows)} tokens that the model wrote"


def _head_bits(options: QuantizeOptions) -> int:
    return 8 if options.to == "int8" else options.head_bits


def _quantise(
    source: Bundle,
    models: dict[str, ir.Model],
    weights: Sequence[Weight],
    options: QuantizeOptions,
    calibration: Sequence[Row],
    threads: int,
    scratch: Path,
) -> tuple[dict[str, RowWeight | BlockWeight], dict[str, float]]:
    """Every weight by its name, and the relative error of the products of those with 4 bits."""
    if options.form == "rows":
        return {weight.name: round_rows(weight.name, weight.matrix()) for weight in weights}, {}
    logits = source.manifest.decoder.outputs["logits"]
    done: dict[str, RowWeight | BlockWeight] = {}
    errors: dict[str, float] = {}
    bits = {
        weight.name: _head_bits(options) if weight.tables or weight.gives(logits) else options.bits
        for weight in weights
    }
    block = {weight.name: block_size(weight.width, options.widest_block) for weight in weights}
    if calibration:
        some = [weight for weight in weights if weight.linears and bits[weight.name] == 4]
        for hessian, readers in hessians(source.path, source.manifest, models, some, calibration, threads, scratch):
            sensitivity = Sensitivity.of(hessian)
            for weight in readers:
                name, matrix = weight.name, weight.matrix()
                done[name] = rounded = compensate(name, matrix, sensitivity, bits[name], block[name])
                errors[name] = relative_error(matrix, rounded, hessian)
    for weight in weights:
        name = weight.name
        if name not in done:
            matrix = weight.matrix()
            done[name] = rounded = round_to_nearest(name, matrix, bits[name], block[name])
            if weight.linears and bits[name] == 4:
                errors[name] = relative_error(matrix, rounded)
    return done, errors


def _keep_at_8_bits(
    source: Bundle,
    weights: Sequence[Weight],
    done: dict[str, RowWeight | BlockWeight],
    errors: dict[str, float],
    sampler: Sampler,
    options: QuantizeOptions,
    texts: list[Text],
    threads: int,
    scratch: Path,
    say: Say,
) -> float:
    """Put as many matrices as `max_loss` asks for at 8 bits into `done`; their share of the weights in the layers."""
    if math.isinf(options.max_loss) or not errors:
        return 0.0
    by_name = {weight.name: weight for weight in weights}
    sizes = {name: by_name[name].size for name in errors}
    sampler.seed += 1  # others than those it was calibrated on
    given = options.calibration is not None
    rows = sampler.rows(texts, TRIAL_TOKENS, others=True) if given else sampler.own_rows(16, 96)
    rows = _fewer(rows, TRIAL_TOKENS)
    before = Runner(source.path, source.manifest, threads)

    def with_share(share: float) -> dict[str, RowWeight | BlockWeight]:
        chosen = raised(errors, sizes, share)
        return done | {name: _at_8_bits(by_name[name], options) for name in chosen}

    def rise_of(share: float) -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as directory:
            models = {file: load_graph(source.file(file)) for file in graph_files(source.manifest)}
            apply(models, find_weights(models), with_share(share))
            save_graphs(models, Path(directory))
            files = {file.name: FileEntry(file.stat().st_size, "0" * 64) for file in Path(directory).iterdir()}
            after = Runner(Path(directory), replace(source.manifest, files=files), threads)
            rise = reports.loss_rise(before, after, rows, given=given)
        say(f"{share:.0%} of the weights at 8 bits: the loss rises by {rise:.2g} nats")
        return rise

    share = smallest_share(rise_of, options.max_loss)
    done.update(with_share(share))
    return sum(sizes[name] for name in raised(errors, sizes, share)) / sum(sizes.values())


def _at_8_bits(weight: Weight, options: QuantizeOptions) -> BlockWeight:
    return round_to_nearest(weight.name, weight.matrix(), 8, block_size(weight.width, options.widest_block))


def _fewer(rows: Sequence[Row], tokens: int) -> list[Row]:
    """The first rows, until they have so many tokens."""
    fewer: list[Row] = []
    for row in rows:
        fewer.append(row)
        if sum(len(row.tokens) for row in fewer) >= tokens:
            break
    return fewer


@dataclass(frozen=True)
class GivenTexts:
    """The user's texts; empty where a file is not given."""

    calibration: list[Text]
    validation: list[Text]


def read_given(options: QuantizeOptions, *, pairs: bool, chat: bool) -> GivenTexts:
    """The files that the options name, read before the work: one that is no file of texts must not cost it."""
    files = options.calibration, options.validation
    given = GivenTexts(*([] if file is None else read_texts(file, pairs, chat) for file in files))
    if any(text.source is not None for text in given.validation):
        reports.need_sacrebleu()
    return given


def _measure(
    source: Bundle,
    new: Bundle,
    before: Generator,
    sampler: Sampler,
    options: QuantizeOptions,
    texts: list[Text],
    threads: int,
) -> QuantizationReport:
    has_encoder = new.manifest.encoder is not None
    if options.validation is not None:
        rows = sampler.rows(texts, MEASURED_TOKENS * 8)
        name = options.validation.name
    else:
        sampler.seed += 1  # others than those it was calibrated on
        rows, name = sampler.own_rows(16, 96), "texts that the model wrote"
    fewer = _fewer(rows, MEASURED_TOKENS)
    after = _generator(new, threads)
    runners = [Runner(bundle.path, bundle.manifest, threads) for bundle in (source, new)]
    kl, agreement, positions = reports.compare(runners[0], runners[1], fewer)
    metrics: dict[str, dict[str, float]] = {}
    if texts:
        both = {"fp32": before, "quantised": after}
        metrics["perplexity"] = {key: reports.perplexity(g, rows, has_encoder) for key, g in both.items()}
        if pairs := [text for text in texts if sampler.can_read(text)][:MEASURED_PAIRS]:
            found = {key: reports.text_metrics(g, pairs) for key, g in both.items()}
            metrics |= {metric: {key: found[key][metric] for key in both} for metric in ("bleu", "chrf")}
    return QuantizationReport(
        name,
        positions,
        kl,
        agreement,
        reports.changed_by_batch(after, fewer, has_encoder),
        reports.size(source.path, source.manifest),
        reports.size(new.path, new.manifest),
        metrics,
        reports.machine(),
    )
