"""JSON that every reader takes."""

import math
from typing import Any


def standard(value: Any) -> Any:
    """A value with null for each number that JSON has none for: Python writes `NaN` and `-Infinity`, which most readers refuse."""
    if isinstance(value, dict):
        return {name: standard(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [standard(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
