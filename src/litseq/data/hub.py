"""Hugging Face `datasets` as a source: by name, from a directory, or through one of its builders; whole or streamed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from litseq._extras import require_extra
from litseq.data.sources import DATASET_BUILDERS, Records, data_suffix, suffix_format
from litseq.errors import DataError, UsageError

_SPLITS = {"train": "train", "val": "validation", "test": "test", "predict": "test"}
PIECE = 256  # rows that are read at a time


@dataclass(frozen=True)
class DatasetSource:
    """A dataset as a configuration file describes it, under `train`, `val`, `test` or `predict`."""

    dataset: str
    """Its name, a file (.json, .csv, .parquet, .arrow), a directory of `save_to_disk` or with data files, or a builder
    (`json`, `csv`, `parquet`, `text`) that takes `data_files`."""
    split: str = ""
    """Its split: `train`, `validation` for `val`, `test` for the others; also a slice, `train[:10%]`, if not streamed,
    and several: `train+validation`."""
    name: str | None = None
    """Its configuration, where it has several."""
    data_files: str | list[str] | dict[str, Any] | None = None
    data_dir: str | None = None
    revision: str | None = None
    cache_dir: str | None = None
    streaming: bool = False
    """Read it as it is needed, in constant memory, in place of reading it whole."""
    window: int = 16_384
    """Streaming: examples that are shuffled, sorted by length and packed among each other."""
    tokenizer_sample: int = 100_000
    """Streaming: the first examples, from which a tokenizer is trained."""
    where: str = field(default="", compare=False)
    """What error messages call it."""

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.where}={self.dataset!r} ({self.split})"

    def records(self) -> Records:
        """All its rows, out of a file that is mapped into memory."""
        return Records(self.label, _rows(self._load()))

    def sample(self) -> Records:
        """Its first rows."""
        return Records(self.label, _rows(self._load().take(self.tokenizer_sample)))

    def stream(self) -> Any:
        """The rows one after the other, an `IterableDataset`."""
        return self._load()

    def facts(self) -> dict[str, Any]:
        """What identifies it: plain facts. Fails where `datasets` is not installed."""
        require_extra("datasets", self.label)
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "where"}
        return {name: value for name, value in given.items() if value is not None}

    def _load(self) -> Any:
        require_extra("datasets", self.label)
        import datasets

        path = Path(self.dataset)
        try:
            if path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
                found = self._saved(datasets.load_from_disk(self.dataset))
                return found.to_iterable_dataset() if self.streaming else found
            builder, data_files = self.dataset, self.data_files
            if path.is_file():
                suffix = data_suffix(self.dataset)
                builder = "json" if suffix_format(self.dataset) == "jsonl" else DATASET_BUILDERS.get(suffix, "")
                if not builder:
                    raise DataError(f"{self.label}: expected a file named {', '.join(DATASET_BUILDERS)} or .jsonl")
                data_files = self.dataset
            if isinstance(data_files, str | list):
                data_files = {self.split.partition("[")[0]: data_files}
            return datasets.load_dataset(
                builder,
                name=self.name,
                data_files=data_files,
                data_dir=self.data_dir,
                revision=self.revision,
                cache_dir=self.cache_dir,
                split=self.split,
                streaming=self.streaming,
            )
        except DataError:
            raise
        # What it raises depends on the builder, the file system and the network.
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"{self.label}: datasets cannot load it ({lines[0]})") from error

    def _saved(self, found: Any) -> Any:
        """The split of a directory that `save_to_disk` wrote; a dataset without splits is taken as it is."""
        names = [part.partition("[")[0] for part in self.split.split("+")]
        splits = found if isinstance(found, dict) else {names[0]: found}
        if any(name not in splits for name in names):
            raise DataError(f"{self.label}: there is no such split, found {', '.join(map(repr, splits)) or 'none'}")
        if self.split in splits:
            return splits[self.split]
        from datasets import ReadInstruction, concatenate_datasets

        parts = ReadInstruction.from_spec(self.split).to_absolute({name: len(rows) for name, rows in splits.items()})
        return concatenate_datasets([splits[part.splitname].select(range(part.from_, part.to)) for part in parts])


def dataset_source(given: Any, where: str) -> DatasetSource | None:
    """The dataset that an argument of a data module describes, None where it names files.

    Args:
        given: A dictionary with the fields of `DatasetSource`, or the directory of a saved dataset.
        where: The argument: `train`, `val`, `test` or `predict`.

    Raises:
        UsageError: A field is unknown, or has a wrong type.
    """
    if isinstance(given, str) and Path(given).is_dir():
        given = {"dataset": given}
    if given is None or isinstance(given, str | list | tuple | os.PathLike):
        return None
    if not isinstance(given, dict):
        raise UsageError(
            f"{where}= is of type {type(given).__name__}, expected files or a dictionary that describes a dataset; one in "
            "memory can be read from the directory that its save_to_disk has written"
        )
    known = [f.name for f in fields(DatasetSource) if f.name != "where"]
    unknown = [name for name in given if name not in known]
    if unknown or not isinstance(given.get("dataset"), str):
        found = f"unknown {', '.join(map(repr, unknown))}" if unknown else "no 'dataset' with a name or a path"
        raise UsageError(f"{where}= describes a dataset: {found}; it may have {', '.join(known)}")
    source = DatasetSource(**{"split": _SPLITS[where], **given}, where=where)
    for name in ("window", "tokenizer_sample"):
        value = getattr(source, name)
        if type(value) is not int or value < 1:
            raise UsageError(f"{where}=: {name}={value!r}, expected a number of 1 or more")
    if type(source.streaming) is not bool:
        raise UsageError(f"{where}=: streaming={source.streaming!r}, expected true or false")
    return source


def pieces(stream: Any, label: str, first: int) -> Iterator[Records]:
    """The rows of a dataset, some at a time; `first` rows were read before."""
    for columns in stream.iter(PIECE):
        names = list(columns)
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        yield Records(label, rows, first)
        first += len(rows)


def _rows(found: Any) -> Iterator[Any]:
    for records in pieces(found, "", 0):
        yield from records.rows
