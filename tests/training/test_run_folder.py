"""A run's folder: one process at a time, damage set aside with its reason, errors in one line."""

import errno
import fcntl
import os
import shutil
import signal
import socket
import sys

import numpy as np
import pytest

import config
from accel.runtime import Runtime
from fileio import checkpoints, npz
from fileio.atomic import leftovers
from tests.helpers.runs import events
from tools import derive_seed, print_safe
from training.run_folder import RunFolder
from training.stop import Stopped

FLAGS = {"checkpoint_every": 30, "eval_every": 0}


def stop():
    raise Stopped


@pytest.fixture(scope="session")
def stopped(tmp_path_factory, tiny, calling):
    """A run with three checkpoints that was stopped inside its last episode."""
    argv = tiny.finetune(tmp_path_factory.mktemp("stopped"), **FLAGS)
    with calling({("acting", 40): stop}):
        assert tiny.run(argv).code == 128
    folder = tiny.folder(argv)
    assert len(checkpoints.find(folder)) == 3
    return folder


@pytest.fixture
def again(tmp_path, tiny, stopped):
    """The same command in a copy of that run's folder, and the copy."""
    shutil.copytree(stopped.parents[2], tmp_path / "runs", symlinks=True)
    argv = tiny.finetune(tmp_path / "runs", **FLAGS)
    return argv, tiny.folder(argv)


def refused(result, code):
    """The one line of a command that failed."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    [line] = [x for x in result.err.splitlines() if x.startswith("dreamer.py:")]
    return line


def listing(folder):
    return {p.relative_to(folder): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


# One process at a time


@pytest.mark.slow
def test_a_second_process_is_refused_and_changes_nothing(tmp_path, tiny, calling):
    flags = {"steps": 0, "prefill": 20, "distillation": False}
    argv, seen = tiny.finetune(tmp_path / "runs", **flags), []
    folder = tiny.folder(argv)

    def start_another():
        before = listing(folder)
        seen.append(tiny.run(argv))
        assert listing(folder) == before
        raise Stopped

    with calling({("prefill", 13): start_another}):
        assert tiny.run(argv).code == 128
    line = refused(seen[0], 2)
    assert f"{folder} is in use by another process (pid {os.getpid()} on " in line
    assert "--logdir" in line
    tiny.finish(argv)  # the lock is free again


def test_a_lock_of_a_dead_process_holds_nobody_up(again, tiny):
    argv, folder = again
    (folder / "lock").write_text("pid 1 on elsewhere\n")
    tiny.finish(argv)
    assert f"pid {os.getpid()} " in (folder / "lock").read_text()


# Checkpoints


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(again, tiny, same, stopped):
    argv, folder = again
    newest, before, _ = checkpoints.find(folder)
    damaged = newest.read_bytes()[:-1000]
    newest.write_bytes(damaged)
    frames = checkpoints.load(before)["frames"]
    assert frames < checkpoints.load(stopped / "checkpoint.pt")["frames"]
    tiny.finish(argv)
    [resumed] = events(folder, "resume")[-1:]
    assert resumed["frames"] == frames
    assert (folder / "bad" / newest.name).read_bytes() == damaged
    assert "damaged" in (folder / "bad" / f"{newest.name}.txt").read_text()
    [warning] = [row for row in events(folder, "warning") if newest.name in row["message"]]
    assert f"that of frame {frames} takes its place" in warning["message"]


def test_damaged_checkpoints_alone_are_refused_in_one_line_and_stay(again, tiny):
    argv, folder = again
    for path in checkpoints.find(folder):
        path.write_bytes(path.read_bytes()[:1000])
    before = listing(folder)
    line = refused(tiny.run(argv), 2)
    assert checkpoints.find(folder)[0].name in line
    assert "choose another --logdir" in line
    assert listing(folder) == before


# Episodes


def write(path, **changed):
    episode = dict(np.load(path)) | changed
    np.savez_compressed(path, **{k: v for k, v in episode.items() if v is not None})


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "empty": lambda path: path.write_bytes(b""),
    "wrong key": lambda path: write(path, image=None, picture=np.zeros((11, 64, 64, 3), np.uint8)),
    "wrong shape": lambda path: write(path, image=np.zeros((11, 64, 64, 2), np.uint8)),
    "wrong dtype": lambda path: write(path, image=np.zeros((11, 64, 64, 3), np.float32)),
    "pickled": lambda path: write(path, reward=np.array([{"a": 1}] * 11, object)),
    "future length": lambda path: write(
        path, **{k: np.concatenate([v, v[1:]]) for k, v in np.load(path).items()}
    ),
}


@pytest.mark.slow
def test_damaged_episodes_are_set_aside_and_the_run_goes_on(tmp_path, tiny, stopped):
    """Each damage in a run's own episodes; one of the five stays as it is."""
    assert len(list(stopped.glob("train_eps/*.npz"))) == 5
    kinds = list(DAMAGE)
    for chosen in (kinds[:4], kinds[4:]):
        copy = tmp_path / chosen[0]
        shutil.copytree(stopped.parents[2], copy, symlinks=True)
        command = tiny.finetune(copy, **FLAGS)
        own = tiny.folder(command)
        contents = {}
        for kind, path in zip(chosen, sorted(own.glob("train_eps/*.npz")), strict=False):
            DAMAGE[kind](path)
            contents[path.name] = path.read_bytes()
        tiny.finish(command)
        for name, content in contents.items():
            assert (own / "bad" / name).read_bytes() == content
            reason = (own / "bad" / f"{name}.txt").read_text()
            assert len(reason.strip().splitlines()) == 1
            told = [row["message"] for row in events(own, "warning")]
            assert any(name in message and reason.strip() in message for message in told)
            assert not (own / "train_eps" / name).exists()
        assert len(list((own / "train_eps").iterdir())) == 6 - len(contents)


