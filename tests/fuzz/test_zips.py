"""Zip archives of episodes, with members of every kind."""

from __future__ import annotations

import io
import re
import struct
import zipfile

import pytest
from hypothesis import strategies as st

from tests.fuzz.inputs import damaged, fuzz
from tests.fuzz.test_archives import NAMES, check_unpacking
from tests.fuzz.test_episodes import SEEDS as EPISODES

# Fields of a directory's entry and of a member's own header, by their places, and lies for them.
_FIELDS = ((6, 2), (8, 2), (10, 2), (14, 4), (16, 4), (20, 4), (24, 4), (28, 2), (38, 4), (42, 4))
_LIES = (0, 1, 8, 12, 14, 99, 100, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 0xA1FF0000)


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """A zip file of members with odd names, attributes and headers, and damaged."""
    file = io.BytesIO()
    contents = st.sampled_from((EPISODES[0], EPISODES[2], b"", bytes(70_000), b"x" * 700))
    with zipfile.ZipFile(file, "w") as archive:
        for _ in range(draw(st.integers(0, 4))):
            info = zipfile.ZipInfo(draw(st.sampled_from(NAMES)).encode(errors="replace").decode())
            info.compress_type = draw(st.sampled_from((0, 8, 8, 12, 14)))
            info.external_attr = draw(st.sampled_from((0, 0o100644, 0o120777, 0o40755))) << 16
            archive.writestr(info, draw(contents))
    data = file.getvalue()
    entries = [found.start() for found in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", data)]
    for _ in range(draw(st.sampled_from((0, 0, 1, 2, 3))) if entries else 0):
        at, (field, size) = draw(st.sampled_from(entries)), draw(st.sampled_from(_FIELDS))
        piece = struct.pack("<Q", draw(st.sampled_from(_LIES)))[:size]
        data = data[: at + field] + piece + data[at + field + size :]
    return draw(damaged([data, EPISODES[0]])) if draw(st.integers(0, 3)) == 0 else data


@pytest.mark.filterwarnings("ignore:Duplicate name")
@fuzz(60, zips())
def test_a_zip_becomes_a_flat_folder_of_files_or_is_refused(content):
    check_unpacking("data.zip", content)
