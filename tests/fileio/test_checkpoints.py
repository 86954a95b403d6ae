"""Checkpoints: what goes in comes out, damage is known, and the ones before are still there."""

import os
import pickle
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fileio import checkpoints
from tests.tiny import refusal
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
    with pytest.raises(checkpoints.Damaged, match="damaged"):
        checkpoints.load(path)


@pytest.mark.parametrize("position", [0.02, 0.3, 0.6, 0.99])
def test_one_bit_is_enough_to_know_a_damaged_file(tmp_path, position):
    path = tmp_path / "state.pt"
    checkpoints.save(path, {"x": torch.randn(5000), "y": [1, "two"]})
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 4
    path.write_bytes(content)
    with pytest.raises(checkpoints.Damaged, match="damaged"):
        checkpoints.load(path)


def test_pytorch_reads_a_sealed_file_and_one_without_a_seal_is_read(tmp_path):
    checkpoints.save(tmp_path / "sealed.pt", {"x": torch.arange(3)})
    assert torch.load(tmp_path / "sealed.pt", weights_only=True)["x"].tolist() == [0, 1, 2]
    torch.save({"x": torch.arange(4)}, tmp_path / "plain.pt")
    assert checkpoints.load(tmp_path / "plain.pt")["x"].tolist() == [0, 1, 2, 3]


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


@pytest.mark.parametrize("room", [0, 100, 1000, 20_000, 40_000])
def test_a_full_disk_is_an_oserror_that_names_the_file_and_nothing_changes(
    tmp_path, monkeypatch, room
):
    path, fdopen = tmp_path / "checkpoint.pt", os.fdopen
    for number in range(3):
        checkpoints.save(path, {"n": number}, keep=3)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fdopen", lambda *args: Full(fdopen(*args), room))
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save(path, {"x": torch.randn(10_000)}, keep=3)
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_the_last_ones_are_kept_newest_first(tmp_path, keep):
    for number in range(7):
        checkpoints.save(tmp_path / "checkpoint.pt", {"n": number}, keep)
        found = checkpoints.find(tmp_path)
        assert len(found) == len(os.listdir(tmp_path)) == min(number + 1, keep)
        assert [checkpoints.load(path)["n"] for path in found] == list(
            range(number, max(-1, number - keep), -1)
        )


def test_fewer_are_kept_from_now_on(tmp_path):
    for number in range(5):
        checkpoints.save(tmp_path / "checkpoint.pt", {"n": number}, 4)
    (tmp_path / "checkpoint.x.pt").write_text("not one of them")
    checkpoints.save(tmp_path / "checkpoint.pt", {"n": 5}, 2)
    assert [checkpoints.load(path)["n"] for path in checkpoints.find(tmp_path)] == [5, 4]
    assert (tmp_path / "checkpoint.x.pt").exists()


def test_there_is_a_newest_one_at_each_moment_of_a_save(tmp_path, monkeypatch):
    """A kill between any two steps leaves the state before or after, and all older ones."""
    path, seen = tmp_path / "checkpoint.pt", []
    for number in range(3):
        checkpoints.save(path, {"n": number}, keep=3)

    def watching(function):
        def call(*args, **kwargs):
            seen.append([checkpoints.load(p)["n"] for p in checkpoints.find(tmp_path)])
            result = function(*args, **kwargs)
            seen.append([checkpoints.load(p)["n"] for p in checkpoints.find(tmp_path)])
            return result

        return call

    for name in ("replace", "link", "fsync"):
        monkeypatch.setattr(os, name, watching(getattr(os, name)))
    checkpoints.save(path, {"n": 3}, keep=3)
    assert len(seen) >= 8
    assert seen[0] == [2, 1, 0]
    assert seen[-1] == [3, 2, 1]
    for found in seen:
        assert found[0] in (2, 3)
        assert len(set(found)) >= 2
        assert found == sorted(found, reverse=True)


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for number in range(4):
        checkpoints.save(tmp_path / "checkpoint.pt", {"n": number}, keep=3)
    assert [checkpoints.load(path)["n"] for path in checkpoints.find(tmp_path)] == [3, 2, 1]


