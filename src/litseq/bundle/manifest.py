"""The manifest of a bundle: what the graphs are called, what they expect, and what was verified.

Compatibility promise: a litseq that writes format version N reads every version from 1 to N. A field is never given a
new meaning within a version; fields a reader does not know are ignored, so that a version may gain optional ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from litseq.bundle._fields import Fields
from litseq.errors import BundleError

FORMAT = "litseq-bundle"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

ARCHITECTURES = ("encoder-decoder", "decoder-only")
PROMPT_PASSES = ("chunks", "whole")
DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
DIM_WORDS = ("batch", "capacity", "source")

REQUIRED_INPUTS = ("input_ids", "last_positions", "new_lengths", "total_length", "logit_rows")
OPTIONAL_INPUTS = ("top_k", "source_lengths", "prefix_lengths")
REQUIRED_OUTPUTS = ("logits",)
OPTIONAL_OUTPUTS = ("top_ids", "top_log_probs")
ENCODER_INPUTS = ("input_ids", "lengths")


@dataclass(frozen=True)
class ModelInfo:
    """The module that was exported; `max_seq_len` bounds the positions of one row, and a source."""

    class_path: str
    vocab_size: int
    max_seq_len: int
    parameters: int = 0
    hparams: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class CacheTensor:
    """A tensor that a decoder call reads (`past`) and writes (`present`), both bound to the same memory.

    `dims` starts with "batch". With a "capacity" dim it grows with the sequence; without one it is a state of fixed
    size, all zeros before the first token of a row.
    """

    past: str
    present: str
    dims: tuple[int | str, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class CrossTensor:
    """A decoder input computed once a source by the encoder graph; `dims` has "batch" and usually "source"."""

    name: str
    dims: tuple[int | str, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class DecoderGraph:
    """The decoder graph: `inputs` and `outputs` map the roles of the format to tensor names."""

    file: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    cache: tuple[CacheTensor, ...]
    cross: tuple[CrossTensor, ...] = ()


@dataclass(frozen=True)
class EncoderGraph:
    """The encoder graph: `outputs` maps each of the decoder's cross inputs to the output that fills it."""

    file: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class FileEntry:
    """Size and SHA-256 of one file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Golden:
    """A text and the ids that the bundle's tokenizer must give for it, checked at every load."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer's file and its golden strings."""

    file: str
    golden: tuple[Golden, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime must know of a bundle; `problems()` says what is wrong with it."""

    architecture: str
    model: ModelInfo
    decoder: DecoderGraph
    tokenizer: TokenizerInfo
    encoder: EncoderGraph | None = None
    prompt_pass: str = "chunks"
    """"whole": a prompt must be one call (a prefix-LM sees its prefix whole); "chunks": it may be cut anywhere."""
    files: dict[str, FileEntry] = field(default_factory=dict)
    prompt_format: dict[str, object] = field(default_factory=dict)
    chat: dict[str, object] = field(default_factory=dict)
    """How a conversation becomes a prompt, see `litseq.text.ChatFormat`; empty where the model is no chatbot."""
    generation: dict[str, object] = field(default_factory=dict)
    """Defaults for `GenerationOptions`, in its words."""
    provenance: dict[str, object] = field(default_factory=dict)
    parity: dict[str, object] = field(default_factory=dict)
    quantization: dict[str, object] = field(default_factory=dict)
    """How the weights were quantised and what that cost; empty: they are fp32."""
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, object]:
        """The manifest as plain JSON types."""
        values: dict[str, object] = {"format": FORMAT, "format_version": self.format_version} | asdict(self)
        if not self.chat:
            del values["chat"]
        if not self.quantization:
            del values["quantization"]
        return values

    def to_json(self) -> str:
        """The text of `manifest.json`.

        Raises:
            BundleError: when a free field holds what JSON cannot.
        """
        try:
            return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise BundleError(f"{MANIFEST_NAME} can hold plain, finite values only: {error}") from error

    @classmethod
    def from_dict(cls, raw: object) -> Manifest:
        """Read a manifest.

        Raises:
            BundleError: naming every problem at once.
        """
        problems: list[str] = []
        _check_format(raw)
        fields = Fields(raw, "", problems)
        manifest = cls(
            architecture=fields.text("architecture", choices=ARCHITECTURES),
            model=_model(fields.child("model")),
            decoder=_decoder(fields.child("decoder")),
            tokenizer=_tokenizer(fields.child("tokenizer")),
            encoder=_encoder(fields.child("encoder")) if fields.has("encoder") else None,
            prompt_pass=fields.text("prompt_pass", "chunks", PROMPT_PASSES),
            files=fields.entries("files", _file),
            prompt_format=fields.mapping("prompt_format"),
            chat=fields.mapping("chat"),
            generation=fields.mapping("generation"),
            provenance=fields.mapping("provenance"),
            parity=fields.mapping("parity"),
            quantization=fields.mapping("quantization"),
            format_version=fields.integer("format_version", 1, FORMAT_VERSION),
        )
        if problems := [*problems, *(manifest.problems() if not problems else ())]:
            raise BundleError(f"{MANIFEST_NAME} is not usable: {_listing(problems)}; export the bundle again")
        return manifest

    def problems(self) -> list[str]:
        """What contradicts the format, one line each; empty when all is well."""
        found = _decoder_problems(self)
        found += _encoder_problems(self)
        listed = [self.decoder.file, self.tokenizer.file, *([self.encoder.file] if self.encoder else [])]
        found += [f"files does not list {name!r}" for name in listed if name not in self.files]
        found += [f"files[{name!r}] is no plain file name" for name in self.files if not is_plain_name(name)]
        built_for = self.model.hparams.get("max_seq_len")
        if isinstance(built_for, int) and self.model.max_seq_len > built_for:
            found.append(
                f"model.max_seq_len is {self.model.max_seq_len}, and the module was built for {built_for} "
                "(model.hparams.max_seq_len), which no edit can raise"
            )
        if MANIFEST_NAME in self.files:
            found.append(f"files lists {MANIFEST_NAME} itself")
        return found


