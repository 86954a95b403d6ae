"""Folders that are made once and reused: a cache, a lock, and a marker in each finished folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.errors import Unreadable
from fileio.atomic import atomic_write, leftovers, sync_folder
from fileio.npz import PASSING
from tools import UserError, expand_path

MARKER = ".source.json"  # in a finished folder: what it was made from


def cache_root(given: str | None) -> Path:
    """Where downloads and decoded videos are kept: ``--cache_dir``, or diswm in the user's cache.

    The user's cache is ``$XDG_CACHE_HOME``, or ``~/.cache`` where that is not set.

    Raises:
        UserError: there is no such home folder.
    """
    if given:
        return expand_path(given, "cache_dir").absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else expand_path("~/.cache", "cache_dir")) / "diswm"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What a finished folder was made from, or None for a folder that is none of ours.

    Raises:
        Unreadable: the machine failed to read it, and the folder may be ours.
    """
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (PermissionError, ValueError, RecursionError):  # another user's, or no marker
        return None
    except OSError as error:
        if error.errno in PASSING:
            raise Unreadable(folder / MARKER, error) from error
        return None
    return content if isinstance(content, dict) else None


def write_marker(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the marker of a folder; the last file that goes into it."""
    with atomic_write(folder / MARKER) as file:
        file.write(json.dumps(content, indent=1).encode())


@contextlib.contextmanager
def building(target: Path, keep: bool = False) -> Iterator[Path | None]:
    """Yields a folder to fill, which becomes ``target`` whole, or not at all.

    It is ``.<name>.partial`` beside the target, and locked: a second process waits. Only what an
    earlier, killed start left in that folder is ever removed.

    Args:
        target: the folder to make.
        keep: leave the folder of an interrupted start for the next one to go on with.

    Yields:
        The folder, or None where ``target`` is there already.

    Raises:
        OSError: it cannot be made there.
    """
    partial = target.with_name(f".{target.name}.partial")
    lock = _lock(partial, target)
    if lock is None:
        yield None
        return
    try:
        for path in () if keep else partial.iterdir():
            path.unlink()
        yield partial
        for path in leftovers(partial):  # of a start that was killed while it wrote
            path.unlink()
        os.rename(partial, target)
        sync_folder(target.parent)
    except BaseException as error:
        if not keep or isinstance(error, UserError):
            shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _lock(partial: Path, target: Path) -> int | None:
    """Makes and locks the unfinished folder; None once the finished one is there."""
    while not target.exists():
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY)
        try:
            _wait(lock, target)
            # Another process may have finished, or given up, since the folder was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), partial.stat()) and not target.exists():
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    with contextlib.suppress(OSError):
        partial.rmdir()  # only where it is empty
    return None


def _wait(lock: int, target: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that is making {target}", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        # So it is on some network file systems; two first starts at once would disturb each other.
        print(f"note: {target.parent} has no locks ({error.strerror})", file=sys.stderr)
