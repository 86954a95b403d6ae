"""Checkpoints: what goes in comes out, damage is known, and the ones before are still there."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fileio import FORMAT, checkpoints
from fileio.atomic import leftovers
from tests.helpers.runs import refusal
from tools import UserError

CPU = torch.device("cpu")


def test_nested_state_comes_back(tmp_path):
    state = {
        "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True)},
        "list": [1, 2.5, "three", None, {"deep": torch.tensor([1], dtype=torch.uint8)}],
        "array": np.arange(4, dtype=np.float64)[::2],
        "bits": np.array([0, 255], np.uint8),
        "tuple": (1, 2),
        "scalars": [np.float32(0.5), np.int64(7), np.bool_(True)],
        "big": 2**100,
        5: "a number for a key",
        "empty": {},
    }
    checkpoints.save(tmp_path / "state.pt", state)
    back = checkpoints.load(tmp_path / "state.pt")
    assert torch.equal(back["weights"]["a"], state["weights"]["a"])
    assert back["weights"]["b"].dtype is torch.bool
    assert back["list"][:4] == state["list"][:4]
    assert torch.equal(back["list"][4]["deep"], torch.tensor([1], dtype=torch.uint8))
    assert torch.equal(back["array"], torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert torch.equal(back["bits"], torch.tensor([0, 255], dtype=torch.uint8))
    assert back["tuple"] == [1, 2]
    assert back["scalars"] == [0.5, 7, True]
    assert [type(x) for x in back["scalars"]] == [float, int, bool]
    assert (back["big"], back[5], back["empty"]) == (2**100, "a number for a key", {})
    assert os.listdir(tmp_path) == ["state.pt"]


def test_arrays_are_copied_into_the_file_and_back(tmp_path):
    state = {"a": torch.arange(3), "b": [torch.ones(2), {"c": 1}], "d": (torch.zeros(1),)}
    arrays = checkpoints.to_arrays(state)
    assert isinstance(arrays["a"], np.ndarray)
    np.testing.assert_array_equal(arrays["b"][0], np.ones(2))
    assert arrays["b"][1] == {"c": 1}
    np.testing.assert_array_equal(arrays["d"][0], np.zeros(1))
    moved = checkpoints.to_device({"x": torch.ones(1), "y": {"z": torch.ones(1)}, "n": 3}, CPU)
    assert moved["y"]["z"].device == CPU
    assert moved["n"] == 3
    checkpoints.save(tmp_path / "a.pt", {"x": np.arange(3)[::-1]})  # PyTorch has no such strides
    assert checkpoints.load(tmp_path / "a.pt")["x"].tolist() == [2, 1, 0]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "state.pt"
    checkpoints.save(path, {"x": 1})
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        checkpoints.save(path, {"x": lambda: 1})
    assert checkpoints.load(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


class Evil:
    """Unpickling it would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_nothing_in_a_file_is_executed(tmp_path, write):
    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    write({"x": Evil(f"touch {proof}")}, path)
    line = refusal(checkpoints.load, path)
    assert line.startswith(f"{path} cannot be read as a checkpoint: ")
    assert not proof.exists()


def test_missing_and_damaged_files(tmp_path):
    path = tmp_path / "state.pt"
    assert refusal(checkpoints.load, path) == f"there is no file {path}"
    checkpoints.save(path, {"x": torch.randn(1000)})
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"not a checkpoint", bytes(range(200))):
        path.write_bytes(damage)
        line = refusal(checkpoints.load, path)
        assert line.startswith(f"{path} cannot be read as a checkpoint: it is damaged")
        assert line.endswith("copy it again")
    os.mkfifo(pipe := tmp_path / "pipe.pt")
    for other in (tmp_path, pipe):
        assert refusal(checkpoints.load, other) == f"{other} cannot be read: it is no file"


@pytest.mark.parametrize("cut", [1, 10, 64, 1000])
def test_a_cut_end_is_damage(tmp_path, cut):
    path = tmp_path / "state.pt"
    checkpoints.save(path, {"x": torch.randn(500)})
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(checkpoints.CorruptFile, match="damaged"):
        checkpoints.load(path)


