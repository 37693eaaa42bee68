"""`export_bundle`: a trained module becomes a verified bundle."""

import contextlib
import copy
import dataclasses
import math
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

import litseq
from litseq import bundle
from litseq.bundle import BundleDraft, CacheTensor, CrossTensor, Manifest, ModelInfo, TokenizerInfo, create_bundle
from litseq.bundle.card import CARD_FILE, card_text
from litseq.errors import ExportError, UsageError
from litseq.export import locate
from litseq.export.golden import golden_strings
from litseq.export.graphs import GraphSpec, decoder_spec, encoder_spec
from litseq.export.parity import GraphRunner, ParityReport, check_parity
from litseq.export.reference import Reference, check_whole_module
from litseq.export.trace import trace
from litseq.generation import GenerationOptions
from litseq.generation.plain import plain
from litseq.models import SequenceModule
from litseq.quantize import QuantizeOptions, quantize_in_place
from litseq.quantize.quantizer import read_given
from litseq.quantize.weights import save_graphs
from litseq.text import PromptFormat, Tokenizer

TOLERANCE = 1e-4
TOKENIZER_FILE = "tokenizer.json"
DECODER_FILE, ENCODER_FILE = "decoder.onnx", "encoder.onnx"
PACKAGES = ("torch", "lightning", "onnx", "onnxscript", "onnxruntime")


def export_bundle(
    module: SequenceModule,
    tokenizer: Tokenizer,
    directory: str | Path,
    *,
    force: bool = False,
    tolerance: float = TOLERANCE,
    prompt_format: PromptFormat | None = None,
    metrics: Mapping[str, float] | None = None,
    quantize: Literal["int8", "int4"] | QuantizeOptions | None = None,
) -> ParityReport:
    """Write a module as a bundle that `litseq.runtime` runs without torch.

    The bundle holds a decoder graph with its cache (and for an encoder-decoder an encoder graph), the weights once, the
    tokenizer and a manifest. onnxruntime must give what torch gives, at several shapes, or nothing is written.

    Args:
        module: an `EncoderDecoder`, a `DecoderOnly` or a subclass of theirs, trained or not; it is not changed.
        tokenizer: the tokenizer it was trained with.
        directory: where the bundle goes; it appears whole or not at all.
        force: replace an existing bundle.
        tolerance: largest difference between the logits of torch and onnxruntime, relative to the larger of 1 and
            their root mean square.
        prompt_format: how a text becomes a prompt. None: what the module learned from its data module, or else what
            its architecture has by default.
        metrics: what was measured of these weights, for the record.
        quantize: write a quantised bundle, made from the verified fp32 graphs; see `litseq.quantize`. What it costs is
            in the report, the manifest and the card.

    Returns:
        What the comparison with torch found; its `quantization` says what quantising costs.

    Raises:
        UsageError: `directory` exists, and `force` is not set or it is no bundle.
        ExportError: an operation has no ONNX form, or onnxruntime and torch disagree.
    """
    bundle.check_target(directory, force=force)
    options = QuantizeOptions(quantize) if isinstance(quantize, str) else quantize
    if options is not None:
        # What cannot be read must not cost the export.
        read_given(options, pairs=module.architecture == "encoder-decoder", chat=bool(module.record.chat))
    with _on_cpu(module) as (on_cpu, encoder, decoder):
        _check_settings(module, tokenizer, encoder, decoder)
        prefix = bool(getattr(module, "prefix_lm", False))
        reference = Reference(decoder, encoder, prefix)
        specs = {DECODER_FILE: decoder_spec(decoder, prefix)}
        if encoder is not None:
            specs[ENCODER_FILE] = encoder_spec(encoder, decoder)
        check_whole_module(on_cpu, reference)
        with create_bundle(directory, force=force) as draft:
            origins = _write_graphs(specs, draft)
            manifest = _manifest(module, tokenizer, specs, draft.path, prompt_format, metrics)
            runner = GraphRunner(draft.path, manifest)
            report = check_parity(reference, runner, tolerance)
            if not report.passed:
                raise ExportError(_disagreement(report, specs, draft.path, origins))
            manifest = dataclasses.replace(manifest, parity=report.to_dict())
            if options is not None:
                del runner  # whose sessions hold the weights
                manifest, report.quantization = quantize_in_place(draft.path, manifest, options)
            (draft.path / CARD_FILE).write_text(card_text(manifest, draft.path), encoding="utf-8")
            draft.finish(manifest)
    return report


def assert_exportable(module: SequenceModule, tolerance: float = TOLERANCE) -> ParityReport:
    """Export a module and compare it with torch, keeping nothing: the test to write for a subclass.

    Raises:
        ExportError: says which operation cannot be exported and where, or by how much onnxruntime and torch disagree.
    """
    import tempfile

    size = int(module.hparams["vocab_size"])
    tokenizer = Tokenizer.train(["a"], vocab_size=min(size, 8), kind="char")
    with tempfile.TemporaryDirectory() as directory:
        return export_bundle(module, tokenizer, Path(directory) / "bundle", tolerance=tolerance)


