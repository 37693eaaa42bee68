"""Arguments that are whole numbers."""

import math

from litseq.errors import UsageError
from litseq.generation.plain import plain


def check_integer(
    name: str, value: object, least: float = -math.inf, most: float = math.inf, *, expected: str = ""
) -> int:
    """The value of an argument, which must be a whole number (True and False are none) within its bounds.

    Args:
        name: The argument.
        value: Its value.
        least: The lowest that is taken.
        most: The highest.
        expected: What the message says was expected, where the bounds do not say it well.

    Raises:
        UsageError: it is something else.
    """
    value = plain(value)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    bounds = "" if least == -math.inf else f" of at least {least}" if most == math.inf else f" from {least} to {most}"
    raise UsageError(f"{name} is {value!r}, expected {expected or f'an integer{bounds}'}")
