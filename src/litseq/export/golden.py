"""Golden strings: what the tokenizer of a bundle must give, so that a wrong one is noticed before it is used."""

from litseq.bundle import Golden
from litseq.text import Tokenizer

TEXTS = (
    "A dog runs.",
    " two  spaces, a tab\tand a\nnew line ",
    "Füße, naïve, Ωμέγα, слово, 日本語, 👩‍👩‍👧 and 🙂",
    "3.14159 x 10^-7 = ?!",
    "<eos> <s> are words here",
)


def golden_strings(tokenizer: Tokenizer) -> tuple[Golden, ...]:
    """Texts of many kinds and their ids."""
    return tuple(Golden(text, tuple(tokenizer.encode(text))) for text in TEXTS)
