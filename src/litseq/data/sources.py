"""Where examples come from: one reader a file format, each returns columns of text."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from litseq.data.lines import BadLines, decode_line, read_lines, without_blank_end
from litseq.errors import DataError

Paths = str | list[str] | list[list[str]] | tuple[str, str] | dict[str, Any] | None
"""One file, several, a pair of aligned files, or several such pairs; or a dataset, described by a dictionary. Plain types
so that a config file can say it."""

Columns = tuple[list[Any], ...]
"""Columns of equal length: of texts, or of what else a data module reads an example into."""


@dataclass(frozen=True)
class Records:
    """Rows of a dataset: what a line of JSON would hold, each."""

    name: str
    rows: Iterable[Any]
    first: int = 0

    def __len__(self) -> int:
        return len(self.rows)  # type: ignore[arg-type]  # of a piece it is a list

    def numbered(self) -> Iterator[tuple[int, Any]]:
        """The rows with their numbers, from 1."""
        return enumerate(self.rows, self.first + 1)


Source = Paths | Records
"""What a reader takes: files, or the rows of a dataset."""

DATASET_BUILDERS = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
"""Files that only the library `datasets` reads: its builder for each."""

_SUFFIXES = {".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
PAIR_FORMATS = ("tsv", "jsonl", "aligned")


@dataclass(frozen=True)
class PairFields:
    """Which part of a line is the source and which the target."""

    source_column: int = 0
    target_column: int = 1
    source_field: str = "source"
    target_field: str = "target"

    @property
    def names(self) -> tuple[str, str]:
        """The fields of both."""
        return self.source_field, self.target_field


def plain_paths(paths: Any) -> Any:
    """Paths with every `os.PathLike` made a string, so that a checkpoint can hold them as hyper-parameters."""
    if isinstance(paths, os.PathLike):
        return os.fspath(paths)
    if isinstance(paths, dict):
        return {name: plain_paths(value) for name, value in paths.items()}
    if isinstance(paths, list | tuple):
        return type(paths)(plain_paths(path) for path in paths)
    return paths


def data_suffix(path: str) -> str:
    """The suffix of a file's name, in small letters, `.gz` aside."""
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]


def suffix_format(path: str) -> str | None:
    """`tsv` or `jsonl` by the name of the file; None for any other name."""
    return _SUFFIXES.get(data_suffix(path))


def _as_dataset(path: str) -> str:
    """How to read what only the library `datasets` can, for an error message."""
    if data_suffix(path) not in DATASET_BUILDERS:
        return ""
    return f"; `datasets` reads this one: {{dataset: {path}}}, with source_field and target_field naming its columns"


def flat_paths(paths: Paths) -> list[str]:
    """All files named, in order."""
    if paths is None or isinstance(paths, dict):
        return []
    if isinstance(paths, str):
        return [paths]
    return [path for part in paths for path in flat_paths(part)]


def pair_sources(paths: Paths, file_format: str) -> list[tuple[str, tuple[str, ...]]]:
    """(format, files) of each source: one file, or two that are aligned."""
    if file_format not in ("auto", *PAIR_FORMATS):
        raise ValueError(f"format={file_format!r} is unknown, expected 'auto' or one of {', '.join(PAIR_FORMATS)}")
    if isinstance(paths, str):
        found = suffix_format(paths) if file_format == "auto" else file_format
        if found is None or found == "aligned":
            raise DataError(
                f"{paths}: cannot tell source from target; expected a .tsv or .jsonl file, format='tsv' or 'jsonl', "
                f"or a pair of aligned files [source, target]{_as_dataset(paths)}"
            )
        return [(found, (paths,))]
    parts = list(paths or ())
    if not parts:
        raise DataError("an empty list of data files was given, expected at least one")
    strings = [part for part in parts if isinstance(part, str)]
    if len(strings) == 2 == len(parts) and (
        file_format == "aligned" or (file_format == "auto" and not any(map(suffix_format, strings)))
    ):
        return [("aligned", tuple(strings))]
    sources: list[tuple[str, tuple[str, ...]]] = []
    for part in parts:
        if isinstance(part, str):
            sources += pair_sources(part, file_format)
        elif len(part) == 2:
            sources.append(("aligned", tuple(part)))
        else:
            raise DataError(f"aligned files come as pairs [source, target], got {len(part)} files: {list(part)}")
    return sources