def test_a_run_without_any_of_its_episodes_is_refused(again, tiny):
    argv, folder = again
    shutil.move(folder / "train_eps", folder / "elsewhere")
    line = refused(tiny.run(argv), 2)
    assert "000000-s0-11.npz" in line
    assert "put it back" in line


# The machine


@pytest.mark.parametrize(
    ("number", "mend"), [(28, "free some space"), (30, "writable"), (5, "mend that")]
)
def test_a_checkpoint_that_cannot_be_written_stops_the_run_in_one_line(
    again, tiny, monkeypatch, number, mend
):
    argv, folder = again
    frames = checkpoints.load(folder / "checkpoint.pt")["frames"]

    def fail(path, state):
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", fail)
        line = refused(tiny.run(argv), 1)
    for words in (str(folder / "checkpoint_"), os.strerror(number), mend, f"of frame {frames}"):
        assert words in line
    assert "; the same command tries again: its last checkpoint is of frame " in line


def test_what_killed_processes_left_half_written_is_cleared_away(again, tiny):
    argv, folder = again
    ours = [
        folder / ".checkpoint_000000090.pt.abcd12_3.tmp",
        folder / "train_eps" / ".1-s0-3.npz.xyzw0000.tmp",
    ]
    others = [folder / "notes.tmp", folder / ".hidden.tmp"]
    others += [folder / "evaluations" / ".a.mp4.abcd12_3.tmp"]  # an evaluation may be at work
    for path in (*ours, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    assert set(leftovers(folder)) == {*ours, others[-1]}
    tiny.finish(argv)
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


@pytest.fixture(scope="module")
def network():
    """What this process does with the network, while it is watched."""
    seen, watched = [], []

    def look(event, arguments):
        if watched and event in ("socket.bind", "socket.connect", "socket.getaddrinfo"):
            seen.append((event, arguments[1:]))

    sys.addaudithook(look)  # for good: there is no way to take one back
    watched.append(True)
    yield seen
    watched.clear()


def test_a_run_neither_listens_nor_calls(tmp_path, tiny, network):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
    assert [event for event, _ in network] == ["socket.bind"]  # it would be seen
    flags = {"steps": 0, "prefill": 2, "time_limit": 4, "distillation": False}
    tiny.finish(tiny.finetune(tmp_path, **flags, envs=2, async_env="process"))
    assert len(network) == 1


def test_a_file_system_without_locks_is_told_of(again, tiny, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    argv, folder = again
    monkeypatch.setattr(fcntl, "flock", refuse)
    tiny.finish(argv)
    assert any("has no locks" in row["message"] for row in events(folder, "warning"))


def test_an_episode_that_cannot_be_read_now_is_not_taken_for_damaged(again, tiny, monkeypatch):
    argv, folder = again
    before = listing(folder / "train_eps")

    def fail(path, keys):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(npz, "read", fail)
        line = refused(tiny.run(argv), 2)
    assert "Too many open files" in line
    assert (listing(folder / "train_eps"), (folder / "bad").exists()) == (before, False)
    tiny.finish(argv)


def test_a_line_for_nobody_goes_nowhere():
    read, end = os.pipe()
    stream = os.fdopen(end, "w", buffering=1)
    print_safe("heard", stream)
    assert os.read(read, 100) == b"heard\n"
    os.close(read)
    for _ in range(3):
        print_safe("unheard", stream)
    print("neither", file=stream, flush=True)
    stream.close()
    print_safe("closed", stream)


def test_only_a_later_ctrl_c_stops_without_a_checkpoint(tmp_path, tiny, monkeypatch, capfd):
    """A shell and the system both tell of a terminal that closes, within a millisecond."""
    given = config.parse(tiny.finetune(tmp_path))
    run = RunFolder(given, Runtime.resolve(given))
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        run.stop._note(number, None)
    with pytest.raises(Stopped):
        run.stop.check()
    assert run.stop.exit_code == 128 + signal.SIGTERM
    monkeypatch.setattr("training.stop.TWICE", -1.0)
    run.stop._note(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        run.stop._note(signal.SIGINT, None)
    assert capfd.readouterr().err.count("stopping with a checkpoint") == 1


def test_a_folder_called_evaluations_is_cleared_like_any_other(tmp_path, tiny, stopped):
    shutil.copytree(stopped.parents[2], tmp_path / "evaluations", symlinks=True)
    argv = tiny.finetune(tmp_path / "evaluations", **FLAGS)
    left = [tiny.folder(argv) / name for name in ("", "evaluations")]
    for folder in left:
        folder.mkdir(exist_ok=True)
        (folder / ".checkpoint.pt.abcd12_3.tmp").write_bytes(b"half")
    tiny.finish(argv)
    assert leftovers(tmp_path) == [left[1] / ".checkpoint.pt.abcd12_3.tmp"]


def test_episodes_elsewhere_are_cleared_of_this_runs_halves_alone(tmp_path, tiny):
    elsewhere = {"traindir": tmp_path / "train", "evaldir": tmp_path / "eval"}
    flags = {"steps": 20, "pretrain": 0, "time_limit": 8, "prefill": 2, "distillation": False}
    argv = tiny.finetune(tmp_path / "runs", **elsewhere, **flags)
    where = f"{derive_seed(0, str(tiny.folder(argv).absolute())):x}"[:6]  # of two logdirs
    tag = f"{tiny.task}-diswm-s0-{where}"
    own = [elsewhere["traindir"] / ".000003-s0-11.npz.abcd12_3.tmp"]
    own += [elsewhere["evaldir"] / f".000000060-{tag}-11.npz.abcd12_3.tmp"]
    others = [elsewhere["traindir"] / ".000003-s1-11.npz.abcd12_3.tmp"]
    others += [elsewhere["evaldir"] / f".000000060-{tiny.task}-diswm-s0-11.npz.abcd12_3.tmp"]
    others += [elsewhere["traindir"] / "other" / own[0].name]
    for path in own + others:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"half")
        os.utime(path, (0, 0))
    others += [elsewhere["traindir"] / ".000004-s0-11.npz.abcd12_3.tmp"]
    others[-1].write_bytes(b"being written")
    tiny.finish(argv)
    assert leftovers(tmp_path) == sorted(others)
    written = [path.name for path in elsewhere["evaldir"].glob("*.npz")]
    assert written
    assert all(f"-{tag}-" in name for name in written)


def test_signals_take_their_usual_course_again_when_a_run_has_closed(tmp_path, tiny):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    given = config.parse(tiny.finetune(tmp_path))
    run = RunFolder(given, Runtime.resolve(given))
    with run:
        assert signal.getsignal(signal.SIGTERM) == run.stop._note
    # While environments close, a second signal must not end what is being stopped.
    assert signal.getsignal(signal.SIGTERM) == run.stop._note
    run.close()
    assert [signal.getsignal(number) for number in numbers] == before
