"""Inputs made from valid ones, and what is asked of whatever reads them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
PROFILE = settings(
    deadline=None,
    database=None,
    derandomize=not LONG,  # the same inputs each time
    suppress_health_check=list(HealthCheck),
)


def fuzz(count: int, inputs: st.SearchStrategy) -> Callable:
    """Calls a test with so many inputs, in the long profile with 160 times as many: 103,680."""
    chosen = settings(PROFILE, max_examples=count * 160 if LONG else count)
    return lambda test: chosen(given(inputs)(test))


# What lengths, counts and offsets break on, and other bytes.
_PIECES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from([0, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]).flatmap(
        lambda number: st.sampled_from([number.to_bytes(4, "little"), number.to_bytes(8, "big")])
    ),
    st.integers(0, 512).map(bytes),
)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes], most: int = 4) -> bytes:
    """One of the seeds with bytes put in, left out and replaced, or the end of another."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, most))):
        # Headers and directories are near the ends.
        near, from_end = draw(st.integers(0, 256)), draw(st.integers(0, 2))
        at = [near, len(data) - near, draw(st.integers(0, len(data)))][from_end]
        at = min(max(at, 0), len(data))
        kind = draw(st.integers(0, 6))
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + draw(st.sampled_from(seeds))[at:]
        else:
            piece = draw(_PIECES)
            data = data[:at] + piece + data[at + (len(piece) if kind > 3 else near) :]
    return data


@contextmanager
def laid(files: Mapping[str, bytes]) -> Iterator[tuple[Path, Path]]:
    """A folder with these files, and an empty one, in which the test works meanwhile."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        there, made = Path(name, "there"), Path(name, "made")
        there.mkdir()
        made.mkdir()
        for file, content in files.items():
            (there / file).write_bytes(content)
        os.chdir(made)
        try:
            yield there, made
        finally:
            os.chdir(before)
        assert {path.name for path in Path(name).iterdir()} == {"there", "made"}
        assert {path.name: path.read_bytes() for path in there.iterdir()} == files


def check_refusal(error: Any, *names: str, most: int = 10_000) -> None:
    """A refusal is one line, not too long, and names the thing."""
    text = str(error)
    assert len(text.splitlines()) == 1, text
    assert len(text) <= most, text[:300]
    assert text.strip(), "nothing is said"
    assert not names or any(name in text for name in names), text