def read_pairs(given: Source, file_format: str, fields: PairFields, bad: BadLines) -> Columns:
    """All pairs as two columns of equal length; the sides are stripped of white space around them."""
    sources: list[str] = []
    targets: list[str] = []
    for where, pairs in _pair_readers(given, file_format, fields, bad):
        for number, source, target in pairs:
            source, target = source.strip(), target.strip()
            if source and target:
                sources.append(source)
                targets.append(target)
            else:
                bad.add(where, number, f"empty {'target' if source else 'source'}")
    return sources, targets


def _pair_readers(
    given: Source, file_format: str, fields: PairFields, bad: BadLines
) -> Iterator[tuple[str, Iterable[tuple[int, str, str]]]]:
    if isinstance(given, Records):
        found = field_texts(given.name, given.numbered(), fields.names, bad)
        yield given.name, ((number, source, target) for number, (source, target) in found)
        return
    readers = {"tsv": _read_tsv, "jsonl": _read_jsonl, "aligned": _read_aligned}
    for kind, files in pair_sources(given, file_format):
        yield " + ".join(files), readers[kind](files, fields, bad)


def read_prompts(given: Source, file_format: str, fields: PairFields, bad: BadLines) -> list[str]:
    """The sources alone: of TSV, JSON lines and datasets, or of plain text one a line."""
    if isinstance(given, Records):
        texts = field_texts(given.name, given.numbered(), (fields.source_field,), bad)
        return [text.strip() for text in _not_empty(given.name, texts, "source", bad)]
    prompts: list[str] = []
    for path in flat_paths(given):
        found = suffix_format(path) if file_format in ("auto", "aligned") else file_format
        for number, text in _source_lines(path, found, fields, bad):
            if text.strip():
                prompts.append(text.strip())
            else:
                bad.add(path, number, "empty source")
    return prompts


def read_documents(given: Source, documents: str, text_field: str, bad: BadLines) -> list[str]:
    """Plain text as documents: one a line, or separated by empty lines, or one a file; one a row of anything else."""
    if documents not in ("line", "blank", "file"):
        raise ValueError(f"documents={documents!r} is unknown, expected 'line', 'blank' or 'file'")
    if isinstance(given, Records):
        texts = field_texts(given.name, given.numbered(), (text_field,), bad)
        return list(_not_empty(given.name, texts, "text", bad))
    found: list[str] = []
    for path in flat_paths(given):
        lines = read_lines(path)
        if suffix_format(path) == "jsonl":
            records = field_texts(path, json_records(path, lines, bad), (text_field,), bad)
            found += _not_empty(path, records, "text", bad)
            continue
        decoded = [decode_line(line, path, number, bad) for number, line in enumerate(lines, 1)]
        found += _documents([text for text in decoded if text is not None], documents)
    return found


def _documents(lines: list[str], documents: str) -> list[str]:
    if documents == "line":
        return [line for line in lines if line.strip()]
    if documents == "file":
        text = "\n".join(lines)
        return [text] if text.strip() else []
    found: list[str] = []
    current: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            current.append(line)
        elif current:
            found.append("\n".join(current))
            current = []
    return found


def _read_tsv(files: tuple[str, ...], fields: PairFields, bad: BadLines) -> Iterable[tuple[int, str, str]]:
    (path,) = files
    wanted = max(fields.source_column, fields.target_column)
    for number, line in enumerate(without_blank_end(read_lines(path)), 1):
        text = decode_line(line, path, number, bad)
        if text is None:
            continue
        cells = text.split("\t")
        if len(cells) > wanted:
            yield number, cells[fields.source_column], cells[fields.target_column]
        elif len(cells) == 1:
            bad.add(path, number, "no tab")
        else:
            bad.add(path, number, f"{len(cells)} columns, expected at least {wanted + 1}")


