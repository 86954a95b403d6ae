"""LeRobot's layout: odd descriptions, odd columns, and bytes changed; folders below folders."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import pyarrow
from hypothesis import strategies as st

import config
import data
from replay.episodes import read_episode
from replay.files import episode_files
from tests.data.layouts import info, lay, lerobot, packed, table
from tests.fuzz.inputs import check_refusal, damaged, fuzz, laid
from tests.fuzz.test_episodes import SEEDS as EPISODES
from tools import UserError


@cache
def seeds() -> tuple[dict[str, bytes], ...]:
    """A dataset of each version."""
    with tempfile.TemporaryDirectory() as folder:
        return tuple(lerobot(version, [3, 4], Path(folder)) for version in (2, 3))


_VALUES = (None, 0, -1, 1e400, "x", [], {}, True, "v3.0", "v2.1", "v99", "9" * 5000, 10**400)
_PATHS = (
    "../{video_key}.mp4",
    "/etc/passwd",
    "{episode_index:09d}",
    "{x}",
    "{",
    "a\0b",
    "x" * 5000,
)
_COLUMNS = (
    pyarrow.array([0, 0, 1]),
    pyarrow.array([2**62, -(2**62), 0]),
    pyarrow.array([None, 1, 2]),
    pyarrow.array(["a", "b", "c"]),
    pyarrow.array([[1.0], [], [2.0]]),
    pyarrow.array([[], [], []], pyarrow.list_(pyarrow.float32())),
    pyarrow.array([float("nan"), float("inf"), 1e300]),
    pyarrow.array([[1.0, 2.0]] * 3),
    pyarrow.array([True, False, True]),
)


@st.composite
def datasets(draw: st.DrawFn) -> dict[str, bytes]:
    """A dataset after a few changes."""
    version = draw(st.sampled_from((2, 3)))
    files = dict(seeds()[version - 2])
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(files)))
        if name.endswith("info.json") and draw(st.booleans()):
            key = draw(
                st.sampled_from(
                    ("fps", "features", "video_path", "chunks_size", "codebase_version")
                )
            )
            value = draw(st.sampled_from(_PATHS if key == "video_path" else _VALUES))
            files[name] = json.dumps(info(version, **{key: value})).encode()
        elif "data/" in name and draw(st.booleans()):
            rows = table(draw(st.sampled_from((0, 1, 10**9))), 3)
            column = draw(st.sampled_from(rows.column_names))
            odd = rows.set_column(
                rows.column_names.index(column), column, draw(st.sampled_from(_COLUMNS))
            )
            files[name] = packed(odd)
        else:
            files[name] = draw(damaged([files[name]]))
    return files


@fuzz(25, datasets())
def test_a_dataset_becomes_episodes_or_is_refused(files):
    with laid({}) as (there, made):
        there.rmdir()
        lay(there, files)
        names = {"pretrain_datasets_path": str(there), "cache_dir": str(made)}
        chosen = config.parse([]).replace(size=(8, 8), **names)
        try:
            data.check(chosen)
            source = data.resolve(chosen)
        except UserError as error:
            check_refusal(error, "--pretrain_datasets_path")
        else:
            for _, reason in source.skipped:
                check_refusal(reason)
            for path in (paths := [*source.folder.glob("*.npz")]):
                assert read_episode(path)["image"].shape[1:] == (8, 8, 3)
            assert paths
        found = {str(p.relative_to(there)): p.read_bytes() for p in there.rglob("*") if p.is_file()}
        assert found == files
        _empty(there)


def _empty(folder: Path) -> None:
    """Takes a folder's content away, which `laid` looks for."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


_PARTS = st.sampled_from(("a", "x y", ".hidden", "b.npz", "ü", "\udcff", "-rf", "z" * 200, "a\nb"))
_NAMES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)


@fuzz(15, st.dictionaries(_NAMES, st.sampled_from(EPISODES), max_size=5))
def test_folders_below_folders_are_walked_or_refused(files):
    with laid({}) as (there, made):
        for name, content in files.items():
            try:
                lay(there, {f"{name}.npz": content})
            except OSError:  # a file is in the way of a folder
                continue
        (there / "round").symlink_to(there)
        paths = episode_files(there)
        assert paths == sorted(paths)
        assert len({path.resolve() for path in paths}) == len(paths)
        assert not any(
            part.startswith(".h") for p in paths for part in p.relative_to(there).parts[:-1]
        )
        names = {"pretrain_datasets_path": str(there), "cache_dir": str(made)}
        try:
            data.check(config.parse([]).replace(**names))
        except UserError as error:
            assert not paths
            check_refusal(error)
        (there / "round").unlink()
        _empty(there)
