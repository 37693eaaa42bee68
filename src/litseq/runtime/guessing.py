"""How a `Generator` guesses ahead: what its bundle allows, and what a draft bundle must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litseq.bundle import Manifest
from litseq.errors import UsageError
from litseq.generation.draft_model import DraftModel
from litseq.generation.drafts import Drafter, PromptLookup
from litseq.generation.speculation import Costs
from litseq.generation.step_model import StepModel
from litseq.text import Tokenizer

if TYPE_CHECKING:
    from litseq.runtime.generator import Generator


class Guessing:
    """Who guesses for a generator, and what was measured while it ran."""

    def __init__(self, manifest: Manifest, draft: Generator | None = None) -> None:
        self.costs = Costs()
        self.draft = draft
        self.possible = can_rewind(manifest)
        """Whether rows can be shortened; a recurrent state cannot."""
        self._default = _is_batch_invariant(manifest)

    def drafters(self, draft_model: StepModel | None = None) -> list[Drafter]:
        """The drafters for one engine; `draft_model` is the draft's, without rows."""
        if not self.possible:
            return []
        lookup = PromptLookup(default=self._default)
        return [lookup] if draft_model is None else [lookup, DraftModel(draft_model)]


def can_rewind(manifest: Manifest) -> bool:
    """Whether every cache of a bundle grows with the sequence."""
    return all("capacity" in tensor.dims for tensor in manifest.decoder.cache)


def check_draft(generator: Generator, draft: Generator) -> None:
    """See that a draft's tokens are the generator's, and that it reads prompts as that does.

    Raises:
        UsageError: naming the first difference.
    """
    if problem := _difference(generator, draft):
        raise UsageError(f"the draft bundle does not fit: {problem}; a draft needs the same tokenizer and architecture")


def _difference(generator: Generator, draft: Generator) -> str | None:
    ours, theirs = generator.manifest, draft.manifest
    for name, a, b in (
        ("architecture", ours.architecture, theirs.architecture),
        ("vocab_size", ours.model.vocab_size, theirs.model.vocab_size),
        ("end token", generator.tokenizer.eos_id, draft.tokenizer.eos_id),
    ):
        if a != b:
            return f"its {name} is {b!r}, the bundle's is {a!r}"
    for which, manifest in (("the bundle", ours), ("it", theirs)):
        if not can_rewind(manifest):
            return f"{which} has a recurrent state, which cannot go back behind a wrong guess"
    return _unequal_token(generator.tokenizer, draft.tokenizer)


def _unequal_token(ours: Tokenizer, theirs: Tokenizer) -> str | None:
    for i in range(max(ours.vocab_size, theirs.vocab_size)):
        a, b = ours.id_to_token(i), theirs.id_to_token(i)
        if a != b:
            return f"its token {i} is {b!r}, the bundle's is {a!r}"
    return None


def _is_batch_invariant(manifest: Manifest) -> bool:
    """Whether a call over several tokens computes what a step computes, up to the order of sums.

    Some quantised products use another kernel for one token than for several, which rounds differently enough to change
    a token now and then. Nothing is guessed there unless asked for.
    """
    return manifest.quantization.get("batch_invariant", True) is not False