def _read_jsonl(files: tuple[str, ...], fields: PairFields, bad: BadLines) -> Iterable[tuple[int, str, str]]:
    (path,) = files
    for number, (source, target) in field_texts(path, json_records(path, read_lines(path), bad), fields.names, bad):
        yield number, source, target


def _read_aligned(files: tuple[str, ...], fields: PairFields, bad: BadLines) -> Iterable[tuple[int, str, str]]:
    source_path, target_path = files
    source_lines, target_lines = read_lines(source_path), read_lines(target_path)
    if len(source_lines) != len(target_lines):
        raise DataError(
            f"aligned files differ in length: {source_path} has {len(source_lines)} lines, "
            f"{target_path} has {len(target_lines)}; line n of one must be the translation of line n of the other"
        )
    for number, (source_line, target_line) in enumerate(zip(source_lines, target_lines, strict=True), 1):
        source = decode_line(source_line, source_path, number, bad)
        target = decode_line(target_line, target_path, number, bad)
        if source is not None and target is not None:
            yield number, source, target


def _source_lines(path: str, found: str | None, fields: PairFields, bad: BadLines) -> Iterable[tuple[int, str]]:
    lines = read_lines(path)
    if found == "jsonl":
        for number, (text,) in field_texts(path, json_records(path, lines, bad), (fields.source_field,), bad):
            yield number, text
        return
    for number, line in enumerate(lines, 1):
        text_or_none = decode_line(line, path, number, bad)
        if text_or_none is None:
            continue
        # A prompt file may have the sources alone, so a line without a tab is a source.
        cells = text_or_none.split("\t") if found == "tsv" else [text_or_none]
        yield number, cells[fields.source_column] if fields.source_column < len(cells) else cells[0]


def field_texts(
    where: str, records: Iterable[tuple[int, Any]], names: tuple[str, ...], bad: BadLines
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The named text fields of every record that has them; `a.b` is the field `b` of the field `a`."""
    for number, record in records:
        found = tuple(field_of(record, name) for name in names)
        if reason := _text_problem(record, names, found):
            bad.add(where, number, reason)
        else:
            yield number, found


def field_of(record: Any, name: str) -> Any:
    """A field of a record, None where it has none."""
    if not isinstance(record, dict):
        return None
    if name in record or "." not in name:
        return record.get(name)
    outer, _, inner = name.partition(".")
    return field_of(record.get(outer), inner)


def _not_empty(where: str, records: Iterable[tuple[int, tuple[str, ...]]], name: str, bad: BadLines) -> Iterator[str]:
    for number, (text,) in records:
        if text.strip():
            yield text
        else:
            bad.add(where, number, f"empty {name}")


def json_records(path: str, lines: list[bytes], bad: BadLines) -> Iterable[tuple[int, Any]]:
    """What every line of JSON holds."""
    for number, line in enumerate(without_blank_end(lines), 1):
        text = decode_line(line, path, number, bad)
        if text is None:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            bad.add(path, number, f"broken JSON ({where})")
            continue
        yield number, record


def _text_problem(record: Any, names: tuple[str, ...], values: tuple[Any, ...]) -> str | None:
    if not isinstance(record, dict):
        return f"a JSON {type(record).__name__}, expected an object with {', '.join(map(repr, names))}"
    for name, value in zip(names, values, strict=True):
        if value is None and name not in record:
            return f"no field {name!r}, found {', '.join(map(repr, list(record)[:5])) or 'none'}"
        if not isinstance(value, str):
            return f"field {name!r} is a JSON {type(value).__name__}, expected text"
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"field {name!r} has half of a surrogate pair, which is no character"
    return None
