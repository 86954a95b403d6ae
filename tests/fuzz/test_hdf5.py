"""HDF5 files of odd contents, and with bytes changed."""

from __future__ import annotations

import io

import h5py
import numpy as np
from hypothesis import strategies as st

from data import hdf5
from data.converting import LONGEST
from data.frames import Settings
from media.images import Unusable
from tests.data.layouts import hdf5 as bytes_of
from tests.data.layouts import shard
from tests.fuzz.inputs import check_refusal, damaged, fuzz, laid

SEEDS = (
    bytes_of(shard([3, 4], 8)),
    bytes_of(shard([3, 4], 8), compression="gzip"),
    bytes_of(shard([5], 8, step_type=None)),
)
_KEYS = ("observation", "image", "action", "reward", "discount", "step_type", "other")
_SHAPES = ((4, 3, 8, 8), (4, 8, 8, 3), (4,), (4, 2), (), (0,), (4, 0), (10**6, 8, 8, 3), (10**12,))
_TYPES = ("u1", "f4", "f8", "i8", "?", "S3", "O")


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file with arrays of any shapes, most of which were never written."""
    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        for key in draw(st.lists(st.sampled_from(_KEYS), max_size=5, unique=True)):
            kind = draw(st.integers(0, 5))
            if kind == 0:
                out.create_group(key)
            elif kind == 1:
                out[key] = h5py.SoftLink(draw(st.sampled_from(("/nowhere", f"/{key}", "/"))))
            elif kind == 2:
                out[key] = h5py.ExternalLink("/etc/passwd", "/")
            else:
                dtype = draw(st.sampled_from(_TYPES))
                dtype = h5py.string_dtype() if dtype == "O" else np.dtype(dtype)
                out.create_dataset(key, draw(st.sampled_from(_SHAPES)), dtype)
    return file.getvalue()


_INPUTS = st.one_of(files(), damaged(SEEDS), damaged(SEEDS, most=40))


@fuzz(40, _INPUTS)
def test_a_file_gives_episodes_or_is_unusable(content):
    with laid({"a.h5": content}) as (there, made):
        hdf5.is_hdf5(there / "a.h5")
        try:
            for episode in hdf5.read(there / "a.h5", Settings(size=(8, 8), length=4)):
                assert 0 < len(episode["image"]) <= LONGEST
                assert episode["image"].shape[1:] == (8, 8, 3)
                assert len({len(value) for value in episode.values()}) == 1
        except Unusable as error:
            check_refusal(error, most=1000)
        assert list(made.iterdir()) == []
