"""Generation from inside Lightning: the loop of `litseq.generation` over the torch reference."""

from collections.abc import Mapping, Sequence
from typing import Any

from litseq.errors import UsageError
from litseq.generation import Engine, GenerationOptions, Prompt, Request, run
from litseq.generation.plain import plain
from litseq.models.base import SequenceModule
from litseq.models.torch_step import TorchStepModel

BOS_ID, EOS_ID = 1, 2
"""The ids in tokenizers that litseq trains, for a module that has met no tokenizer."""


def generate_ids(
    module: SequenceModule, prompts: Sequence[Sequence[int]], options: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """Generate a continuation of each prompt.

    Args:
        module: The module, in evaluation mode.
        prompts: Token ids, rendered by the prompt format: the source of an encoder-decoder, else the prefix.
        options: In the words of `GenerationOptions`. None: the module's own. `stop` strings are for texts, see
            `generate`.

    Returns:
        The generated ids without the end token, in the order of the prompts: of several sequences the best one.

    Raises:
        UsageError: options hold a text, and no tokenizer is known.
    """
    given = module.generation_options() if options is None else options
    values = {name: plain(value) for name, value in given.items()}
    values.pop("stop", None)
    values["bad_words"] = [_ids(module, word) for word in values.get("bad_words") or ()]
    prefix = _ids(module, values.get("prefix") or ())
    parsed = GenerationOptions.from_mapping(values)
    engine = Engine(TorchStepModel(module), module.record.end_tokens(EOS_ID))
    start = (module.record.prompt_format or {}).get("start_ids") or [BOS_ID]
    has_encoder = module.architecture == "encoder-decoder"
    for index, ids in enumerate(prompts):
        first, source = (start, ids) if has_encoder else (ids, None)
        engine.submit(Request(Prompt([*first, *prefix], source, len(prefix)), parsed, index))
    return [[*prefix, *result.tokens] for result in run(engine)]


def _ids(module: SequenceModule, words: str | Sequence[int]) -> list[int]:
    """The ids of an option that may be a text."""
    if not isinstance(words, str):
        return list(words)
    tokenizer = module.record.load_tokenizer()
    if tokenizer is None:
        raise UsageError(f"an option holds the text {words!r}, and no tokenizer is known: give token ids")
    return tokenizer.encode(words)


def generate(module: SequenceModule, prompts: Sequence[Sequence[int]]) -> list[str] | list[list[int]]:
    """Generate by the module's own options: texts where a tokenizer is known, else ids."""
    options = module.generation_options()
    stop = options.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else stop
    tokenizer = module.record.load_tokenizer()
    if tokenizer is None and stop:
        raise UsageError(f"stop is {stop!r}, which needs a tokenizer, and none is known: use a data module with one")
    ids = generate_ids(module, prompts, options)
    return ids if tokenizer is None else [_cut(tokenizer.decode(row), stop) for row in ids]


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string: what a loop that watches for it gives, only later."""
    ends = [text.index(word) for word in stop if word in text]
    return text[: min(ends, default=len(text))]