def _check_settings(module: SequenceModule, tokenizer: Tokenizer, encoder: Any, decoder: Any) -> None:
    """What would be noticed behind the work, or only by who runs the bundle."""
    vocab, longest = int(module.hparams["vocab_size"]), int(module.hparams["max_seq_len"])
    if tokenizer.vocab_size > vocab:
        raise ExportError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the module was built for {vocab}: give the tokenizer that the "
            "module was trained with"
        )
    for stack in (encoder, decoder):
        config = getattr(stack, "config", None)
        if config is None:
            continue
        if (
            config.max_seq_len < longest
            or config.vocab_size < vocab
            or (stack is decoder and config.vocab_size > vocab)
        ):
            raise ExportError(
                f"{type(stack).__name__} was built for vocab_size {config.vocab_size} and max_seq_len {config.max_seq_len}, "
                f"its module for {vocab} and {longest}: build both for the same"
            )
    try:
        GenerationOptions.from_mapping(module.generation_options())
    except UsageError as error:
        raise ExportError(f"generation_options of {type(module).__name__} cannot go into a bundle: {error}") from error


@contextlib.contextmanager
def _on_cpu(module: SequenceModule) -> Iterator[tuple[SequenceModule, Any, Any]]:
    """The module and its stacks in single precision on the CPU and in evaluation mode, shared tables still shared."""
    tensors = (*module.parameters(), *module.buffers())
    if any(t.device.type != "cpu" or (t.is_floating_point() and t.dtype.itemsize != 4) for t in tensors):
        module = copy.deepcopy(module).to("cpu").float()
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    encoder, decoder = (getattr(part, "_orig_mod", part) for part in (getattr(module, "encoder", None), module.decoder))
    try:
        yield module, encoder, decoder
    finally:
        for part, training in modes:
            part.training = training


def _write_graphs(specs: dict[str, GraphSpec], draft: BundleDraft) -> dict[str, dict[str, str]]:
    models: dict[str, ir.Model] = {}
    origins = {}
    for name, spec in specs.items():
        models[name] = trace(spec)
        origins[name] = locate.module_outputs(models[name])
        locate.forget_origin(models[name])
    save_graphs(models, draft.path)
    return origins


def _manifest(
    module: SequenceModule,
    tokenizer: Tokenizer,
    specs: dict[str, GraphSpec],
    directory: Path,
    prompt_format: PromptFormat | None,
    metrics: Mapping[str, float] | None,
) -> Manifest:
    (directory / TOKENIZER_FILE).write_text(tokenizer.to_json(), encoding="utf-8")
    spec = specs[DECODER_FILE]
    roles = [name for name in (*spec.inputs, "top_k") if not name.startswith(("past_", "cross_"))]
    encoder = None
    if ENCODER_FILE in specs:
        names = specs[ENCODER_FILE]
        encoder = bundle.EncoderGraph(
            ENCODER_FILE, {name: name for name in names.inputs}, {name: name for name in names.outputs}
        )
    hparams = dict(module.hparams)
    return Manifest(
        architecture=module.architecture,
        model=ModelInfo(
            class_path=f"{type(module).__module__}.{type(module).__qualname__}",
            vocab_size=int(hparams["vocab_size"]),
            max_seq_len=int(hparams["max_seq_len"]),
            parameters=sum(p.numel() for p in module.parameters()),
            hparams={k: _finite(v) for k, v in hparams.items() if not k.startswith("_") and _is_plain(v)},
        ),
        decoder=bundle.DecoderGraph(
            DECODER_FILE,
            {name: name for name in roles},
            {name: name for name in ("logits", "top_ids", "top_log_probs")},
            tuple(CacheTensor(past, present, dims) for past, present, dims in spec.cache),
            tuple(CrossTensor(name, dims) for name, dims in spec.cross),
        ),
        encoder=encoder,
        tokenizer=TokenizerInfo(TOKENIZER_FILE, golden_strings(tokenizer)),
        prompt_pass="whole" if "prefix_lengths" in spec.inputs else "chunks",
        prompt_format=(prompt_format or _prompt_format(module, tokenizer)).to_dict(),  # type: ignore[arg-type]  # dict is invariant
        chat=module.record.chat or {},
        generation={name: plain(value) for name, value in module.generation_options().items()},
        provenance={
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"litseq": litseq.__version__, "python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
            "machine": platform.machine(),
            "data": module.record.data or {},
            "metrics": {name: _finite(float(value)) for name, value in (metrics or {}).items()},
        },
    )


def _prompt_format(module: SequenceModule, tokenizer: Tokenizer) -> PromptFormat:
    if module.record.prompt_format is not None:
        return PromptFormat.from_dict(module.record.prompt_format)
    bos = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
    if module.architecture == "encoder-decoder":
        return PromptFormat(suffix_ids=(tokenizer.eos_id,), start_ids=bos)
    return PromptFormat(prefix_ids=bos)


def _finite(value: Any) -> Any:
    """A plain value as JSON can hold it, which has neither NaN nor infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return {key: _finite(item) for key, item in value.items()} if isinstance(value, dict) else value


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def _disagreement(
    report: ParityReport, specs: dict[str, GraphSpec], directory: Path, origins: dict[str, dict[str, str]]
) -> str:
    worst = max(report.cases, key=lambda case: float(case["max_error"]))
    text = (
        f"onnxruntime and torch disagree: largest relative error of the logits {report.max_error:.3g} (tolerance "
        f"{report.tolerance:.0e}) at {worst['case']!r}, greedy tokens equal at {report.token_agreement:.1%} of "
        f"{report.positions} positions"
    )
    for name in reversed(list(specs)):  # the encoder runs first
        found = locate.first_difference(specs[name], directory / name, origins[name], report.tolerance)
        if found is not None:
            return f"{text}; in {name} {found}"
    return (
        f"{text}; every layer agrees in the traced shapes, so the module computes something else at other shapes, or when "
        "a row is read in parts: what joins neighbouring tokens outside of an attention needs a cache, see "
        "docs/subclassing.md"
    )
