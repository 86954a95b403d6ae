"""Small things that belong to nobody: schedules, clocks, seeds, atomic writes, near names."""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import math
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np

TEMPORARY = ".tmp"  # how the name of a file ends that is being written

# It can only be read by setting it, which is for the whole process: once, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)


class UserError(Exception):
    """A mistake in what the user gave. Its text is one line that names the thing and the mend."""

    def __init__(self, text: str):
        # Names out of files are in it, and may hold anything.
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text))


class Diverged(Exception):
    """Training left the finite numbers. Its text is one line with the mend."""

    def __init__(self, what: str, found: str = ""):
        super().__init__(
            f"training diverged: {what} is not finite; {found}begin again in another --logdir with "
            "a lower --model_lr or --actor_lr, or look where with --debug True"
        )


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the valid name nearest to ``name``, or ``""``."""
    by_lower = {str(v).lower(): str(v) for v in valid}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean '{by_lower[close[0]]}'?)" if close else ""


def expand(given: str | os.PathLike, flag: str) -> Path:
    """The path that a flag gave, with the home folder in the place of ``~`` or ``~user``.

    Raises:
        UserError: it is not known.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise UserError(f"--{flag} {given}: its home is not known; give the whole path") from None


def check_folder(given: str | None, flag: str, content: str) -> None:
    """Checks that the folder of a flag is there and holds files, if one was given.

    Args:
        given: the folder; empty or None for none.
        flag: its name, without the dashes.
        content: pattern of their names.

    Raises:
        UserError: it is not, or is empty.
    """
    if not given:
        return
    folder = expand(given, flag)
    if not folder.is_dir():
        raise UserError(
            f"--{flag} {folder}: there is no such folder; give one that holds {content}"
        )
    if not any(folder.glob(content)):
        raise UserError(f"--{flag} {folder} has no {content.lstrip('*')} file; give another folder")


def is_on(choice: str, automatic: bool) -> bool:
    """What a flag of auto, True or False comes to, ``automatic`` being what auto means here."""
    return automatic if choice == "auto" else choice == "True"


def sha256(file: BinaryIO, count: int = -1) -> str:
    """The SHA-256 of the next ``count`` bytes of a file, or of all that are left, in hex."""
    digest = hashlib.sha256()
    while count and (block := file.read(1 << 20 if count < 0 else min(count, 1 << 20))):
        digest.update(block)
        count -= len(block) if count > 0 else 0
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike, new: bool = False, before: Callable[[], None] | None = None
) -> Iterator[BinaryIO]:
    """Yields a binary file that takes its place at ``path`` whole, or not at all.

    The bytes go to a temporary file in the same folder, reach the disk (fsync), and are renamed
    over ``path``. After an exception the temporary file is gone and ``path`` is as it was.

    Args:
        path: where the file is to be.
        new: there must be none yet.
        before: called once the bytes are on the disk, right before the renaming.

    Raises:
        FileExistsError: ``path`` was to be a ``new`` file, and there is one.
        OSError: it cannot be written; the error names ``path``.
    """
    path = Path(path)
    with naming(path):
        yield from _written(path, new, before)


def _written(path: Path, new: bool, before: Callable[[], None] | None) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY
    )
    try:
        # mkstemp makes private files; what is written here is as readable as any other file.
        os.fchmod(descriptor, 0o666 & ~_UMASK)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            before()
        (_take if new else os.replace)(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder reach the disk: a renaming is durable only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such call
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside names the file that it is about; writing alone would not."""
    try:
        yield
    except OSError as error:
        named = error.filename is not None and not str(error.filename).endswith(TEMPORARY)
        if error.errno is None or named:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def leftovers(folder: Path) -> list[Path]:
    """The temporary files that processes killed in :func:`atomic_write` left below a folder."""
    ours = re.compile(r"\..+\.\w{8}" + re.escape(TEMPORARY))
    return sorted(path for path in folder.rglob(f".*{TEMPORARY}") if ours.fullmatch(path.name))


def move_aside(path: Path, folder: Path) -> Path:
    """Moves a file into a folder, under a number where its name is taken; returns where to."""
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 0
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with path.open("rb") as source, atomic_write(target, new=True) as file:  # another disk
            shutil.copyfileobj(source, file)
        path.unlink()
    return target


def set_bad_aside(path: Path, folder: Path, reason: str) -> Path:
    """Moves a damaged file into a folder, with a text beside it that says why."""
    target = move_aside(path, folder)
    with atomic_write(target.with_name(f"{target.name}.txt")) as file:
        file.write(f"{reason}\n".encode())
    return target


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line, to stderr by default; once nobody reads there any more, to nowhere.

    A run outlives the terminal that it was started from.
    """
    stream = stream or sys.stderr
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):  # a pipe without a reader, a terminal that is gone, closed
        hush(stream)


