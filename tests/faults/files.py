"""Files that changed while nobody looked: checkpoints, episodes."""

from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults.harness import Case, Lab, Tally, expect, fault


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit that flipped": _flip,
    "cut short": lambda content: content[: len(content) * 2 // 3],
    "its end gone": lambda content: content[:-1000],
    "nothing in it": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "another file": lambda content: b"not a checkpoint\n" * 1000,
}


def killed(lab: Lab, name: str) -> Case:
    """A run that was killed right after its third checkpoint."""
    case = Case(lab, "long", Tally(), name)
    case.start(fault("kill", "renamed", name="checkpoint.pt", nth=3)).end()
    expect(case.last.fired("fault"), f"there was no third one:\n{case.last.err[-3000:]}")
    return case


def newest_damaged(lab: Lab, name: str, tally: Tally) -> None:
    """The newest checkpoint is damaged: the one before it takes its place."""
    origin = killed(lab, name)
    for number, damage in enumerate(DAMAGES.values()):
        case = origin.copy(f"{name}_{number}", tally)
        path = (case.folder / "checkpoint.pt").resolve()
        bad = damage(path.read_bytes())
        path.write_bytes(bad)
        tally.injected += 1
        ended = case.finish()
        expect("warning" in ended.err, f"no warning:\n{ended.err[-3000:]}")
        check_set_aside(case.folder, bad)


def check_set_aside(folder: Path, content: bytes) -> None:
    """Checks that a damaged file lies in bad/, as it was, with a reason."""
    found = [p for p in (folder / "bad").glob("*") if p.read_bytes() == content]
    expect(found, f"it is not in {folder / 'bad'}")
    reasons = [p for p in (folder / "bad").glob(f"{found[0].name}*.txt") if p != found[0]]
    expect(reasons and reasons[0].read_text().strip(), f"no reason beside {found[0]}")


def all_damaged(lab: Lab, name: str, tally: Tally) -> None:
    """Every checkpoint is damaged: one line, nothing is changed; put back, the run goes on."""
    origin = killed(lab, name)
    for number, damage in enumerate(list(DAMAGES.values())[::2]):
        case = origin.copy(f"{name}_{number}", tally)
        whole = {path: path.read_bytes() for path in case.folder.glob("checkpoint_*.pt")}
        expect(len(whole) == 3, f"{len(whole)} checkpoints are kept")
        for path, content in whole.items():
            path.write_bytes(damage(content))
        before = _content(case.folder)
        tally.injected += 1
        case.start().end().check_line(2, r"checkpoint_\d+\.pt", "--logdir")
        expect(_content(case.folder) == before, "the folder was changed")
        for path, content in whole.items():
            path.write_bytes(content)
        case.finish()


def _content(folder: Path) -> dict[str, bytes]:
    """Every file's bytes; the lock says who had it last."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


TORN = {
    "half a line": b'{"step": 130, "time": 2.1, "train_ret',
    "half a letter": b'{"step": 130, "event": "\xce',
    "zeros": bytes(700),
}


def torn_log(lab: Lab, name: str, tally: Tally) -> None:
    """The log ends in what a power cut leaves: half a line, zeros."""
    origin = killed(lab, name)
    for number, end in enumerate(TORN.values()):
        case = origin.copy(f"{name}_{number}", tally)
        with (case.folder / "metrics.jsonl").open("ab") as file:
            file.write(end)
        tally.injected += 1
        case.finish()


# Episodes


def _saved(**fields: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **fields)
    return buffer.getvalue()


def _changed(content: bytes, **fields: np.ndarray | None) -> bytes:
    episode = dict(np.load(io.BytesIO(content))) | fields
    return _saved(**{key: value for key, value in episode.items() if value is not None})


def _longer(content: bytes) -> bytes:
    """More rows than its name says."""
    episode = dict(np.load(io.BytesIO(content)))
    return _saved(**{key: np.concatenate([value, value]) for key, value in episode.items()})


def _pickled(content: bytes) -> bytes:
    objects = np.array([{"a": 1}, None], dtype=object)
    return _changed(content, reward=objects)


def _claiming(content: bytes) -> bytes:
    """A header that promises terabytes of images, and none of them."""
    header, buffer = io.BytesIO(), io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (1 << 30, 64, 64, 3)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("image.npy", header.getvalue())
    return buffer.getvalue()


EPISODES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": DAMAGES["cut short"],
    "nothing in it": DAMAGES["nothing in it"],
    "a bit that flipped": _flip,
    "no image": lambda content: _changed(content, image=None),
    "another shape": lambda content: _changed(content, image=np.zeros((11, 32, 32, 3), np.uint8)),
    "another dtype": lambda content: _changed(content, image=np.zeros((11, 64, 64, 3), np.float32)),
    "no number": lambda content: _changed(content, reward=np.full(11, np.nan, np.float32)),
    "another length": lambda content: _changed(content, action=np.zeros((7, 2), np.float32)),
    "longer than its name": _longer,
    "longer than it is": _claiming,
    "objects": _pickled,
    "a pickle": lambda content: pickle.dumps({"image": [1, 2, 3]}),
}


def bad_episodes(lab: Lab, name: str, tally: Tally) -> None:
    """Episodes that a checkpoint needs are damaged: set aside with the reason, the run goes on."""
    origin = killed(lab, name)
    for number, damage in enumerate(EPISODES.values()):
        case = origin.copy(f"{name}_{number}", tally)
        path = sorted(case.folder.glob("train_eps/*.npz"))[number % 4]
        bad = damage(path.read_bytes())
        path.write_bytes(bad)
        tally.injected += 1
        ended = case.finish(same=False)
        expect(path.name in ended.err, f"{path.name} is not named:\n{ended.err[-3000:]}")
        check_set_aside(case.folder, bad)
        shutil.rmtree(case.folder)
