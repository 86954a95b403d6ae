"""The lock that keeps a second process out of a run's folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from tools import UserError


class FolderLock:
    """A folder's lock: one process at a time; the system gives it back when that process ends.

    Attributes:
        held: whether the folder is this process's, as far as the file system can tell.
        warning: what is to be told of a file system without locks, or None.
    """

    def __init__(self, folder: Path):
        self._path = folder / "lock"
        self._file: TextIO | None = None
        self.warning: str | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._file is not None

    def acquire(self) -> None:
        """Takes the lock; does nothing where it is held.

        Raises:
            UserError: another process holds it.
            OSError: the file cannot be made.
        """
        if self.held:
            return
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                file.close()
                who = " ".join(self._path.read_text(errors="replace").split()[:4])
                raise UserError(
                    f"{self._path.parent} is in use by another process{who and f' ({who})'}: wait "
                    "until it ends or stop it, or choose another --logdir or --seed"
                ) from None
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                file.close()
                raise
            self.warning = (
                "this file system has no locks: nothing keeps a second process out of here"
            )
        self._file = file
        with contextlib.suppress(OSError):  # on a full disk nobody is told who it is
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
            file.flush()

    def release(self) -> None:
        """Lets other processes in again."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what it could not write before
                self._file.close()
            self._file = None