def test_a_bit_that_flipped_is_known_or_changes_nothing(tmp_path):
    path, state = tmp_path / "state.pt", {"x": torch.randn(500), "y": [1, "two"]}
    checkpoints.save(path, state)
    whole, known = path.read_bytes(), 0
    rng = np.random.default_rng(0)
    for position in rng.integers(len(whole), size=60):
        content = bytearray(whole)
        content[position] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            back = checkpoints.load(path)
        except checkpoints.CorruptFile:
            known += 1
        else:
            assert torch.equal(back["x"], state["x"])
            assert back["y"] == state["y"]
    assert known > 40


def test_files_of_pytorchs_own_and_with_something_behind_them_are_read(tmp_path):
    """Predictors of earlier times end in a line with their SHA-256."""
    for old in (False, True):
        torch.save({"x": torch.arange(4)}, tmp_path / "a", _use_new_zipfile_serialization=not old)
        assert checkpoints.load(tmp_path / "a")["x"].tolist() == [0, 1, 2, 3]
        with (tmp_path / "a").open("ab") as file:
            file.write(b"\nDisWM, sha256 " + b"0" * 64 + b"\n")
        assert checkpoints.load(tmp_path / "a")["x"].tolist() == [0, 1, 2, 3]


def test_an_archive_that_claims_more_than_it_has_is_not_decoded(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 20))
    with pytest.raises(checkpoints.CorruptFile, match="claims to hold more than it has"):
        checkpoints.load(path)


class Full:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def fill(folder, *frames, keep=3):
    for number in frames:
        checkpoints.save_newest(folder, number, {"n": number}, keep)


def kept(folder):
    return [checkpoints.load(path)["n"] for path in checkpoints.find(folder)]


def newest(folder):
    state, damaged = checkpoints.load_newest(folder)
    return state and state["n"], [path.name for path, _ in damaged]


@pytest.mark.parametrize("room", [0, 100, 1000, 20_000, 40_000])
def test_a_full_disk_is_an_oserror_that_names_the_file_and_nothing_changes(
    tmp_path, monkeypatch, room
):
    fdopen = os.fdopen
    fill(tmp_path, 0, 1, 2)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fdopen", lambda *args: Full(fdopen(*args), room))
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save_newest(tmp_path, 3, {"x": torch.randn(10_000)}, 3)
    wanted = (28, str(tmp_path / "checkpoint_000000003.pt"))
    assert (caught.value.errno, caught.value.filename) == wanted
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_last_ones_are_kept_newest_first(tmp_path, monkeypatch, keep, links):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "symlink", refuse)
    assert checkpoints.find(tmp_path) == checkpoints.find(tmp_path / "none") == []
    for number in range(6):
        fill(tmp_path, 200 * number, keep=keep)
        assert kept(tmp_path) == [200 * n for n in range(number, max(-1, number - keep), -1)]
        assert len(os.listdir(tmp_path)) == len(kept(tmp_path)) + links
        if links:
            assert os.readlink(tmp_path / "checkpoint.pt") == f"checkpoint_{200 * number:09d}.pt"


def test_fewer_are_kept_from_now_on_and_files_of_the_user_stay(tmp_path):
    names = ("best", "7", "000000007.copy", "final.000000009")
    copies = [tmp_path / f"checkpoint_{name}.pt" for name in names]
    for copy in copies:
        copy.write_text("a copy of the user's")
    fill(tmp_path, *range(10**9 - 2, 10**9 + 3), keep=4)
    assert kept(tmp_path) == [10**9 + 2, 10**9 + 1, 10**9, 10**9 - 1]
    fill(tmp_path, 10**9 + 3, keep=2)
    assert kept(tmp_path) == [10**9 + 3, 10**9 + 2]
    assert all(copy.read_text() == "a copy of the user's" for copy in copies)


def test_one_of_the_same_frame_is_replaced(tmp_path):
    fill(tmp_path, 1, 2)
    checkpoints.save_newest(tmp_path, 2, {"n": 2, "finished": True}, 3)
    assert kept(tmp_path) == [2, 1]
    assert torch.load(tmp_path / "checkpoint.pt") == {"format": FORMAT, "n": 2, "finished": True}


