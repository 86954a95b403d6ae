"""Films as episodes: decoded once, in parallel, into a cache of image-only .npz files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.caching import building, read_marker, write_marker
from data.errors import readable, reading, shortened
from data.frames import Settings, read_frames
from fileio.atomic import atomic_write
from media.files import images_in
from media.images import Unusable
from replay.episodes import save_episode
from tools import UserError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LAYOUT = 2  # of the cache: another number decodes everything anew
WORKERS = min(8, os.cpu_count() or 1)


class _Cancelled(Exception):
    """Decoding is to stop."""


class Clip(NamedTuple):
    """A film to decode.

    Attributes:
        path: a file, or a folder of images.
        name: what it is called: its place below what was given.
        label: how the names of its episodes begin.
        files: of which it consists.
        size: bytes in these.
    """

    path: Path
    name: str
    label: str
    files: tuple[Path, ...]
    size: int


def decode(
    given: Path,
    paths: Sequence[Path],
    cache: Path,
    settings: Settings,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> tuple[Path, list[tuple[str, str]]]:
    """Decodes films into one folder of image-only episodes; reuses a folder made before.

    The folder's name has a hash of the films' files (path, size, time) and the settings, so that
    what changed is decoded anew. A decoding that was interrupted goes on after the last whole film.

    Args:
        given: what was given: the film, or the folder in which all lie. Begins the folder's name.
        paths: the films.
        cache: where the folder is made.
        settings: how.
        progress: called with what is being done, bytes of video done, and bytes in all.

    Returns:
        The folder, and (name, reason) of each film that cannot be used.

    Raises:
        UserError: not one of them can be used.
        Unreadable: the machine failed to read one; what was decoded stays for the next start.
        OSError: the folder cannot be written.
    """
    clips = _clips(given, sorted(paths))
    name = readable(given.resolve().name)
    target = cache / f"{shortened(name, 80)}-{_key(clips, settings)}"
    marker = read_marker(target)
    if marker is None:
        with building(target, keep=True) as partial:
            if partial is not None:
                marker = {"videos": _decode_all(clips, partial, settings, progress)}
                _check_usable(marker["videos"])
                write_marker(partial, marker)
    marker = marker or read_marker(target)
    if marker is None or not isinstance(marker.get("videos"), list):
        raise UserError(f"{target} is not of this program's making: move it away")
    _check_usable(marker["videos"])
    return target, [(v["name"], v["skipped"]) for v in marker["videos"] if "skipped" in v]


def _clips(given: Path, paths: Sequence[Path]) -> list[Clip]:
    names = [str(p.relative_to(given)) if p != given else p.resolve().name for p in paths]
    plain = [_label(name) for name in names]
    often = Counter(plain)  # folder/a.mp4 is like folder__a.mp4
    clips = []
    for path, name, label in zip(paths, names, plain, strict=True):
        with reading(path):
            files = tuple(images_in(path)) if path.is_dir() else (path,)
            size = sum(file.stat().st_size for file in files)
        label = label if often[label] == 1 else _hashed(name)
        clips.append(Clip(path, readable(name), label, files, size))
    return clips


def _key(clips: Sequence[Clip], settings: Settings) -> str:
    files = []
    for path in (path for clip in clips for path in clip.files):
        with reading(path):
            found = path.stat()
        files.append([str(path.resolve()), found.st_size, found.st_mtime_ns])
    chosen = [settings.fps, settings.length, list(settings.size), settings.grayscale]
    return hashlib.sha256(json.dumps([LAYOUT, chosen, files]).encode()).hexdigest()[:16]


def _check_usable(videos: Sequence[dict[str, Any]]) -> None:
    skipped = [v for v in videos if "skipped" in v]
    if len(skipped) == len(videos):
        raise UserError(
            f"--pretrain_datasets_path has no usable video ({skipped[0]['name']}: "
            f"{skipped[0]['skipped']}): give others"
        )


def _decode_all(
    clips: Sequence[Clip],
    folder: Path,
    settings: Settings,
    progress: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """Decodes in threads (PyAV and zlib let go of the interpreter); a record per film."""
    done = {clip.label: 0.0 for clip in clips}  # share of each film
    stop = threading.Event()

    def decode_one(clip: Clip) -> dict[str, Any]:
        def tick(share: float) -> None:
            done[clip.label] = share
            if stop.is_set():
                raise _Cancelled

        return _decode_one(clip, folder, settings, tick)

    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            futures = [pool.submit(decode_one, clip) for clip in clips]
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()  # an error that is not the film's ends all
                amount = sum(int(clip.size * done[clip.label]) for clip in clips)
                progress("decoding", amount, sum(clip.size for clip in clips))
            return [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _decode_one(
    clip: Clip, folder: Path, settings: Settings, tick: Callable[[float], None]
) -> dict[str, Any]:
    """One film into episodes, and a record that it is whole; a reason in "skipped" if it is not.

    A record that an earlier start left is taken as it is.

    Raises:
        Unreadable: the machine failed to read it.
        OSError: the folder cannot be written.
    """
    record = folder / f".{clip.label}.json"
    if (known := _read_record(record)) is not None:
        tick(1.0)
        return known
    written: list[Path] = []
    result: dict[str, Any] = {"name": clip.name}
    try:
        rows = 0
        for images in pieces(read_frames(clip.path, settings, tick), settings.length):
            target = folder / f"{clip.label}-{len(written):05d}-{len(images)}.npz"
            save_episode(target, {"image": images})
            written.append(target)
            rows += len(images)
        if not written:
            raise Unusable("less than two frames")
        result |= {"episodes": len(written), "frames": rows}
    except Unusable as error:
        for target in written:
            target.unlink()
        return result | {"skipped": str(error)}  # tried again by the next start
    with atomic_write(record) as file:
        file.write(json.dumps(result).encode())
    tick(1.0)
    return result


def _label(name: str) -> str:
    """How the names of a film's files begin: with its own, or a hash where that cannot be."""
    flat = name.replace(os.sep, "__")
    # A file's name has at most 255 bytes, the piece's included.
    if readable(flat) == flat and not _CONTROL.search(flat) and len(os.fsencode(flat)) <= 150:
        return flat
    return _hashed(name)


def _hashed(name: str) -> str:
    suffix = Path(name).suffix
    plain = readable(name) == name and not _CONTROL.search(name)
    suffix = suffix if plain and len(os.fsencode(suffix)) <= 8 else ""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16] + suffix


def _read_record(path: Path) -> dict[str, Any] | None:
    """A record that an earlier start left, None without one that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and "name" in content else None


def pieces(images: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Episodes of ``length`` images, uint8 [length, H, W, C]; the last may be shorter.

    A single image left over at the end is dropped: an episode has at least two rows.
    """
    rows: list[np.ndarray] = []
    for image in images:
        rows.append(image)
        if len(rows) == length:
            yield np.stack(rows)
            rows = []
    if len(rows) > 1:
        yield np.stack(rows)
