"""Read untrusted JSON field by field, collecting every problem instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")


class Fields:
    """One JSON object being read.

    A field that is missing or of the wrong kind adds a line to `problems`, and a harmless stand-in is returned: the
    caller reads on and raises once, with everything that is wrong.
    """

    def __init__(self, raw: object, where: str, problems: list[str]) -> None:
        self.where = where
        self.problems = problems
        self._raw: dict[str, object] = raw if isinstance(raw, dict) else {}
        if not isinstance(raw, dict):
            self.note("", f"is {_kind(raw)}, expected an object")

    def note(self, key: str, problem: str) -> None:
        """Record what is wrong with `key`."""
        name = ".".join(part for part in (self.where, key) if part) or "the manifest"
        self.problems.append(f"{name} {problem}")

    def has(self, key: str) -> bool:
        """Whether `key` is present and not null."""
        return self._raw.get(key) is not None

    def text(self, key: str, default: str | None = None, choices: Iterable[str] = (), *, empty: bool = False) -> str:
        """A string, not empty unless `empty`, one of `choices` when some are given."""
        value = self._raw.get(key, default)
        allowed = tuple(choices)
        if not isinstance(value, str) or not (value or empty):
            self.note(key, f"is {_kind(value)}, expected text")
            return default or (allowed[0] if allowed else "-")
        if allowed and value not in allowed:
            self.note(key, f"is {value[:40]!r}, expected one of {', '.join(allowed)}")
            return allowed[0]
        return value

    def integer(self, key: str, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """An integer between `minimum` and `maximum`."""
        value = self._raw.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self.note(key, f"is {_kind(value)}, expected an integer")
            return minimum
        if not minimum <= value <= maximum:
            self.note(key, f"is {value}, expected {minimum} to {maximum}")
            return minimum
        return value

    def mapping(self, key: str) -> dict[str, object]:
        """A JSON object kept as it is; absent is empty."""
        value = self._raw.get(key, {})
        if not isinstance(value, dict):
            self.note(key, f"is {_kind(value)}, expected an object")
            return {}
        return value

    def texts(self, key: str) -> dict[str, str]:
        """A JSON object whose values are non-empty strings."""
        value = self.mapping(key)
        wrong = [name for name, item in value.items() if not isinstance(item, str) or not item]
        if wrong:
            self.note(key, f"holds no text for {', '.join(map(repr, wrong[:4]))}")
        return {name: item for name, item in value.items() if isinstance(item, str) and item}

    def child(self, key: str) -> Fields:
        """The object under `key`, to be read in turn."""
        return Fields(self._raw.get(key), _join(self.where, key), self.problems)

    def each(self, key: str, read: Callable[[Fields], Item], maximum: int = 4096) -> tuple[Item, ...]:
        """`read` applied to each object of the list under `key`; absent is empty."""
        return tuple(
            read(Fields(item, f"{_join(self.where, key)}[{i}]", self.problems)) for i, item in self._items(key, maximum)
        )

    def entries(self, key: str, read: Callable[[Fields], Item]) -> dict[str, Item]:
        """`read` applied to each value of the object under `key`."""
        items = self.mapping(key).items()
        return {name: read(Fields(item, f"{_join(self.where, key)}[{name!r}]", self.problems)) for name, item in items}

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers; absent is empty."""
        items = [item for _, item in self._items(key, 2**20)]
        if any(isinstance(item, bool) or not isinstance(item, int) for item in items):
            self.note(key, "holds something that is no integer")
        return tuple(item for item in items if isinstance(item, int))

    def dims(self, key: str, words: Iterable[str]) -> tuple[int | str, ...]:
        """A tensor's dimensions: positive integers, or one of `words`."""
        allowed = tuple(words)
        dims: list[int | str] = []
        for _, item in self._items(key, 8):
            fits = isinstance(item, int) and not isinstance(item, bool) and 0 < item <= 2**20
            if isinstance(item, int | str) and (fits or item in allowed):
                dims.append(item)
            else:
                self.note(key, f"holds {str(item)[:20]!r}, expected positive integers or {', '.join(allowed)}")
        return tuple(dims)

    def _items(self, key: str, maximum: int) -> list[tuple[int, object]]:
        value = self._raw.get(key, [])
        if not isinstance(value, list | tuple):
            self.note(key, f"is {_kind(value)}, expected a list")
            return []
        if len(value) > maximum:
            self.note(key, f"holds {len(value)} entries, expected at most {maximum}")
            return []
        return list(enumerate(value))


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _kind(value: object) -> str:
    if value is None:
        return "missing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "empty" if value == "" else names.get(type(value), type(value).__name__)
