"""`PairDataModule`: sources and their targets, for translation and anything else that maps a text to a text."""

import numpy as np

from litseq.data.base import DECODER_ONLY, ENCODER_DECODER, SequenceDataModule
from litseq.data.datasets import PairDataset, SequenceDataset
from litseq.data.lines import BadLines
from litseq.data.ragged import Ragged
from litseq.data.sources import Columns, PairFields, Paths, Source, read_pairs, read_prompts
from litseq.errors import DataError
from litseq.text import PromptFormat


class PairDataModule(SequenceDataModule):
    """Pairs of a source and a target text, from TSV, JSON lines or aligned files, plain or `.gz`, or from a dataset.

    For an encoder-decoder the source is the encoder's input and the target the decoder's. For a decoder-only model a
    pair is one sequence, `<bos> source <sep> target <eos>`, with the loss on the target.

    Args:
        train: File with pairs; or a list of files; or two aligned text files `[source, target]`; or a list of such
            pairs of files. `.gz` is read as it is. Or a dataset: a dictionary, see `litseq.data.hub.DatasetSource`.
        val: Files for validation, as in `train`.
        test: Files for testing, as in `train`.
        predict: Files with sources to generate from: one a line, or the sources of a TSV or JSON lines file.
        val_fraction: Without `val`, hold this share of the training pairs out, chosen by `seed`.
        format: `tsv`, `jsonl` or `aligned`; `auto` goes by the names of the files.
        source_column: TSV: the column of the source, from 0. Further columns are not looked at.
        target_column: TSV: the column of the target.
        source_field: JSON lines and datasets: the field of the source; `translation.en` is the field `en` of the field
            `translation`.
        target_field: JSON lines and datasets: the field of the target.
        vocab_size: Tokens of the tokenizer that is trained, special ones included, both languages together.
        tokenizer: A `tokenizer.json` to use instead of training one.
        tokenizer_kind: `bpe`, `byte` or `char`.
        separator: Decoder-only: text to put between source and target in place of the tokenizer's separator token.
        max_tokens: Tokens in a batch at most, padding counted, source and target together.
        max_source_length: Leave out pairs with a longer source, in tokens with the special ones; the model's
            `max_seq_len` is a limit of its own.
        max_target_length: Leave out pairs with a longer target, in tokens with the end.
        loss_on: Decoder-only: `target`, or `all` for the source too.
        architecture: `encoder-decoder` or `decoder-only`; the model's when it is not given.
        num_workers: Processes that make batches; 0 makes them in the training process.
        pin_memory: Give out batches in page-locked memory, for a GPU.
        seed: Seed of the shuffling and of `val_fraction`.
        on_bad_line: `raise` an error that names the bad lines, or `skip` them with a warning.
    """

    default_architecture = ENCODER_DECODER

    def __init__(
        self,
        train: Paths = None,
        val: Paths = None,
        test: Paths = None,
        predict: Paths = None,
        val_fraction: float = 0.0,
        format: str = "auto",
        source_column: int = 0,
        target_column: int = 1,
        source_field: str = "source",
        target_field: str = "target",
        vocab_size: int = 8000,
        tokenizer: str | None = None,
        tokenizer_kind: str = "bpe",
        separator: str | None = None,
        max_tokens: int = 4096,
        max_source_length: int | None = None,
        max_target_length: int | None = None,
        loss_on: str = "target",
        architecture: str | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
        on_bad_line: str = "raise",
    ) -> None:
        super().__init__(
            train=train,
            val=val,
            test=test,
            predict=predict,
            val_fraction=val_fraction,
            vocab_size=vocab_size,
            tokenizer=tokenizer,
            tokenizer_kind=tokenizer_kind,
            max_tokens=max_tokens,
            loss_on=loss_on,
            architecture=architecture,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
            on_bad_line=on_bad_line,
        )
        self._fields = PairFields(source_column, target_column, source_field, target_field)

    def read(self, given: Source, bad: BadLines) -> Columns:
        """Sources and targets."""
        return read_pairs(given, self.hparams["format"], self._fields, bad)

    def read_prompts(self, given: Source, bad: BadLines) -> list[str]:
        """Sources alone."""
        return read_prompts(given, self.hparams["format"], self._fields, bad)

    def make_prompt_format(self) -> PromptFormat:
        """Source with its end, or begin, source and separator."""
        tokenizer = self.tokenizer
        if self.architecture == ENCODER_DECODER:
            return PromptFormat(suffix_ids=(tokenizer.eos_id,), start_ids=(tokenizer.bos_id,))
        return PromptFormat(prefix_ids=(tokenizer.bos_id,), suffix_ids=self._separator_ids())

    def make_dataset(self, columns: tuple[Ragged, ...]) -> tuple[SequenceDataset, dict[str, int]]:
        """Rendered sources and ended targets, those within the limits."""
        form = self.prompt_format
        sources = columns[0].enclose(form.prefix_ids, form.suffix_ids)
        targets = columns[1].enclose((), (self.tokenizer.eos_id,))
        return select_pairs(
            sources,
            targets,
            joined=self.architecture == DECODER_ONLY,
            max_source_length=self.hparams["max_source_length"],
            max_target_length=self.hparams["max_target_length"],
            max_seq_len=self._max_seq_len,
            max_tokens=self.hparams["max_tokens"],
        )

    def _separator_ids(self) -> tuple[int, ...]:
        separator: str | None = self.hparams["separator"]
        if separator is not None:
            return tuple(self.tokenizer.encode(separator))
        if self.tokenizer.sep_id is None:
            raise DataError(
                f"{self.hparams['tokenizer']}: the tokenizer has no separator token (<sep>, [SEP]), which a decoder-only "
                "model needs between source and target; give separator= a text, for example a line feed"
            )
        return (self.tokenizer.sep_id,)


def select_pairs(
    sources: Ragged,
    targets: Ragged,
    joined: bool,
    max_source_length: int | None,
    max_target_length: int | None,
    max_seq_len: int | None,
    max_tokens: int,
) -> tuple[PairDataset, dict[str, int]]:
    """The pairs within all limits, and how many were left out by the first limit each one broke."""
    source_lengths, target_lengths = sources.lengths, targets.lengths
    if joined:
        positions = padded = source_lengths + target_lengths - 1
    else:
        positions, padded = np.maximum(source_lengths, target_lengths), source_lengths + target_lengths
    dropped: dict[str, int] = {}
    kept = np.ones(len(sources), dtype=bool)
    limits = (
        (f"with a source over max_source_length={max_source_length}", source_lengths, max_source_length),
        (f"with a target over max_target_length={max_target_length}", target_lengths, max_target_length),
        (f"over the model's max_seq_len={max_seq_len}", positions, max_seq_len),
        (f"over max_tokens={max_tokens}", padded, max_tokens),
    )
    for reason, lengths, limit in limits:
        if limit is not None:
            broken = kept & (lengths > limit)
            kept &= ~broken
            dropped[reason] = int(broken.sum())
    if not kept.all():
        indices = np.flatnonzero(kept)
        sources, targets = sources.take(indices), targets.take(indices)
    return PairDataset(sources, targets, joined), dropped
