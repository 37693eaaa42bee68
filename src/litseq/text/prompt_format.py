"""How the ids of a text become the ids a model is prompted with: the same in training and in serving."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PromptFormat:
    """The ids around a prompt, and the ids a decoder with an encoder starts from.

    | | prefix | suffix | start |
    |---|---|---|---|
    | pairs, encoder-decoder | | `eos` | `bos` |
    | pairs, decoder-only | `bos` | `sep` | |
    | text, decoder-only | `bos` | | |

    A prompt that is already a list of ids is taken as it is; only text goes through `render`.
    """

    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    start_ids: tuple[int, ...] = ()
    """What the decoder of an encoder-decoder reads before its first output; empty for a decoder-only model."""

    def render(self, ids: Iterable[int]) -> list[int]:
        """The ids of a text with what belongs before and behind them."""
        return [*self.prefix_ids, *ids, *self.suffix_ids]

    def to_dict(self) -> dict[str, list[int]]:
        """Plain types, for a checkpoint or a manifest."""
        return {
            "prefix_ids": list(self.prefix_ids),
            "suffix_ids": list(self.suffix_ids),
            "start_ids": list(self.start_ids),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PromptFormat":
        """The inverse of `to_dict`; refuses unknown keys and anything but token ids."""
        names = ("prefix_ids", "suffix_ids", "start_ids")
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ValueError(f"prompt format has unknown keys {unknown}, expected {list(names)}")
        parts: dict[str, tuple[int, ...]] = {}
        for name in names:
            ids = values.get(name, ())
            if not isinstance(ids, list | tuple) or not all(type(i) is int and i >= 0 for i in ids):
                raise ValueError(f"prompt format: {name} is {ids!r}, expected a list of token ids")
            parts[name] = tuple(ids)
        return cls(**parts)
