"""Which tokens of a vocabulary begin, end, pad and separate, in our own tokenizers and in other people's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litseq.errors import DataError

PAD, BOS, EOS, UNK, SEP = "<pad>", "<bos>", "<eos>", "<unk>", "<sep>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK, SEP)
"""The first tokens of every vocabulary we train, so that their ids are 0 to 4."""

ROLES = ("pad", "bos", "eos", "unk", "sep")

# Our own name first, then what published tokenizers call the same role, most common first.
COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "pad": (PAD, "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos": (BOS, "<s>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    "eos": (EOS, "</s>", "[EOS]", "<|end_of_text|>", "<|endoftext|>", "<|eot_id|>", "<|im_end|>", "[SEP]"),
    "unk": (UNK, "[UNK]", "<|unk|>"),
    "sep": (SEP, "[SEP]", "<|sep|>"),
}


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of the special roles. `pad` and `bos` are always usable: they fall back on `eos`."""

    pad: int
    bos: int
    eos: int
    unk: int | None
    sep: int | None


def find_special_tokens(
    vocabulary: Mapping[str, int], document: Mapping[str, Any], explicit: Mapping[str, str | None], where: str
) -> SpecialTokens:
    """The special ids of a tokenizer: as given, else as its own template says, else by common names.

    Args:
        vocabulary: Every token with its id, added tokens included.
        document: The parsed tokenizer.json.
        explicit: Role (`pad`, `bos`, ...) -> token, `None` where it is to be found.
        where: Named in the errors.
    """
    for role, token in explicit.items():
        if token is not None and token not in vocabulary:
            raise DataError(f"{where}: {role}={token!r} is not in its vocabulary of {len(vocabulary)} tokens")
    stated = stated_tokens(document)
    ids: dict[str, int | None] = {}
    for role in ROLES:
        names = [explicit.get(role), stated.get(role), *COMMON_NAMES[role]]
        ids[role] = next((vocabulary[name] for name in names if name is not None and name in vocabulary), None)
    eos = ids["eos"]
    if eos is None:
        raise DataError(
            f"{where}: no end token found (looked for {', '.join(COMMON_NAMES['eos'])}); name it with eos='...'"
        )
    pad, bos = ids["pad"], ids["bos"]
    return SpecialTokens(
        pad=eos if pad is None else pad, bos=eos if bos is None else bos, eos=eos, unk=ids["unk"], sep=ids["sep"]
    )


def stated_tokens(document: Mapping[str, Any]) -> dict[str, str]:
    """The roles a tokenizer.json states itself, in the fields Hugging Face has for them.

    `padding` names the padding token, the model its unknown token, and the template `BOS $A EOS` / `BOS $A SEP $B EOS`
    the others.
    """
    found: dict[str, str] = {}
    padding, model = document.get("padding"), document.get("model")
    if isinstance(padding, dict) and isinstance(padding.get("pad_token"), str):
        found["pad"] = padding["pad_token"]
    if isinstance(model, dict) and isinstance(model.get("unk_token"), str):
        found["unk"] = model["unk_token"]
    for processor in _processors(document.get("post_processor")):
        if processor.get("type") != "TemplateProcessing":
            continue
        single, pair = _template(processor, "single"), _template(processor, "pair")
        if "$A" in single:
            before, behind = single[: single.index("$A")], single[single.index("$A") + 1 :]
            found |= {"bos": before[0]} if before else {}
            found |= {"eos": behind[-1]} if behind else {}
        if "$A" in pair and "$B" in pair:
            between = pair[pair.index("$A") + 1 : pair.index("$B")]
            found |= {"sep": between[0]} if len(between) == 1 else {}
    return found


def state_tokens(document: dict[str, Any], tokens: SpecialTokens, names: Mapping[int, str]) -> None:
    """Write the roles into a tokenizer.json so that `stated_tokens` finds them again, and `transformers` too."""

    def special(index: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": names[index], "type_id": 0}}

    def sequence(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    between = [] if tokens.sep is None else [special(tokens.sep)]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special(tokens.bos), sequence("A"), special(tokens.eos)],
        "pair": [special(tokens.bos), sequence("A"), *between, sequence("B"), special(tokens.eos)],
        "special_tokens": {
            names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]}
            for i in sorted({tokens.bos, tokens.eos} | ({tokens.sep} if tokens.sep is not None else set()))
        },
    }
    document["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": tokens.pad,
        "pad_type_id": 0,
        "pad_token": names[tokens.pad],
    }


def _processors(processor: Any) -> Iterator[Mapping[str, Any]]:
    """A post-processor and, where it is a sequence of them, each of its parts."""
    if isinstance(processor, dict):
        yield processor
        for part in processor.get("processors") or ():
            yield from _processors(part)


def _template(processor: Mapping[str, Any], name: str) -> list[str]:
    """A template as a list of tokens and `$A`, `$B`."""
    words: list[str] = []
    for piece in processor.get(name) or ():
        if not isinstance(piece, dict):
            return []
        for kind, value in piece.items():
            word = str(value.get("id")) if isinstance(value, dict) else ""
            words.append(f"${word}" if kind == "Sequence" else word)
    return words
