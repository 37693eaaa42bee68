"""A bundle's tokenizer, checked before use."""

from __future__ import annotations

from litseq.bundle import Bundle
from litseq.errors import BundleError, DataError
from litseq.runtime.prompts import is_unicode
from litseq.text import Tokenizer


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        BundleError: when it cannot be read, does not belong to the model, or does not read the golden strings as the
            tokenizer of the export did.
    """
    info = bundle.manifest.tokenizer
    vocab_size = bundle.manifest.model.vocab_size
    try:
        tokenizer = Tokenizer.load(bundle.file(info.file))
    except DataError as error:
        raise BundleError(f"{bundle.path}: {error}") from error
    if tokenizer.vocab_size > vocab_size:
        raise BundleError(
            f"{bundle.path}: the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}; they do not belong together"
        )
    for golden in info.golden:
        found = tokenizer.encode(golden.text) if is_unicode(golden.text) else []
        if found != list(golden.ids):
            raise BundleError(
                f"{bundle.path}: the tokenizer reads {golden.text[:40]!r} as {found[:8]}, at export it was "
                f"{list(golden.ids[:8])}; install the version of tokenizers that made the bundle, or export it again"
            )
    return tokenizer
