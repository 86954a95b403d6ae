"""What everything stands on: errors for the user, schedules, clocks, seeds, near names."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import math
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np


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


def reason_of(error: BaseException) -> str:
    """What an error says, on one line that is not too long; its kind if it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200] + "…" if len(text) > 200 else text


def expand_path(given: str | os.PathLike, flag: str) -> Path:
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
    folder = expand_path(given, flag)
    if not folder.is_dir():
        raise UserError(
            f"--{flag} {folder}: there is no such folder; give one that holds {content}"
        )
    if not any(folder.glob(content)):
        kind = f"{content.lstrip('*')} file".strip()
        raise UserError(f"--{flag} {folder} has no {kind}; give another folder")


def is_on(choice: str, automatic: bool) -> bool:
    """What a flag of auto, True or False comes to, ``automatic`` being what auto means here."""
    return automatic if choice == "auto" else choice == "True"


def sha256(file: BinaryIO) -> str:
    """The SHA-256 of what is left of a file, in hex."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def print_safe(text: str, stream: TextIO | None = None) -> None:
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


def schedule_constant(text: str | float) -> float | None:
    """The number that a schedule is all along; None if it moves."""
    return _number(str(text).strip())


def is_zero(text: str | float) -> bool:
    """Whether a schedule is the constant 0."""
    return schedule_constant(text) == 0.0


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

    def is_due(self, step: int) -> bool:
        """Whether a multiple of the period lies behind ``step`` unanswered (the first is 0)."""
        return self.period > 0 and step // self.period > self.last

    def take(self, step: int) -> bool:
        """Whether it is due; if so, it is answered."""
        due = self.is_due(step)
        if due:
            self.last = int(step // self.period)
        return due
