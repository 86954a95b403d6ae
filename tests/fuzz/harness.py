"""One input after the other: laid into a folder, judged, and kept where it was judged wrong."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from hypothesis import HealthCheck, Phase, configuration, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

from tests.fuzz.guard import SECONDS, Hang, Wrong, bounded, captured, guarded

Case = Mapping[str, bytes]  # file name → content
ROOT = Path(__file__).parents[2]
MEMORY, ROOM = Path("/dev/shm"), 256 << 20


@dataclass(frozen=True)
class Target:
    """Something that reads.

    Attributes:
        name: of what is read.
        share: weight of its inputs among all.
        inputs: the strategy.
        judge: called with the folder of the input's files and an empty one to write into. Raises
            for an input that was treated wrongly: any exception is a finding.
        silent: whether nothing may be printed to stderr.
    """

    name: str
    share: float
    inputs: st.SearchStrategy[Case]
    judge: Callable[[Path, Path], None]
    silent: bool = False


@dataclass
class Finding:
    """What was wrong, and the folder that holds the input."""

    target: str
    reason: str
    folder: Path


@dataclass
class Harness:
    """Judges inputs in a scratch folder.

    Args:
        scratch: an empty folder.
        kept: where failing inputs go.
        seconds: that one input may take.
        beat: called before each input.
    """

    scratch: Path
    kept: Path
    seconds: float = SECONDS
    beat: Callable[[], None] = lambda: None
    count: int = 0
    failed: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)

    def __call__(self, target: Target, case: Case) -> None:
        """Judges one input.

        Raises:
            Wrong: it was treated wrongly; the input is kept.
        """
        self.beat()
        self.count += 1
        given_, made, printed = (self.scratch / name for name in ("given", "made", "printed"))
        for folder in (given_, made):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for name, content in case.items():
            (given_ / name).write_bytes(content)
        printed.write_bytes(b"")
        try:
            guard = guarded(self.scratch, self.seconds)
            with captured(printed), _quiet(printed), _at(made), guard:
                target.judge(given_, made)
            if target.silent and (text := printed.read_bytes()):
                raise Wrong(f"printed {text[:200]!r}")
            if left := sorted({p.name for p in self.scratch.iterdir()} - {"given", "made"}):
                _check_left(left)
        except (Exception, Hang) as error:
            self._keep(target, case, error)
            raise Wrong(f"{target.name}: {_reason(error)}") from error

    def _keep(self, target: Target, case: Case, error: BaseException) -> None:
        """Keeps the input; a later one that fails at the same place is simpler."""
        self.failed += 1
        reason, place = _reason(error), _place(error)
        key = hashlib.sha256(f"{target.name} {place}".encode()).hexdigest()[:8]
        folder = self.kept / f"{target.name}-{key}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in case.items():
            (folder / name).write_bytes(content)
        trace = "".join(traceback.format_exception(error))
        (folder / "reason.txt").write_text(trace, encoding="utf-8", errors="backslashreplace")
        self.findings[key] = Finding(target.name, f"{reason} ({place})", folder)


def _check_left(names: list[str]) -> None:
    if names != ["printed"]:
        raise Wrong(f"left {names} beside its folder")


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return "it takes too long" if isinstance(error, Hang) else f"{type(error).__name__}: {text}"


def _place(error: BaseException) -> str:
    """The innermost line of the project's own code."""
    own = ("", 0)
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and "guard" not in path.name:
            own = (str(path.relative_to(ROOT)), frame.lineno)
    return f"{own[0]}:{own[1]}, {type(error).__name__}"


@contextmanager
def _quiet(printed: Path) -> Iterator[None]:
    """Python's own stderr goes where the libraries' goes, and its stdout nowhere."""
    kept = sys.stderr
    with printed.open("a", encoding="utf-8", errors="backslashreplace") as file:
        sys.stderr = file
        try:
            with warnings.catch_warnings(), redirect_stdout(_Nowhere()):
                warnings.simplefilter("ignore")
                yield
        finally:
            sys.stderr = kept


@contextmanager
def _at(folder: Path) -> Iterator[None]:
    """The working folder, where an input's code would leave something, and the temporary one."""
    before, temporary = Path.cwd(), tempfile.tempdir
    os.chdir(folder)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        os.chdir(before)
        tempfile.tempdir = temporary


class _Nowhere(TextIO):
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return None


def memory() -> Path | None:
    """Where files lie in memory, if there is such a place and it has room."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK)):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free > ROOM else None


@contextmanager
def scratch(inside: Path | None = None) -> Iterator[Path]:
    """A new folder, by default in memory where there is such a place: files come in thousands."""
    inside = inside or memory()
    with tempfile.TemporaryDirectory(dir=inside) as name:
        folder = Path(name).resolve()
        configuration.set_hypothesis_home_dir(folder / "hypothesis")
        try:
            yield folder
        finally:
            configuration.set_hypothesis_home_dir(None)


def examine(
    harness: Harness,
    target: Target,
    inputs: int,
    number: int | None = None,
    until: float = float("inf"),
) -> None:
    """Judges so many inputs of a target.

    Args:
        harness: which judges.
        target: what reads them.
        inputs: how many.
        number: of the seed; None takes the same inputs each time.
        until: the time at which to stop.
    """

    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=number is None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(target.inputs)
    def each(case: Case) -> None:
        if time.monotonic() < until:
            harness(target, case)

    gc.collect()  # what others left must not be cleared away under the guard
    failed = harness.failed
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # of long inputs, which are kept
        try:
            (each if number is None else seed(number)(each))()
        except Exception:
            if harness.failed == failed:
                raise  # the harness's own