def hush(stream: TextIO) -> None:
    """From here on, what is written to a stream goes nowhere."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _take(temporary: str, path: Path) -> None:
    """Gives a file a name that no other file has; one process of several gets it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(f"{path} exists") from None
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def derive_seed(seed: int, *names: str | int) -> int:
    """A 31-bit seed for one named purpose, the same on every platform.

    Args:
        seed: the run's seed.
        names: what the numbers are for, e.g. ``("eval", 3)``; strings and non-negative integers.
    """
    words = [zlib.crc32(n.encode()) if isinstance(n, str) else int(n) for n in names]
    # The count keeps apart what differs in trailing zeros alone: SeedSequence pads with them.
    sequence = np.random.SeedSequence([len(words), int(seed), *words])
    return int(sequence.generate_state(1)[0] >> 1)


Schedule = Callable[[float], float]

LONGEST = 200  # characters of a schedule; what is nested deeper is no one's wish
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_CALL = re.compile(r"^(\w+)\((.*)\)$")


def schedule(text: str | float) -> Schedule:
    """Parses a schedule: a function from the agent's step to a value.

    ========================  ===================================================================
    ``0.3``                   constant
    ``linear(a,b,n)``         from a to b over the first n steps, then b
    ``warmup(n,a)``           from 0 to a over the first n steps, then a
    ``exp(a,b,h)``            from a towards b, half of the way every h steps
    ``horizon(a,b,n)``        1 − 1/h, with h rising from a to b over the first n steps
    ``delay(n,schedule)``     0 before step n; then the schedule, its step counted from n
    ========================  ===================================================================

    Raises:
        UserError: the text is none of these.
    """
    text = str(text).strip().replace(" ", "")
    if len(text) > LONGEST:
        raise UserError(f"{text[:40]!r}… is not a schedule: it has more than {LONGEST} characters")
    if (constant := _number(text)) is not None:
        return lambda step: constant
    match = _CALL.match(text)
    name, inside = match.groups() if match else ("", "")
    if name == "delay" and "," in inside:
        first, rest = inside.split(",", 1)
        if (start := _number(first)) is not None and start >= 0:
            inner = schedule(rest)
            return lambda step: inner(step - start) if step >= start else 0.0
    numbers = [_number(n) for n in inside.split(",")]
    if name in _MAKERS and None not in numbers:
        make, arity, valid = _MAKERS[name]
        if len(numbers) == arity and valid(*numbers):
            return make(*numbers)
    raise UserError(
        f"{text!r} is not a schedule: give a number or one of linear(from,to,steps), "
        "warmup(steps,value), exp(from,to,halflife), horizon(from,to,steps), delay(steps,schedule)"
    )


def _number(text: str) -> float | None:
    """The finite number that a text spells, or None."""
    if not re.fullmatch(_NUMBER, text) or math.isinf(float(text)):
        return None
    return float(text)


def is_zero(text: str | float) -> bool:
    """Whether a schedule is the constant 0."""
    return re.fullmatch(_NUMBER, str(text).strip()) is not None and float(text) == 0.0


def _linear(first: float, last: float, duration: float) -> Schedule:
    def value(step: float) -> float:
        mix = min(max(step / duration, 0.0), 1.0) if duration else 1.0
        return (1 - mix) * first + mix * last

    return value


def _warmup(duration: float, value: float) -> Schedule:
    return _linear(0.0, value, duration)


def _exp(first: float, last: float, halflife: float) -> Schedule:
    return lambda step: (first - last) * math.pow(0.5, max(step, 0) / halflife) + last


def _horizon(first: float, last: float, duration: float) -> Schedule:
    length = _linear(first, last, duration)
    return lambda step: 1 - 1 / length(step)


# How to make each schedule, from how many numbers, and which of them make sense.
_MAKERS: dict[str, tuple[Callable[..., Schedule], int, Callable[..., bool]]] = {
    "linear": (_linear, 3, lambda first, last, steps: steps >= 0),
    "warmup": (_warmup, 2, lambda steps, value: steps >= 0),
    "exp": (_exp, 3, lambda first, last, half: half > 0 and math.isfinite(first - last)),
    "horizon": (_horizon, 3, lambda first, last, steps: min(first, last) >= 1 and steps >= 0),
}


class Every:
    """True once for every ``period`` steps that have gone by; never when the period is 0.

    Its state is the last multiple that it answered for, so that a resumed run goes on in rhythm.
    """

    def __init__(self, period: float, last: int = -1):
        self.period = period
        self.last = last

    def __call__(self, step: int) -> bool:
        return self.due(step) > 0

    def due(self, step: int) -> int:
        """How many multiples of the period lie behind ``step`` unanswered (the first is step 0)."""
        if not self.period:
            return 0
        now = int(step // self.period)
        count, self.last = now - self.last, max(now, self.last)
        return max(count, 0)