def test_there_is_a_newest_one_at_each_moment_of_a_save(tmp_path, monkeypatch):
    """A kill between any two steps leaves the state before or after, and a usable link."""
    seen = []
    fill(tmp_path, 0, 1, 2)

    def look():
        seen.append((kept(tmp_path), torch.load(tmp_path / "checkpoint.pt")["n"]))

    def watching(function):
        def call(*args, **kwargs):
            look()
            result = function(*args, **kwargs)
            look()
            return result

        return call

    for name in ("replace", "symlink", "fsync"):
        monkeypatch.setattr(os, name, watching(getattr(os, name)))
    monkeypatch.setattr(Path, "unlink", watching(Path.unlink))
    fill(tmp_path, 3)
    assert len(seen) >= 12
    assert seen[0] == ([2, 1, 0], 2)
    assert seen[-1] == ([3, 2, 1], 3)
    assert {tuple(found) for found, _ in seen} == {(2, 1, 0), (3, 2, 1, 0), (3, 2, 1)}
    assert {linked for _, linked in seen} == {2, 3}


def test_a_link_that_is_killed_half_made_is_a_leftover(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    fill(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path: None)  # as if it were killed before
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.link_newest(tmp_path)
    [left] = leftovers(tmp_path)
    assert left.is_symlink()
    fill(tmp_path, 2)
    assert newest(tmp_path) == (2, [])


def test_the_newest_that_is_whole_is_loaded(tmp_path):
    assert newest(tmp_path) == (None, [])
    fill(tmp_path, 0, 1, 2)
    third, second, first = checkpoints.find(tmp_path)
    assert newest(tmp_path) == (2, [])
    third.write_bytes(third.read_bytes()[:-200])
    assert newest(tmp_path) == (1, [third.name])
    third.unlink()
    checkpoints.link_newest(tmp_path)
    assert newest(tmp_path) == (1, [])
    assert os.readlink(tmp_path / "checkpoint.pt") == second.name
    torch.save([1, 2], second)
    assert newest(tmp_path) == (0, [second.name])
    first.write_bytes(b"")
    line = refusal(checkpoints.load_newest, tmp_path)
    assert line.startswith(f"{second} is not the checkpoint of a run")
    assert first.name in line


def test_a_checkpoint_that_is_a_file_is_one(tmp_path):
    """As in a copy of a run's folder that was made by hand."""
    fill(tmp_path / "run", 4)
    shutil.copy(tmp_path / "run" / "checkpoint.pt", tmp_path)
    assert newest(tmp_path) == (4, [])
    fill(tmp_path, 5, 6)
    assert kept(tmp_path) == [6, 5]
    assert (tmp_path / "checkpoint.pt").is_symlink()


@pytest.mark.parametrize(
    "state", [{"n": 1}, {"n": 1, "format": FORMAT - 1}, {"n": 1, "format": FORMAT + 1}]
)
def test_other_formats_are_refused_and_are_no_damage(tmp_path, state):
    fill(tmp_path, 1)
    checkpoints.save(tmp_path / "checkpoint_000000002.pt", state)
    line = refusal(checkpoints.load_newest, tmp_path)
    assert line.startswith(f"{tmp_path / 'checkpoint_000000002.pt'} was written by another version")


def test_a_run_may_replace_what_is_about_to_be_loaded(tmp_path, monkeypatch):
    fill(tmp_path, 1, keep=1)
    load, asked = checkpoints.load, []

    def load_late(path):
        asked.append(path.name)
        if len(asked) == 1:
            fill(tmp_path, 2, keep=1)
        return load(path)

    monkeypatch.setattr(checkpoints, "load", load_late)
    assert newest(tmp_path) == (2, [])
    assert len(asked) == 2


def test_a_whole_checkpoint_that_cannot_be_loaded_is_not_called_damaged(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    fill(tmp_path, 1)
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UserError, match="as it was written") as caught:
        checkpoints.load_newest(tmp_path)
    assert not isinstance(caught.value, checkpoints.CorruptFile)


@pytest.mark.parametrize("after", range(0, 12, 3))
def test_ctrl_c_within_a_write_is_ctrl_c(tmp_path, monkeypatch, after):
    """PyTorch, which writes, would make an internal error of it."""
    fdopen, calls = os.fdopen, []

    class Interrupted(Full):
        def write(self, data):
            calls.append(data)
            if len(calls) > after:
                raise KeyboardInterrupt
            return self.file.write(data)

    monkeypatch.setattr(os, "fdopen", lambda *args: Interrupted(fdopen(*args), 0))
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path / "state.pt", {f"x{n}": torch.randn(10) for n in range(5)})
    assert len(calls) > after
    assert list(tmp_path.iterdir()) == []
