"""Protocol buffers as bytes: just enough to read the weights of an ONNX graph and to write a graph of one node.

`onnx` belongs to the extra [train], and what serves must not need it. The encoding is a list of fields, each a key
(number and kind) and a value: https://protobuf.dev/programming-guides/encoding/. Field numbers are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Every field of a message in order: its number, and its value as a whole number or as bytes.

    Raises:
        ValueError: the bytes are no message.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        value: int | memoryview
        if kind == _VARINT:
            value, place = _varint(data, place)
        elif kind in (_BYTES, _FIXED64, _FIXED32):
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
            if kind == _BYTES:
                size, place = _varint(data, place)
            value, place = data[place : place + size], place + size
            if len(value) != size:
                raise ValueError("a field is cut off")
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        yield key >> 3, value


def integers(value: int | memoryview) -> list[int]:
    """A repeated whole number, which is written one by one or packed."""
    if isinstance(value, int):
        return [value]
    found, place = [], 0
    while place < len(value):
        number, place = _varint(value, place)
        found.append(number)
    return found


def message(*parts: tuple[int, int | bytes | str]) -> bytes:
    """A message from fields: whole numbers, or bytes (of strings, of messages)."""
    out = bytearray()
    for number, value in parts:
        if isinstance(value, int):
            out += _as_varint(number << 3 | _VARINT) + _as_varint(value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            out += _as_varint(number << 3 | _BYTES) + _as_varint(len(raw)) + raw
    return bytes(out)


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise ValueError("a number is cut off")
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