def is_plain_name(name: str) -> bool:
    """Whether `name` names a file directly inside a directory, on any system: no separators, drives or dot names."""
    visible = bool(name) and len(name) <= 255 and not name.startswith(".") and name.isprintable()
    return visible and not any(mark in name for mark in '/\\:*?"<>|')


def _check_format(raw: object) -> None:
    name = raw.get("format") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or name != FORMAT:
        raise BundleError(
            f"{MANIFEST_NAME} does not describe a litseq bundle: format is {str(name)[:40]!r}, expected {FORMAT!r}"
        )
    version = raw.get("format_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
        raise BundleError(
            f"the bundle has format version {version}, this litseq reads versions 1 to {FORMAT_VERSION}; upgrade litseq"
        )


def _model(fields: Fields) -> ModelInfo:
    return ModelInfo(
        class_path=fields.text("class_path"),
        vocab_size=fields.integer("vocab_size", 1, 2**24),
        max_seq_len=fields.integer("max_seq_len", 1, 2**24),
        parameters=fields.integer("parameters", 0, 2**62) if fields.has("parameters") else 0,
        hparams=fields.mapping("hparams"),
    )


def _decoder(fields: Fields) -> DecoderGraph:
    return DecoderGraph(
        file=fields.text("file"),
        inputs=fields.texts("inputs"),
        outputs=fields.texts("outputs"),
        cache=fields.each("cache", _cache_tensor),
        cross=fields.each("cross", _cross_tensor),
    )


def _cache_tensor(fields: Fields) -> CacheTensor:
    return CacheTensor(
        past=fields.text("past"),
        present=fields.text("present"),
        dims=fields.dims("dims", DIM_WORDS[:2]),
        dtype=fields.text("dtype", "float32", DTYPES),
    )


def _cross_tensor(fields: Fields) -> CrossTensor:
    dims = fields.dims("dims", (DIM_WORDS[0], DIM_WORDS[2]))
    return CrossTensor(name=fields.text("name"), dims=dims, dtype=fields.text("dtype", "float32", DTYPES))


def _encoder(fields: Fields) -> EncoderGraph:
    return EncoderGraph(fields.text("file"), fields.texts("inputs"), fields.texts("outputs"))


def _file(fields: Fields) -> FileEntry:
    entry = FileEntry(fields.integer("bytes", 0, 2**62), fields.text("sha256"))
    if len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef"):
        fields.note("sha256", "is not 64 hexadecimal digits")
    return entry


def _tokenizer(fields: Fields) -> TokenizerInfo:
    return TokenizerInfo(
        fields.text("file"), fields.each("golden", lambda f: Golden(f.text("text", empty=True), f.integers("ids")))
    )


def _decoder_problems(manifest: Manifest) -> list[str]:
    decoder, found = manifest.decoder, []
    for kind, given, required, optional in (
        ("inputs", decoder.inputs, REQUIRED_INPUTS, OPTIONAL_INPUTS),
        ("outputs", decoder.outputs, REQUIRED_OUTPUTS, OPTIONAL_OUTPUTS),
    ):
        found += [f"decoder.{kind} has no {role!r}" for role in required if role not in given]
        found += [f"decoder.{kind} has an unknown role {role!r}" for role in given if role not in required + optional]
    if ("top_k" in decoder.inputs) != all(role in decoder.outputs for role in OPTIONAL_OUTPUTS):
        found.append("decoder has only some of top_k, top_ids and top_log_probs, expected all or none")
    if manifest.prompt_pass == "whole" and "prefix_lengths" not in decoder.inputs:
        found.append("decoder.inputs has no 'prefix_lengths' although prompt_pass is 'whole'")
    for where, dims in [(f"decoder.cache[{i}]", entry.dims) for i, entry in enumerate(decoder.cache)] + [
        (f"decoder.cross[{i}]", entry.dims) for i, entry in enumerate(decoder.cross)
    ]:
        if not dims or dims[0] != "batch" or "batch" in dims[1:]:
            found.append(f"{where}.dims must start with 'batch', found {list(dims)}")
        if dims.count("capacity") > 1 or dims.count("source") > 1:
            found.append(f"{where}.dims names a growing dimension twice, found {list(dims)}")
    if not any("capacity" in entry.dims for entry in decoder.cache):
        found.append("decoder.cache has no entry that grows with the sequence (a 'capacity' dim)")
    inputs = [*decoder.inputs.values(), *(c.past for c in decoder.cache), *(c.name for c in decoder.cross)]
    outputs = [*decoder.outputs.values(), *(c.present for c in decoder.cache)]
    return found + _twice("decoder input", inputs) + _twice("decoder output", outputs)


def _twice(what: str, names: list[str]) -> list[str]:
    return [f"{what} {name!r} is named twice" for name in sorted(set(names)) if names.count(name) > 1]


def _encoder_problems(manifest: Manifest) -> list[str]:
    encoder, decoder, found = manifest.encoder, manifest.decoder, []
    wants_encoder = manifest.architecture == "encoder-decoder"
    if wants_encoder != (encoder is not None):
        found.append(
            f"encoder is {'missing' if wants_encoder else 'given'} although architecture is {manifest.architecture}"
        )
    if encoder is None:
        if decoder.cross:
            found.append("decoder.cross is given without an encoder")
        return found
    found += [f"encoder.inputs has no {role!r}" for role in ENCODER_INPUTS if role not in encoder.inputs]
    found += [f"encoder.inputs has an unknown role {role!r}" for role in encoder.inputs if role not in ENCODER_INPUTS]
    found += [f"encoder.outputs has nothing for {c.name!r}" for c in decoder.cross if c.name not in encoder.outputs]
    found += _twice("encoder output", [*encoder.outputs.values()])
    if not decoder.cross:
        found.append("decoder.cross is empty although there is an encoder")
    if "source_lengths" not in decoder.inputs:
        found.append("decoder.inputs has no 'source_lengths' although there is an encoder")
    return found


def _listing(problems: list[str], most: int = 8) -> str:
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