def test_the_newest_that_is_whole_is_loaded(tmp_path):
    parts = {"n"}
    assert checkpoints.load_newest(tmp_path, parts) == (None, [])
    for number in range(3):
        checkpoints.save(tmp_path / "checkpoint.pt", {"n": number}, keep=3)
    assert checkpoints.load_newest(tmp_path, parts) == ({"n": 2}, [])
    newest, second, third = checkpoints.find(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-200])
    state, damaged = checkpoints.load_newest(tmp_path, parts)
    assert (state, [path for path, _ in damaged]) == ({"n": 1}, [newest])
    assert str(newest) in damaged[0][1]
    newest.unlink()
    assert checkpoints.load_newest(tmp_path, parts) == ({"n": 1}, [])
    checkpoints.save(second, {"something": "else"})
    state, damaged = checkpoints.load_newest(tmp_path, parts)
    assert (state, [path for path, _ in damaged]) == ({"n": 0}, [second])
    third.write_bytes(b"")
    line = refusal(checkpoints.load_newest, tmp_path, parts)
    assert line.startswith(str(second))
    assert third.name in line


def test_generator_states_travel(tmp_path):
    torch.manual_seed(3)
    checkpoints.save(tmp_path / "rng.pt", checkpoints.rng_state(CPU))
    expected = torch.randn(5)
    torch.manual_seed(4)
    checkpoints.set_rng_state(checkpoints.load(tmp_path / "rng.pt"), CPU)
    assert torch.equal(torch.randn(5), expected)


def scratch(seed):
    with checkpoints.scratch_rng(seed, CPU):
        return torch.randn(5)


def test_scratch_draws_leave_the_generator_alone():
    torch.manual_seed(1)
    expected = torch.randn(5)
    torch.manual_seed(1)
    first, second, other = scratch(7), scratch(7), scratch(8)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.randn(5), expected)


def test_an_error_inside_restores_the_generator_too():
    def fail():
        with checkpoints.scratch_rng(7, CPU):
            torch.randn(3)
            raise KeyError

    torch.manual_seed(1)
    expected = torch.randn(5)
    torch.manual_seed(1)
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.randn(5), expected)


def test_copies_of_the_user_stay_and_are_not_fallen_back_to(tmp_path):
    path = tmp_path / "checkpoint.pt"
    copies = [tmp_path / f"checkpoint.{name}.pt" for name in ("100000", "7", "best")]
    for copy in copies:
        checkpoints.save(copy, {"n": -1})
    for number in range(5):
        checkpoints.save(path, {"n": number}, keep=3)
    assert all(checkpoints.load(copy) == {"n": -1} for copy in copies)
    assert [checkpoints.load(p)["n"] for p in checkpoints.find(tmp_path)] == [4, 3, 2]


def test_a_whole_checkpoint_that_cannot_be_loaded_is_not_called_damaged(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    checkpoints.save(tmp_path / "checkpoint.pt", {"n": 1})
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UserError, match="as it was written") as caught:
        checkpoints.load_newest(tmp_path, {"n"})
    assert not isinstance(caught.value, checkpoints.Damaged)


def test_functions_that_pytorch_lets_through_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": {"a": torch.zeros(1)}}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n."
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    assert callable(torch.load(path, weights_only=True))
    assert "it holds objects" in refusal(checkpoints.load, path)


@pytest.mark.parametrize("after", range(0, 12, 3))
@pytest.mark.parametrize("part", ["_file", "_digest"])
def test_ctrl_c_within_a_write_is_ctrl_c(tmp_path, monkeypatch, after, part):
    """PyTorch, which writes, would make an internal error of it."""
    write, calls = checkpoints._Sealing.write, []

    def interrupt(data):
        calls.append(data)
        if len(calls) > after:
            raise KeyboardInterrupt
        return len(data)

    def interrupted(self, data):
        setattr(self, part, SimpleNamespace(write=interrupt, update=interrupt))
        return write(self, data)

    monkeypatch.setattr(checkpoints._Sealing, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path / "checkpoint.pt", {f"x{n}": torch.randn(10) for n in range(5)})
    assert len(calls) > after
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_rotated_leaves_files_of_such_names_alone(tmp_path):
    for name in ("encoder.1.pt", "encoder.2.pt"):
        (tmp_path / name).write_bytes(b"a copy of the user's")
    for number in range(3):
        checkpoints.save(tmp_path / "encoder.pt", {"n": number})
    assert checkpoints.load(tmp_path / "encoder.pt") == {"n": 2}
    assert (tmp_path / "encoder.1.pt").read_bytes() == b"a copy of the user's"
    assert len(list(tmp_path.iterdir())) == 3
