"""The generation options as flags, for every command that generates."""

from __future__ import annotations

import argparse
from typing import Any

_WHOLE = {
    "max_new_tokens": "tokens at most (default: the bundle's, or what fits the model)",
    "min_new_tokens": "tokens at least",
    "top_k": "sample among the K likeliest tokens",
    "no_repeat_ngram_size": "no sequence of N tokens occurs twice",
    "seed": "sample the same tokens again",
    "top_logprobs": "with --json: the K likeliest tokens of each step",
    "num_beams": "above 1: beam search with N beams",
    "num_return_sequences": "N outputs a prompt, the best first, each a line",
    "num_beam_groups": "diverse beam search in N groups",
}
_REAL = {
    "temperature": "above 0: sample; lower is safer",
    "top_p": "sample among the fewest tokens that sum to this probability",
    "min_p": "drop tokens less likely than this times the likeliest",
    "repetition_penalty": "above 1: tokens that occurred become less likely",
    "length_penalty": "of beams: above 0 favours long outputs, below 0 short ones",
    "diversity_penalty": "of beam groups: how much a group avoids the tokens of those before it",
}
_EARLY = {"true": True, "false": False, "never": "never"}
_OTHER = ("stop", "bad_words", "prefix", "early_stopping", "prompt_lookup", "logprobs")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every option of `litseq.generation.GenerationOptions` that a shell can give."""
    group = parser.add_argument_group("generation options")
    for kind, names, metavar in ((int, _WHOLE, "N"), (float, _REAL, "X")):
        for name, text in names.items():
            group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--early-stopping",
        choices=[*_EARLY],
        help="end a beam search when there are enough outputs, when no better one is likely (false), or possible (never)",
    )
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end where TEXT appears; may be given several times"
    )
    group.add_argument(
        "--bad-words", action="append", metavar="TEXT", help="TEXT does not occur; may be given several times"
    )
    group.add_argument("--prefix", metavar="TEXT", help="every output begins with TEXT")
    group.add_argument(
        "--prompt-lookup",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="guess tokens by how earlier text went on, which changes no output (default: where it is quicker)",
    )
    group.add_argument(
        "--logprobs", action="store_true", default=None, help="with --json: log-probabilities of the tokens"
    )


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by their names in `GenerationOptions`."""
    names = (*_WHOLE, *_REAL, *_OTHER)
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    if "early_stopping" in options:
        options["early_stopping"] = _EARLY[options["early_stopping"]]
    return options
