"""Inputs made from valid ones: bytes flipped, cut, doubled, moved, and spliced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What lengths, counts and offsets break on, in little-endian bytes of each width.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_INTERESTING = tuple(
    number.to_bytes(width, order)
    for number in _NUMBERS
    for width in (1, 2, 4, 8)
    for order in ("little", "big")
    if number < 1 << (8 * width)
)
_OPERATIONS = ("flip", "set", "number", "cut", "delete", "insert", "double", "move", "zero")


def pick(draw: st.DrawFn, options: Sequence[Any]) -> Any:
    """One of the options; drawing from `sampled_from` takes far longer where they are long."""
    return options[draw(st.integers(0, len(options) - 1))]


def _place(draw: st.DrawFn, length: int) -> int:
    """A place in the data: anywhere, or near an end, where headers and directories are."""
    where = draw(st.integers(0, 2))
    if where == 1:
        return min(length, draw(st.integers(0, 128)))
    if where == 2:
        return max(0, length - draw(st.integers(0, 256)))
    return draw(st.integers(0, length))


def _change(draw: st.DrawFn, data: bytes, others: Sequence[bytes]) -> bytes:
    operation = pick(draw, (*_OPERATIONS, "splice") if others else _OPERATIONS)
    at = _place(draw, len(data))
    if operation == "flip":
        bit = draw(st.integers(0, 7))
        return data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :]
    if operation == "set":
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at + 1 :]
    if operation == "number":
        number = pick(draw, _INTERESTING)
        return data[:at] + number + data[at + len(number) :]
    if operation == "cut":
        return data[:at]
    if operation == "insert":
        return data[:at] + draw(st.binary(max_size=64)) + data[at:]
    if operation == "splice":
        other = pick(draw, others)
        return data[:at] + other[_place(draw, len(other)) :]
    end = min(len(data), at + draw(st.integers(1, 512)))
    piece = data[at:end]
    if operation == "delete":
        return data[:at] + data[end:]
    if operation == "zero":
        return data[:at] + bytes(len(piece)) + data[end:]
    to = _place(draw, len(data))
    if operation == "move":
        data = data[:at] + data[end:]
    return data[:to] + piece + data[to:]


@st.composite
def changed(draw: st.DrawFn, data: bytes, others: Sequence[bytes] = (), most: int = 5) -> bytes:
    """The data after a few changes."""
    for _ in range(draw(st.integers(1, most))):
        data = _change(draw, data, others)
    return data


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes], most: int = 5) -> bytes:
    """One of the seeds after a few changes."""
    return draw(changed(pick(draw, seeds), seeds, most))


def one_line(text: str) -> bool:
    """Whether a text is a single line that says something."""
    return len(text.splitlines()) == 1 and bool(text.strip())
