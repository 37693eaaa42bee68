"""What numpy and torch users hand over, as Python's own numbers and lists."""

import numbers
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard


class ArrayLike(Protocol):
    """A scalar or an array of numpy, a tensor of torch."""

    def tolist(self) -> Any:
        """Its values as Python's own."""


def plain(value: Any) -> Any:
    """A scalar, an array or a tensor as Python's own number or list; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether a value is a list or the like. Bytes are none: their numbers would pass for token ids."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
