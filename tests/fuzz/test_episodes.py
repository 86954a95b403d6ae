"""Episode files: .npz archives, alone and in folders."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
from hypothesis import strategies as st

from replay import HostStorage, Replay, row_fields
from replay.episodes import DTYPES, read_episode
from replay.files import count_rows
from tests.fuzz.inputs import check_refusal, damaged, fuzz, laid
from tests.fuzz.pickles import PICKLES

SHAPE = (4, 4, 3)


def fields(rows: int = 5) -> dict[str, np.ndarray]:
    """An episode as the published ones are, but smaller."""
    rng = np.random.default_rng(rows)
    return {
        "image": rng.integers(0, 256, (rows, *SHAPE), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "logprob": np.zeros(rows, np.float32),
        "reward": rng.uniform(0, 1, rows).astype(np.float32),
        "discount": np.ones(rows, np.float32),
        "is_terminal": np.zeros(rows, bool),
    }


def npz(content: dict[str, np.ndarray], compressed: bool = True) -> bytes:
    """The bytes of an .npz file."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **content)
    return file.getvalue()


SEEDS = (
    npz(fields()),
    npz(fields(), compressed=False),
    npz({"image": fields(7)["image"]}),
    npz(fields(2) | {"note": np.array(["x"])}, compressed=False),
    npz({**fields(3), "reward": np.array([None] * 3)}),
    npz({**fields(3), "reward": np.array([1e300] * 3), "action": np.zeros((3, 2), ">f8")}),
    npz({**fields(3), "image": np.asfortranarray(fields(3)["image"])}),
)

# Members made by hand: headers that do not tell the truth.
_SHAPES = (
    *("(5, 4, 4, 3)", "(5,)", "()", "(0, 4, 4, 3)", "(5, 4, 4)", "(-5, 4, 4, 3)", "(5, 0, 0, 0)"),
    *("(1000000000000, 4, 4, 3)", "(9223372036854775807, 2)", "(4294967296, 4294967296)"),
    *("(5.0, 4)", "(True, 4, 4, 3)", "'x'", "[5, 4, 4, 3]", "(" * 300 + ")" * 300, "(5, 2)"),
    *("(9999999999999999999999, 4, 4, 3)", "None", "(-1, -5, 4, 3)", "(5, -4, -4, 3)", "(1,)*99"),
)
_TYPES = (
    *("'|u1'", "'<f4'", "'>f4'", "'<f8'", "'|b1'", "'|O'", "'<U1'", "'|S0'", "'|V0'", "'<M8[s]'"),
    *("'<c8'", "'<f2'", "'<i8'", "'>u8'", "'<g'", "[('a', '<f4')]", "[('a', '|O')]", "'x'", "3"),
    *("'(1000000,1000000)u1'", "('<f4', (100, 100))", "'<U1000000000'", "None", "'|S' * 9", "{}"),
)


_PAYLOADS = (bytes(240), bytes(40), b"", b"\xff" * 240, bytes(1 << 16), *PICKLES)
_HEADS = ("{}", "{}", "{}", "{}\0", "", "{" * 180 + "{}", "((((({}", "{}" + "(" * 5000)


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """An .npy member whose header was made by hand."""

    def pick(*options):
        return draw(st.sampled_from(options))

    order = pick("False", "True", "3")
    head = f"{{'descr': {pick(*_TYPES)}, 'fortran_order': {order}, 'shape': {pick(*_SHAPES)}, }}"
    head = pick(*_HEADS).replace("{}", head).encode("latin-1") + b"\n"
    version = pick((1, 0), (1, 0), (2, 0), (3, 0), (0, 0), (4, 1), (255, 255))
    length = pick(len(head), len(head), len(head), 0, 0xFFFF, len(head) // 2)
    size = struct.pack("<H" if version == (1, 0) else "<I", length)
    return b"\x93NUMPY" + bytes(version) + size + head + pick(*_PAYLOADS)


_NAMES = (*(f"{key}.npy" for key in DTYPES), "image", "other.npy", "../image.npy", "image.npy/")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


_MEMBERS = tuple((f"{key}.npy", _npy(array)) for key, array in fields().items())


_CONTENTS = st.one_of(arrays(), damaged([raw for _, raw in _MEMBERS]), st.binary())


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """An archive with members replaced, renamed, compressed otherwise, and sizes that lie."""
    members = list(_MEMBERS)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(_NAMES))
        members = [pair for pair in members if pair[0] != name] * draw(st.integers(0, 5).map(bool))
        members.insert(draw(st.integers(0, len(members))), (name, draw(_CONTENTS)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content, draw(st.sampled_from(_METHODS)))
    data = file.getvalue()
    if draw(st.integers(0, 3)) == 0:  # a size in the directory
        place = data.find(b"PK\1\2") + draw(st.sampled_from((20, 24, 42)))
        size = draw(st.sampled_from((0, 1, 0xFFFFFFFE, 0xFFFFFFFF, 0x7FFFFFFF)))
        data = data[:place] + struct.pack("<I", size) + data[place + 4 :]
    return draw(damaged([data, *SEEDS], 2)) if draw(st.integers(0, 4)) == 0 else data


FILES = st.one_of(damaged(SEEDS), archives(), archives())


def check_fields(episode: dict[str, np.ndarray]) -> None:
    """What is accepted is an episode."""
    for key, value in episode.items():
        assert (value.dtype, len(value)) == (DTYPES[key], len(episode["image"])), key
        if key in ("reward", "discount", "action"):
            assert np.isfinite(value).all(), key
    assert episode["image"].ndim == 4
    assert episode["image"].size


@fuzz(60, FILES)
def test_a_file_is_an_episode_of_the_documented_fields_or_refused(content):
    with laid({"a.npz": content}) as (there, _):
        counted = count_rows(there)
        try:
            episode = read_episode(there / "a.npz")
        except ValueError as error:
            return check_refusal(error, most=1000)
        check_fields(episode)
        assert counted == len(episode["image"])


_FOLDERS = st.lists(st.one_of(st.sampled_from(SEEDS), FILES), min_size=1, max_size=4)


@fuzz(15, _FOLDERS)
def test_of_a_folder_each_file_is_taken_in_or_named(files):
    with laid({f"{number}-5.npz": content for number, content in enumerate(files)}) as (there, _):
        replay = Replay(HostStorage(row_fields(SHAPE, 2)))
        summary = replay.load(there)
        assert summary.episodes + len(summary.skipped) == len(files)
        for _, reason in summary.skipped:
            check_refusal(reason, most=1000)
        if summary.episodes:
            batch = replay.sample(2, 3)
            assert batch["image"].shape == (2, 3, *SHAPE)
            assert np.isfinite(batch["reward"]).all()
