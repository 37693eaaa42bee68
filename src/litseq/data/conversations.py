"""`ConversationDataModule`: conversations of many turns, for a chatbot of either architecture."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from litseq.data.base import DECODER_ONLY, ENCODER_DECODER, SequenceDataModule
from litseq.data.collate import CollateBlocks
from litseq.data.datasets import PairDataset, PromptDataset, SequenceDataset
from litseq.data.dialogues import (
    CollateConversations,
    ConversationDataset,
    Cuts,
    Dialogue,
    PackedConversations,
    answered,
    asked,
    join_labelled,
    locate,
    read_dialogues,
)
from litseq.data.lines import BadLines
from litseq.data.ragged import Ragged
from litseq.data.sources import Columns, Paths, Source, plain_paths
from litseq.errors import DataError, UsageError
from litseq.text import CHATML, ChatFormat, ChatTemplate, PromptFormat
from litseq.text.chat_files import has_chat_template, load_chat_template
from litseq.text.chat_format import fit
from litseq.text.chat_template import sample_text
from litseq.text.chatml import IM_END, IM_START
from litseq.text.messages import ASSISTANT
from litseq.text.rendered import LabelledIds
from litseq.text.special_tokens import SPECIAL_TOKENS

_BLOCK = 4096  # examples that are lists of ids at the same time
_DEFAULT_LENGTH = 512


class ConversationDataModule(SequenceDataModule):
    """Conversations from JSON lines, plain or `.gz`, or from a Hugging Face dataset.

    A line is `{"turns": ["...", ...]}`, texts of the user and the assistant in turn, or
    `{"messages": [{"role": "...", "content": "..."}, ...]}` with the roles `system` (the first message, or none), `user`
    and `assistant`.

    For a decoder-only model a conversation is one example, rendered by the chat template, with the loss on what the
    assistant generates: its answers and the token that ends each. For an encoder-decoder (and a prefix-LM) an answer is
    an example: the encoder reads the question, behind as much of the conversation before it as `history` says. Where a
    conversation is too long for the model, its oldest whole turns are dropped; the system message stays.

    Args:
        train: JSON lines file, or a list of them. `.gz` is read as it is. Or a dataset: a dictionary, see
            `litseq.data.hub.DatasetSource`.
        val: Files for validation.
        test: Files for testing.
        predict: Files with conversations whose last question is to be answered.
        val_fraction: Without `val`, hold this share of the training conversations out, chosen by `seed`.
        history: Encoder-decoder: how many earlier questions, with their answers, an answer may know: 0, a number, or
            `all`. A decoder-only model always reads the whole conversation.
        chat_template: Where the chat template is: a `tokenizer_config.json`, a `chat_template.jinja`, a directory with
            one of them, or `chatml`. Not given: the one beside `tokenizer`, else ChatML.
        special_tokens: More special tokens for the tokenizer that is trained: those of a template of your own.
        packing: Decoder-only: put whole conversations into rows of one length in which they cannot see each other.
        packed_length: Positions of such a row, not more than `max_tokens`; the longest conversation's when it is not
            given. Where conversations are longer than half of that, longer rows leave less empty.
        conversation_field: The field of a conversation; `turns` or `messages` when it is not given.
        vocab_size: Tokens of the tokenizer that is trained, special ones included.
        tokenizer: A `tokenizer.json`, or a directory with one, to use instead of training one.
        tokenizer_kind: `bpe`, `byte` or `char`.
        max_tokens: Tokens in a batch at most, padding counted.
        architecture: `encoder-decoder` or `decoder-only`; the model's when it is not given.
        num_workers: Processes that make batches; 0 makes them in the training process.
        pin_memory: Give out batches in page-locked memory, for a GPU.
        seed: Seed of the shuffling and of `val_fraction`.
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
        history: int | Literal["all"] = "all",
        chat_template: str | None = None,
        special_tokens: list[str] | None = None,
        packing: bool = False,
        packed_length: int | None = None,
        conversation_field: str | None = None,
        vocab_size: int = 8000,
        tokenizer: str | None = None,
        tokenizer_kind: str = "bpe",
        max_tokens: int = 4096,
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
            loss_on="target",
            architecture=architecture,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
            on_bad_line=on_bad_line,
        )
        self.save_hyperparameters({"chat_template": plain_paths(chat_template)}, logger=False)
        if history != "all" and (type(history) is not int or history < 0):
            raise ValueError(f"history={history!r}, expected 'all' or a number of earlier questions, 0 or more")
        if packed_length is not None and not packing:
            raise ValueError(f"packed_length={packed_length} is without effect, expected packing=True with it")
        self._template: ChatTemplate | None = None
        self._is_window = False
        self._source: tuple[str, dict[str, str] | None] | None = None

    # The template.

    @property
    def chat_format(self) -> ChatFormat:
        """How the model is asked: what the exporter writes into the bundle."""
        try:
            if self._template is None:
                self._template = ChatTemplate(self.tokenizer, *self._template_source)
            if self.architecture == ENCODER_DECODER:
                return ChatFormat(self._template, (self.tokenizer.eos_id,), self._history, generation_prompt=False)
            return ChatFormat(self._template, (self._template.stop_id,), self._history)
        except ValueError as error:
            where = self.hparams["chat_template"] or self.hparams["tokenizer"] or "chatml"
            raise DataError(f"{where}: {error}") from None

    @property
    def chat(self) -> dict[str, Any]:
        """The same in plain types, which a checkpoint keeps."""
        return self.chat_format.to_dict()

    def make_prompt_format(self) -> PromptFormat:
        """A text alone is a question."""
        start_ids = (self.tokenizer.bos_id,) if self.architecture == ENCODER_DECODER else ()
        return self.chat_format.prompt_format(start_ids)

    @property
    def cut(self) -> dict[str, dict[str, int]]:
        """By split, how many examples were cut to the model's length, and how many exchanges they lost."""
        names = ("conversations", "cut", "dropped_exchanges")
        return {split: {name: facts[name] for name in names if name in facts} for split, facts in self._facts.items()}

    @property
    def special_tokens(self) -> Sequence[str]:
        """What the template writes."""
        given: list[str] = self.hparams["special_tokens"] or []
        chatml = (IM_START, IM_END) if self._template_source[0] == CHATML else ()
        # A template may write tokens that every tokenizer of ours has, such as Gemma's <bos>.
        return tuple(token for token in dict.fromkeys((*chatml, *given)) if token not in SPECIAL_TOKENS)

    def tokenizer_texts(self, columns: Columns) -> Iterable[str]:
        """The messages, the names of the roles as often as a template writes them, and what else it writes, once."""
        source, names = self._template_source
        yield sample_text(source, names or {}, self.special_tokens)
        for dialogue in columns[0]:
            for message in dialogue.messages:
                yield f"{message.role}\n"
                yield message.content

    def detached(self) -> SequenceDataModule:
        """Without the template besides, which is made anew where it is needed."""
        copied = super().detached()
        assert isinstance(copied, ConversationDataModule)
        copied._template, copied._is_window = None, True
        return copied

    # Files to examples.

    def check_model(self) -> None:
        """Refuse, besides, options for the other architecture."""
        super().check_model()
        if self._an_example_an_answer and self.hparams["packing"]:
            model = ENCODER_DECODER if self.architecture == ENCODER_DECODER else "prefix_lm"
            raise UsageError(f"packing=True does not go with a model that is {model}, where an answer is an example")
        if not self._an_example_an_answer and self.hparams["history"] != "all":
            raise UsageError(
                f"history={self.hparams['history']} does not go with a decoder-only model, which reads the whole "
                "conversation; leave it out, or use an encoder-decoder"
            )
        if self._packed_length < self._positions:
            raise UsageError(
                f"packed_length={self._packed_length}, expected at least the {self._positions} positions of a conversation"
            )

    def read(self, given: Source, bad: BadLines) -> Columns:
        """One column: the conversations that have an answer."""
        dialogues = []
        for dialogue in read_dialogues(given, self.hparams["conversation_field"], bad):
            try:
                dialogues.append(answered(dialogue))
            except ValueError as error:
                bad.add(dialogue.path, dialogue.line, str(error))
        return (dialogues,)

    def read_prompts(self, given: Source, bad: BadLines) -> list[Dialogue]:
        """Conversations up to their last question."""
        return [asked(dialogue) for dialogue in read_dialogues(given, self.hparams["conversation_field"], bad)]

    def encode(self, columns: Columns) -> tuple[Any, ...]:
        """The conversations as they are: how they are rendered depends on the model."""
        return columns

    def make_prompts(self, column: list[Dialogue]) -> PromptDataset:
        """The conversations of `predict`, cut to the model's length as a bundle cuts them."""
        options: dict[str, Any] = getattr(self._module, "generation_options", dict)()
        with _Located(column, self.chat_format.template):
            found = self.chat_format.questions(
                [dialogue.messages for dialogue in column],
                self._positions,
                options.get("max_new_tokens"),
                shared=self.architecture == DECODER_ONLY,
            )
        for dialogue, fitted in zip(column, found, strict=True):
            if fitted.encoded is None:
                raise locate(ValueError(f"the question is over the model's {self._positions} tokens"), dialogue)
        return PromptDataset(Ragged.from_lists(fitted.encoded or [] for fitted in found))

    def make_dataset(self, columns: tuple[Any, ...]) -> tuple[SequenceDataset, dict[str, int]]:
        """Whole conversations, or answers with what they may know."""
        dialogues: list[Dialogue] = columns[0]
        dataset, cuts = self._answers(dialogues) if self._an_example_an_answer else self._whole(dialogues)
        dataset.facts = {
            "conversations": len(dialogues),
            "cut": cuts.examples,
            "dropped_exchanges": cuts.exchanges,
        }
        if cuts.examples and not self._is_window:
            rank_zero_info(
                f"{cuts.examples} of {len(cuts.kept)} examples are longer than {self._positions} tokens: "
                f"{cuts.exchanges} oldest questions with their answers were dropped from them"
            )
        return dataset, {f"whose newest turns alone are over {self._positions} tokens": cuts.left_out}

    def make_collate(self, dataset: SequenceDataset) -> Callable[..., Any]:
        """Conversations have collate functions of their own."""
        if isinstance(dataset, ConversationDataset):
            return CollateConversations(self.tokenizer.pad_id)
        if isinstance(dataset, PackedConversations):
            return CollateBlocks(self.tokenizer.pad_id, self._packed_length)
        return super().make_collate(dataset)

    def _whole(self, dialogues: list[Dialogue]) -> tuple[SequenceDataset, Cuts]:
        cuts, template = Cuts(), self.chat_format.template
        limit = self._positions + 1  # every token but the last is an input

        def labelled() -> Iterator[LabelledIds]:
            for start in range(0, len(dialogues), _BLOCK):
                block = dialogues[start : start + _BLOCK]
                with _Located(block, template):
                    found = fit([d.messages for d in block], template.encode_labelled, [limit] * len(block))
                for i, fitted in enumerate(found, start):
                    if fitted.encoded is None:
                        cuts.left_out += 1
                    else:
                        cuts.note(i, fitted.dropped)
                        yield fitted.encoded

        conversations = join_labelled(labelled())
        if not self.hparams["packing"] or not len(conversations):
            return conversations, cuts
        return PackedConversations(conversations, self._packed_length), cuts

    def _answers(self, dialogues: list[Dialogue]) -> tuple[SequenceDataset, Cuts]:
        cuts, form, joined = Cuts(), self.chat_format, self.architecture == DECODER_ONLY
        places = [(d, i) for d in dialogues for i, message in enumerate(d.messages) if message.role == ASSISTANT]
        texts = (dialogue.messages[i].content for dialogue, i in places)
        targets = Ragged.from_lists(self.tokenizer.iter_encode(texts)).enclose((), form.stop_ids[:1])
        room = self.hparams["max_tokens"] - targets.lengths
        limits = np.minimum(room, self._positions - targets.lengths if joined else self._positions) + joined
        limits = np.where(targets.lengths <= self._positions, limits, 0).tolist()

        def sources() -> Iterator[list[int]]:
            for start in range(0, len(places), _BLOCK):
                block = places[start : start + _BLOCK]
                questions = [dialogue.messages[:i] for dialogue, i in block]
                with _Located([dialogue for dialogue, _ in block], form.template):
                    found = form.prompts(questions, limits[start : start + len(block)])
                for i, fitted in enumerate(found, start):
                    if fitted.encoded is None:
                        cuts.left_out += 1
                    else:
                        cuts.note(i, fitted.dropped)
                        yield fitted.encoded

        rendered = Ragged.from_lists(sources())
        return PairDataset(rendered, targets.take(np.array(cuts.kept, dtype=np.int64)), joined), cuts

    @property
    def _an_example_an_answer(self) -> bool:
        return self.architecture == ENCODER_DECODER or self._prefix_lm

    @property
    def _history(self) -> int | None:
        given: int | str = self.hparams["history"]
        return given if isinstance(given, int) else None

    @property
    def _positions(self) -> int:
        """Tokens of an example at most."""
        return min(self._max_seq_len or _DEFAULT_LENGTH, int(self.hparams["max_tokens"]))

    @property
    def _packed_length(self) -> int:
        """Positions of a packed row."""
        given: int | None = self.hparams["packed_length"]
        return self._positions if given is None else min(given, int(self.hparams["max_tokens"]))

    @property
    def _template_source(self) -> tuple[str, dict[str, str] | None]:
        if self._source is None:
            given, tokenizer = self.hparams["chat_template"], self.hparams["tokenizer"]
            if given is None:
                given = tokenizer if tokenizer is not None and has_chat_template(tokenizer) else "chatml"
            self._source = load_chat_template(given)
        return self._source


class _Located:
    """Names the file and the line of the conversation that a template refuses."""

    def __init__(self, dialogues: Sequence[Dialogue], template: ChatTemplate) -> None:
        self._dialogues = dialogues
        self._template = template

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, ValueError):
            return
        for dialogue in self._dialogues:
            try:
                for _labelled in self._template.encode_labelled([dialogue.messages]):
                    pass
            except ValueError as reason:
                raise locate(reason, dialogue) from None
