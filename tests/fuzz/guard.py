"""What no input may do: run code, write outside of its folder, hang, or take all memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 10.0  # that one input may take
GROWTH = 512 << 20  # bytes by which one input may raise the process's peak
ADDRESSES = 3 << 30  # bytes of address space beyond what the process has at the start

# Audit events of code that is run, and of the network.
_RUN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")
_RUN += ("subprocess.Popen", "socket.connect", "socket.getaddrinfo", "ctypes.dlopen")
_RUN += ("pickle.find_class", "webbrowser.open", "urllib.Request")
# Audit events of changes, with how many paths they begin with.
_CHANGES = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "os.rename": 2}
_CHANGES |= {"os.chmod": 1, "os.chown": 1, "os.utime": 1, "os.link": 2, "os.symlink": 2}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Wrong(Exception):
    """Something that an input must not do, or a result that is not right."""


class Hang(BaseException):
    """An input took too long; code that catches every Exception does not catch it."""


class _Watch:
    """The one audit hook of the process: it cannot be taken out again, so it is told when."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.seen: list[str] = []
        self.added = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event in _RUN:
            self._refuse(f"{event} {args!r:.200}")
        elif event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes) and flags and flags & _WRITING:
                self._check(event, path, -1)
        elif event in _CHANGES:
            count = _CHANGES[event]
            folders = [part for part in args[count:] if isinstance(part, int)][-count:]
            for number, path in enumerate(args[:count]):
                self._check(event, path, folders[number] if number < len(folders) else -1)

    def _check(self, event: str, path: Any, folder: int) -> None:
        if isinstance(path, int) or "__pycache__" in os.fsdecode(path):
            return
        name = os.fsdecode(path)
        if folder >= 0 and event in ("os.remove", "os.rmdir", "os.mkdir", "os.rename"):
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        real = os.path.realpath(name)
        if real != os.devnull and not (real + os.sep).startswith(self.root + os.sep):
            self._refuse(f"{event} {name!r}")

    def _refuse(self, what: str) -> None:
        self.seen.append(what)
        raise PermissionError(f"fuzzing: {what}")


_watch = _Watch()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _on_alarm(*_: object) -> None:
    raise Hang


@contextmanager
def guarded(root: Path, seconds: float = SECONDS) -> Iterator[None]:
    """Watches what happens inside; changes are allowed below ``root`` alone.

    Raises:
        Wrong: code was run, something was written elsewhere, or memory grew beyond the limit.
        Hang: it took too long.
    """
    if not _watch.added:
        sys.addaudithook(_watch)
        _watch.added = True
    peak, _watch.seen = _peak(), []
    before = signal.signal(signal.SIGALRM, _on_alarm)
    # Again every second: whoever waits for a thread is woken more than once.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    _watch.root = os.path.realpath(root)
    try:
        yield
    finally:
        _watch.root = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if _watch.seen:  # even where the input's own error hides it
            raise Wrong(_watch.seen[0])
    if _peak() - peak > GROWTH:
        raise Wrong(f"memory: the peak grew by {(_peak() - peak) >> 20} MiB")


@contextmanager
def bounded() -> Iterator[None]:
    """Inside, the process may have so much more address space and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """What libraries print to the process's stderr goes into a file."""
    sys.stderr.flush()
    kept, file = os.dup(2), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(file)
