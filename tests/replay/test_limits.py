"""Whole runs and processes that meet limits of disk and memory, are killed, or change storage."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import replay
from training.stop import Stopped

ROOT = Path(replay.__file__).parents[1]

# A disk that does not suffice


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_folder_that_cannot_be_used_is_refused(tmp_path, tiny, videos, stage):
    file = tmp_path / "file"
    file.write_text("mine")
    flags = {"replay_storage": "disk", "cache_dir": file}
    if stage == "pretrain":
        argv = tiny.pretrain(tmp_path / "runs", videos, **flags)
    else:
        argv = tiny.finetune(tmp_path / "runs", **flags)
    result = tiny.run(argv)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert f"--cache_dir {file} cannot hold the replay" in result.err
    assert file.read_text() == "mine"
    assert not (tmp_path / "runs").exists()


FILL = """
    import resource, sys
    import numpy as np
    from replay import DiskStorage, Replay, row_fields
    from tools import UserError

    folder, files = sys.argv[1], int(sys.argv[2])
    if files:
        resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
    replay = Replay(DiskStorage(row_fields((64, 64, 3), 0), folder))
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (100, 64, 64, 3), np.uint8)
    held = 0
    try:
        while held < 500:
            replay.replace([{"image": image}] * (held + 1))
            held += 1
    except UserError as error:
        print(held)
        print(error)
    batch = replay.sample(40, 100)
    print((batch["image"] == image).all())
"""


def run_script(text, *words, prefix=(), **environ):
    """A process of NumPy alone; its result."""
    command = [*prefix, sys.executable, "-c", textwrap.dedent(text), *map(str, words)]
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environ}
    pipes = {"capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(command, cwd=ROOT, env=environ, check=False, **pipes)


def assert_filled(result, folder, reason, most):
    assert result.returncode == 0, result.stderr
    held, line, intact = result.stdout.splitlines()
    assert 0 < int(held) <= most
    assert line == (
        f"--cache_dir {folder} cannot hold the replay ({reason}): give another folder, on a disk "
        "with room, or --replay_storage memory"
    )
    assert intact == "True"


def test_file_that_may_not_grow_is_one_line(tmp_path):
    result = run_script(FILL, tmp_path, 16 << 20)
    assert_filled(result, tmp_path, "File too large", 13)


def test_full_disk_is_one_line_and_no_crash(tmp_path):
    """On a file system of 16 MiB that only this process sees."""
    mount = f'mount -t tmpfs -o size=16m none "{tmp_path}" && exec "$@"'
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    result = run_script(FILL, tmp_path, 0, prefix=prefix)
    assert_filled(result, tmp_path, "No space left on device", 13)


def test_nothing_is_left_by_a_kill(tmp_path):
    script = """
        import os, signal, sys
        import numpy as np
        from replay import DiskStorage, Replay, row_fields
        replay = Replay(DiskStorage(row_fields((64, 64, 3), 0), sys.argv[1]))
        replay.replace([{"image": np.zeros((100, 64, 64, 3), np.uint8)}])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_script(script, tmp_path / "rows").returncode == -signal.SIGKILL
    assert list((tmp_path / "rows").iterdir()) == []


# More than memory holds

LOAD = """
    import json, resource, sys, threading
    from pathlib import Path
    import numpy as np
    from replay import DiskStorage, HostStorage, Replay, episodes, row_fields

    data, limit, folder = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] or None
    # Whatever the machine: two threads that decode, each with a small stack.
    episodes.DECODERS = 2
    threading.stack_size(256 << 10)

    def status(key):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

    most = status("VmData") + limit  # what imports reserve differs by the machine
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    fields = row_fields((64, 64, 3), 0)
    replay = Replay(DiskStorage(fields, folder) if folder else HostStorage(fields))
    summary = replay.load(data)
    found = {"rows": summary.frames, "seen": []}
    for _ in range(100):
        batch = replay.sample(16, 50)
        number, t = batch["reward"].astype(int), batch["discount"].astype(int)
        expected = np.stack([number // 256, number % 256, t], -1)[:, :, None, None]
        assert (batch["image"] == expected).all()
        found["seen"] = sorted({*found["seen"], *np.unique(number).tolist()})
    found["peak"] = status("VmHWM")
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """300 episodes of 101 rows; the bytes of their images."""
    folder = tmp_path_factory.mktemp("large")
    t = np.arange(101)
    for number in range(300):
        color = np.stack([0 * t + number // 256, 0 * t + number % 256, t], -1).astype(np.uint8)
        image = np.broadcast_to(color[:, None, None], (101, 64, 64, 3))
        fields = {"reward": np.full(101, number, np.float32), "discount": t.astype(np.float32)}
        np.savez_compressed(folder / f"{number:04}.npz", image=image, **fields)
    return folder, 300 * 101 * 64 * 64 * 3


@pytest.mark.slow
def test_data_three_times_the_memory_limit_load_from_disk_alone(large, tmp_path):
    """The limit is on memory of the process's own: heaps, stacks, arrays (RLIMIT_DATA).

    Mapped files are not counted by it, but would be resident all the same: that the peak of
    everything resident stays below the limit, too, is looked at besides.
    """
    folder, size = large
    limit = size // 3
    result = run_script(LOAD, folder, limit, tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["rows"] * 64 * 64 * 3 == size
    assert len(found["seen"]) > 250
    assert found["peak"] < limit
    # The same under the same limit, in memory.
    result = run_script(LOAD, folder, limit, "")
    assert result.returncode == 1
    # Another allocation than the images' may be the one that fails: then a run says the line.
    told = result.stderr.rstrip()
    assert "--replay_storage disk" in told or told.endswith("MemoryError")


# Resumed from another storage


def stopping():
    raise Stopped


def switched(tiny, calling, make, place):
    """A run that began with rows in memory and, stopped there, went on with them on disk."""
    with calling({place: stopping}):
        assert tiny.run(make(replay_storage="memory")).code == 128
    return tiny.finish(make(replay_storage="disk"))


@pytest.mark.slow
def test_pretraining_goes_on_from_disk(tmp_path, tiny, videos, calling, same):
    flags = {"cache_dir": tmp_path / "cache"}
    whole = tiny.finish(tiny.pretrain(tmp_path / "whole", videos))

    def make(**storage):
        return tiny.pretrain(tmp_path / "both", videos, **storage, **flags)

    folder = switched(tiny, calling, make, ("update", 4))
    same.run(whole, folder)
    same.values(same.metrics(whole), same.metrics(folder))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_finetuning_goes_on_from_disk(tmp_path, tiny, calling, same):
    """With a replay that evicts episodes, before the switch and after it."""
    flags = {"dataset_size": 25, "eval_every": 0}
    whole = tiny.finish(tiny.finetune(tmp_path / "whole", **flags))
    flags["cache_dir"] = tmp_path / "cache"

    def make(**storage):
        return tiny.finetune(tmp_path / "both", **storage, **flags)

    folder = switched(tiny, calling, make, ("acting", 22))
    same.run(whole, folder)
    same.values(same.metrics(whole), same.metrics(folder))
    assert list((tmp_path / "cache").iterdir()) == []
