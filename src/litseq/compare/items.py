"""What is asked of every arm alike: the test sets as prompts and the answers wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from litseq.data import ConversationDataModule, SequenceDataModule
from litseq.data.dialogues import Dialogue
from litseq.errors import DataError
from litseq.text.messages import ASSISTANT

_SCORED_DOCUMENTS = 1000
_FIRST_TURN, _LAST_TURN = "turn 1", 6


@dataclass
class Items:
    """A test set for one arm. `texts` and `references` are the same for every arm, ids are in its own format."""

    texts: list[str]
    """What is asked, to be read by people."""
    references: list[str]
    """What is wanted."""
    prompts: list[list[int]]
    targets: list[list[int]]
    generated: bool = True
    """Whether answers are generated for all of them and held against the references; else for some, to be looked at."""
    groups: list[str] = field(default_factory=list)
    """A name for each item, where items come in kinds."""


def read_items(data: SequenceDataModule, paths: Any, max_length: int) -> Items:
    """Read a test set as this data module would.

    Args:
        data: A prepared data module: it knows the model it serves.
        paths: The files.
        max_length: The tokens that the shortest model of the comparison takes; documents are cut to them.
    """
    columns = data.read_all(paths)
    if not columns[0]:
        raise DataError(f"{paths}: no example in it, expected at least one to test on")
    if isinstance(data, ConversationDataModule):
        return _answers(data, columns[0], max_length)
    if len(columns) == 2:
        return _pairs(data, columns[0], columns[1])
    return _documents(data, columns[0], max_length)


def _pairs(data: SequenceDataModule, sources: list[str], targets: list[str]) -> Items:
    tokenizer, render = data.tokenizer, data.prompt_format.render
    return Items(
        sources,
        targets,
        [render(tokenizer.encode(source)) for source in sources],
        [[*tokenizer.encode(target), tokenizer.eos_id] for target in targets],
    )


def _documents(data: SequenceDataModule, documents: list[str], max_length: int) -> Items:
    """The second half of each document, given the first: what every objective and architecture can be asked."""
    tokenizer, render = data.tokenizer, data.prompt_format.render
    items = Items([], [], [], [], generated=False)
    for document in documents:
        ids = tokenizer.encode(document)[: max_length - 4]
        middle = len(ids) // 2
        if middle and len(items.texts) < _SCORED_DOCUMENTS:
            items.texts.append(tokenizer.decode(ids[:middle]))
            items.references.append(tokenizer.decode(ids[middle:]))
            items.prompts.append(render(ids[:middle]))
            items.targets.append(ids[middle:])
    if not items.texts:
        raise DataError("no test document has two tokens or more")
    return items


def conversation_numbers(groups: Sequence[str]) -> list[int]:
    """Which conversation each item is of, from the `groups` of a test set of conversations: a first turn begins one."""
    return list(accumulate(int(group == _FIRST_TURN) for group in groups))


def _answers(data: ConversationDataModule, dialogues: list[Dialogue], max_length: int) -> Items:
    """Every answer of every conversation, behind the turns that were really said before it."""
    tokenizer, form = data.tokenizer, data.chat_format
    asked, items = [], Items([], [], [], [])
    for dialogue in dialogues:
        turn = 0
        for i, message in enumerate(dialogue.messages):
            if message.role == ASSISTANT:
                turn += 1
                asked.append(dialogue.messages[:i])
                items.texts.append("\n".join(said.content for said in dialogue.messages[:i]))
                items.references.append(message.content)
                items.targets.append([*tokenizer.encode(message.content), form.stop_ids[0]])
                items.groups.append(f"turn {turn}" if turn < _LAST_TURN else f"turn {_LAST_TURN}+")
    # As long as the shortest model takes, with room for the answer behind it.
    limits = [max(max_length - len(target), max_length // 2) for target in items.targets]
    fitted = form.prompts(asked, limits)
    items.prompts = [found.encoded or [tokenizer.bos_id] * (max_length + 1) for found in fitted]
    return items
