"""`TextDataModule`: plain text, for language modelling."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from litseq.data.base import DECODER_ONLY, ENCODER_DECODER, SequenceDataModule
from litseq.data.collate import CollateBlocks
from litseq.data.datasets import BlockDataset, SequenceDataset
from litseq.data.lines import BadLines
from litseq.data.packing import FULL, cut, lay, pack
from litseq.data.pairs import select_pairs
from litseq.data.ragged import Ragged
from litseq.data.sources import Columns, PairFields, Paths, Source, read_documents, read_prompts
from litseq.data.spans import SENTINEL, SpanDataset, longest_piece, sentinel_ids
from litseq.errors import UsageError
from litseq.text import PromptFormat

SPAN_CORRUPTION = "span-corruption"
_DEFAULT_BLOCK = 512


class TextDataModule(SequenceDataModule):
    """Documents of plain text or JSON lines, plain or `.gz`, or of a Hugging Face dataset.

    As `blocks`, documents are packed into rows of one length in which they cannot see each other, for a decoder-only
    model; a document is cut where it is longer than a block, or where whole ones would leave over 1 % empty. As `prefix`,
    each document is cut at a random place and its continuation is learned from its beginning. As `span-corruption`, spans
    of it are taken out and learned from the rest, other ones in every epoch (T5, https://arxiv.org/abs/1910.10683). The
    latter two serve either architecture.

    Args:
        train: Text file, or a list of them. `.gz` is read as it is, `.jsonl` by its field `text_field`. Or a dataset: a
            dictionary, see `litseq.data.hub.DatasetSource`.
        val: Files for validation.
        test: Files for testing.
        predict: Files with beginnings to continue, one a line.
        val_fraction: Without `val`, hold this share of the training documents out, chosen by `seed`.
        documents: What a document is in plain text: a `line`, lines up to an empty line (`blank`), or a `file`.
        text_field: JSON lines and datasets: the field of the text.
        objective: `blocks`, `prefix` or `span-corruption`; `auto` is `blocks` where the model is decoder-only and no
            prefix-LM, else `prefix`.
        block_size: Positions of a block; a longer document is cut. The model's `max_seq_len` when it is not given,
            512 without a model, and not more than `max_tokens`.
        noise_density: Span corruption: share of the tokens that is taken out.
        mean_span: Span corruption: tokens of a span, on average.
        sentinels: Span corruption: how many sentinel tokens a trained tokenizer gets; a piece has no more spans.
        vocab_size: Tokens of the tokenizer that is trained, special ones included.
        tokenizer: A `tokenizer.json` to use instead of training one.
        tokenizer_kind: `bpe`, `byte` or `char`.
        max_tokens: Tokens in a batch at most, padding counted.
        loss_on: Decoder-only with `prefix`: `target` for the continuation, or `all`. In blocks it is on all tokens.
        architecture: `encoder-decoder` or `decoder-only`; the model's when it is not given.
        num_workers: Processes that make batches; 0 makes them in the training process.
        pin_memory: Give out batches in page-locked memory, for a GPU.
        seed: Seed of the shuffling, the cuts and `val_fraction`.
        on_bad_line: `raise` an error that names the bad lines, or `skip` them with a warning.
    """

    default_architecture = DECODER_ONLY

    def __init__(
        self,
        train: Paths = None,
        val: Paths = None,
        test: Paths = None,
        predict: Paths = None,
        val_fraction: float = 0.0,
        documents: str = "line",
        text_field: str = "text",
        objective: str = "auto",
        block_size: int | None = None,
        noise_density: float = 0.15,
        mean_span: float = 3.0,
        sentinels: int = 100,
        vocab_size: int = 8000,
        tokenizer: str | None = None,
        tokenizer_kind: str = "bpe",
        max_tokens: int = 4096,
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
        if documents not in ("line", "blank", "file"):
            raise ValueError(f"documents={documents!r} is unknown, expected 'line', 'blank' or 'file'")
        if objective not in ("auto", "blocks", "prefix", SPAN_CORRUPTION):
            raise ValueError(
                f"objective={objective!r} is unknown, expected 'auto', 'blocks', 'prefix' or {SPAN_CORRUPTION!r}"
            )
        if not 0 < noise_density < 1 or mean_span < 1 or sentinels < 1:
            raise ValueError(
                f"noise_density={noise_density}, mean_span={mean_span}, sentinels={sentinels}: expected a share between 0 "
                "and 1, at least 1 and at least 1"
            )
        if block_size is not None and block_size < 2:
            raise ValueError(f"block_size={block_size}, expected at least 2")

    @property
    def objective(self) -> str:
        """What is learned: as given, else packed blocks wherever the model can read them."""
        given: str = self.hparams["objective"]
        if given != "auto":
            return given
        return "prefix" if self.architecture == ENCODER_DECODER or self._prefix_lm else "blocks"

    @property
    def block_size(self) -> int:
        """Positions of a block, or of a cut document."""
        given: int | None = self.hparams["block_size"]
        return min(given or self._max_seq_len or _DEFAULT_BLOCK, given or self.hparams["max_tokens"])

    def check_model(self) -> None:
        """Refuse, besides, blocks that the model or the budget cannot hold."""
        super().check_model()
        size, limit, budget = self.block_size, self._max_seq_len, self.hparams["max_tokens"]
        if limit is not None and size > limit:
            raise UsageError(f"block_size={size} exceeds the model's max_seq_len={limit}; use a smaller block_size")
        if size > budget:
            raise UsageError(f"block_size={size} exceeds max_tokens={budget}; a batch must hold at least one block")
        if self.objective == "blocks" and (self.architecture == ENCODER_DECODER or self._prefix_lm):
            model = ENCODER_DECODER if self.architecture == ENCODER_DECODER else "prefix_lm"
            raise UsageError(
                f"objective='blocks' does not go with a model that is {model}; use objective='prefix' or 'span-corruption'"
            )

    @property
    def special_tokens(self) -> Sequence[str]:
        """The sentinels of span corruption."""
        count = self.hparams["sentinels"] if self.objective == SPAN_CORRUPTION else 0
        return [SENTINEL.format(number) for number in range(count)]

    def read(self, given: Source, bad: BadLines) -> Columns:
        """One column: the documents."""
        return (read_documents(given, self.hparams["documents"], self.hparams["text_field"], bad),)

    def read_prompts(self, given: Source, bad: BadLines) -> list[str]:
        """Beginnings of documents."""
        return read_prompts(given, "auto", PairFields(source_field=self.hparams["text_field"]), bad)

    def make_prompt_format(self) -> PromptFormat:
        """A beginning with its end, or behind the begin token; a separator shows where a text with gaps ends."""
        tokenizer = self.tokenizer
        if self.architecture == ENCODER_DECODER:
            return PromptFormat(suffix_ids=(tokenizer.eos_id,), start_ids=(tokenizer.bos_id,))
        separated = self.objective == SPAN_CORRUPTION
        separator = tokenizer.eos_id if tokenizer.sep_id is None else tokenizer.sep_id
        return PromptFormat(prefix_ids=(tokenizer.bos_id,), suffix_ids=(separator,) if separated else ())

    def make_dataset(self, columns: tuple[Ragged, ...]) -> tuple[SequenceDataset, dict[str, int]]:
        """Packed blocks, beginnings and continuations, or texts with gaps and what is missing."""
        makers = {"blocks": self._blocks, "prefix": self._prefixes, SPAN_CORRUPTION: self._spans}
        return makers[self.objective](columns[0])

    def make_collate(self, dataset: SequenceDataset) -> Callable[..., Any]:
        """Blocks have a collate function of their own."""
        if isinstance(dataset, BlockDataset):
            return CollateBlocks(self.tokenizer.pad_id, self.block_size)
        return super().make_collate(dataset)

    def _blocks(self, texts: Ragged) -> tuple[SequenceDataset, dict[str, int]]:
        documents = texts.enclose((self.tokenizer.bos_id,), (self.tokenizer.eos_id,))
        # Every token but a document's last is an input, every one but its first a label.
        bounds = documents.offsets - np.arange(len(documents.offsets))
        starts, lengths = cut(bounds, self.block_size)
        order, blocks = pack(lengths, self.block_size)
        starts, lengths = starts[order], lengths[order]
        # Documents of just over half a block fit badly: then it is better to cut some than to compute padding.
        if lengths.sum() < FULL * (len(blocks) - 1) * self.block_size:
            starts, lengths, blocks = lay(bounds, self.block_size)
        starts = starts + np.searchsorted(bounds, starts, side="right") - 1
        return BlockDataset(documents, starts, lengths, blocks, self.block_size), {}

    def _prefixes(self, texts: Ragged) -> tuple[SequenceDataset, dict[str, int]]:
        ended = texts.enclose((), (self.tokenizer.eos_id,))
        # A piece of k tokens is learned with the token behind it, the end of the text or what the next piece begins with.
        bounds = ended.offsets - np.arange(len(ended.offsets))
        starts, lengths = cut(bounds, self.block_size - 1)
        starts = starts + np.searchsorted(bounds, starts, side="right") - 1
        generator = np.random.default_rng(self.hparams["seed"])
        places = generator.integers(1, np.maximum(2, lengths))
        form = self.prompt_format
        return select_pairs(
            ended.slices(starts, places).enclose(form.prefix_ids, form.suffix_ids),
            ended.slices(starts + places, lengths + 1 - places),
            joined=self.architecture == DECODER_ONLY,
            max_source_length=None,
            max_target_length=None,
            max_seq_len=self._max_seq_len,
            max_tokens=self.hparams["max_tokens"],
        )

    def _spans(self, texts: Ragged) -> tuple[SequenceDataset, dict[str, int]]:
        sentinels = sentinel_ids(self.tokenizer, str(self.hparams["tokenizer"] or "tokenizer"))
        form, joined = self.prompt_format, self.architecture == DECODER_ONLY
        density, mean_span = self.hparams["noise_density"], self.hparams["mean_span"]
        around = len(form.prefix_ids) + len(form.suffix_ids)
        budget = self.hparams["max_tokens"]
        size = longest_piece(self.block_size, budget, len(sentinels), density, mean_span, around, joined)
        starts, lengths = cut(texts.offsets, size)
        enough = lengths > 1  # of one token there is nothing to leave
        dataset = SpanDataset(
            texts.flat,
            starts[enough],
            lengths[enough],
            sentinels,
            form,
            self.tokenizer.eos_id,
            density,
            mean_span,
            self.hparams["seed"],
            joined,
        )
        return dataset, {"of a single token": int((~enough).sum())}
