"""`litseq inspect BUNDLE`: what a bundle is, where it came from, and what was verified."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litseq.bundle import Bundle
    from litseq.text import ChatFormat, Tokenizer

_CHECKS = ("manifest", "file sizes", "SHA-256 of every file", "golden strings of the tokenizer")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `inspect`."""
    parser = subparsers.add_parser(
        "inspect",
        help="say what a bundle is and check it",
        description="Check a bundle's manifest, files and tokenizer, and say what it is and where it came from.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a directory that `litseq export` wrote")
    parser.add_argument("--json", action="store_true", help="print the manifest and the checks as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the bundle and describe it; a bundle that fails a check raises its error."""
    from litseq.bundle import open_bundle
    from litseq.runtime.chat import ChatReader
    from litseq.runtime.tokenizer import load_tokenizer

    bundle = open_bundle(args.bundle)
    tokenizer = load_tokenizer(bundle)
    chat = ChatReader(bundle.manifest, tokenizer).format
    if args.json:
        print(json.dumps(bundle.manifest.to_dict() | {"checked": list(_CHECKS)}, indent=1))
    else:
        _show(bundle, _conversation(chat, tokenizer) if chat else {})
    return 0


def _show(bundle: Bundle, conversation: Mapping[str, object]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    manifest = bundle.manifest
    # A long name breaks over lines: rich would cut it off.
    columns = Column(overflow="fold"), Column(overflow="fold")
    table = Table(*columns, show_header=False, title=_plain(str(bundle.path)), title_justify="left")
    total = sum(entry.bytes for entry in manifest.files.values())
    sections: dict[str, Mapping[str, object]] = {
        "what it is": {
            "architecture": manifest.architecture,
            "module": manifest.model.class_path,
            "parameters": f"{manifest.model.parameters:,}" if manifest.model.parameters else "not stated",
            "vocabulary": f"{manifest.model.vocab_size:,} tokens",
            "longest sequence": f"{manifest.model.max_seq_len:,} tokens",
            "cache": f"{len(manifest.decoder.cache)} tensors, {_per_token(bundle):,} bytes a token and row",
            "format version": manifest.format_version,
        },
        "files": {name: f"{_size(entry.bytes)}  {entry.sha256[:12]}" for name, entry in sorted(manifest.files.items())}
        | {"together": _size(total)},
        "conversation": conversation,
        "generation defaults": manifest.generation,
        "where it came from": manifest.provenance,
        "quantised": manifest.quantization or {"weights": "fp32"},
        "verified at export": manifest.parity or {"parity": "not stated"},
        "verified now": dict.fromkeys(_CHECKS, "ok"),
    }
    for name, values in sections.items():
        if name == "conversation" and not values:
            continue
        table.add_section()
        table.add_row(f"[bold]{name}[/bold]", "")
        for key, value in flatten(values):
            table.add_row(f"  {_plain(key)}", _plain(value))
    Console(soft_wrap=False).print(table)


def _conversation(chat: ChatFormat, tokenizer: Tokenizer) -> dict[str, object]:
    """How the model is asked, for one that was trained on conversations."""
    from litseq.text import CHATML

    known = "the whole conversation" if chat.history is None else f"{chat.history} questions before, and their answers"
    return {
        "chat template": "ChatML" if chat.template.source == CHATML else f"Jinja: {chat.template.source}",
        "an answer knows": known if chat.history != 0 else "the question alone",
        "an answer ends with": ", ".join(str(tokenizer.id_to_token(token)) for token in chat.stop_ids),
    }


def flatten(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as lines of `a.b` and a short text."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{before}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for i, item in enumerate(value, 1):
                yield f"{before}{key}.{i}", ", ".join(f"{name} {_short(part, 40)}" for name, part in item.items())
        elif value not in (None, [], {}):
            yield f"{before}{key}", _short(value, 160)


def _short(value: object, width: int) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 3] + "..."


def _per_token(bundle: Bundle) -> int:
    """Bytes of the caches for one token of one row."""
    import math

    import numpy as np

    growing = [c for c in bundle.manifest.decoder.cache if "capacity" in c.dims]
    return sum(math.prod(d for d in c.dims if isinstance(d, int)) * np.dtype(c.dtype).itemsize for c in growing)


def _size(count: int) -> str:
    if count < 10_000:
        return f"{count:,} bytes"
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _plain(text: str) -> str:
    """Text of a bundle that cannot steer the terminal nor be read as markup."""
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else " " for character in text))
