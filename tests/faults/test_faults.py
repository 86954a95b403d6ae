"""A slice of what `python -m tests.faults` does: a run is hurt in three ways and ends the same."""

import os
import resource
import signal
import sys

import pytest

from tests.faults.harness import Case, Ended, Lab, Tally, Unmet, fault
from tests.faults.rows import README, ROWS

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are looked for in /proc"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("lab"), here=True)


@pytest.mark.faults
def test_a_run_outlives_a_kill_a_dead_worker_and_a_full_disk(lab):
    """Killed in a checkpoint's write; then without its worker, then without space for the next."""
    tally = Tally()
    case = Case(lab, "bare", tally, "hurt")
    case.hurt(fault("kill", "write", name="checkpoint_*.pt", bytes=1_000_000))
    assert case.last.progress == 29
    # In a worker process the numbers are those of the undisturbed run, which has none.
    alone, case.argv = case.argv, [*case.argv, "--async_env", "process"]
    started = case.start(fault("pause", "step", "one", n=20), fault("pause", "step", "two", n=44))
    started.paused("one")
    os.kill(started.workers()[0], signal.SIGKILL)
    started.go_on("one")
    started.paused("two")
    resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    started.go_on("two")
    started.end().check_line(1, r"checkpoint_\d+\.pt", "frame 58")
    assert started.progress == 58
    tally.injected += 2
    case.argv = alone
    case.finish()
    assert (tally.injected, tally.survived, tally.lost) == (3, 3, 58)


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (2, "dreamer.py: a: mend it\n"),
        (1, "a: mend it\n"),
        (1, "dreamer.py: a: mend it\ndreamer.py: b: mend it\n"),
        (1, "Traceback (most recent call last):\n…\ndreamer.py: a: mend it\n"),
        (1, "dreamer.py: b: mend it\n"),
    ],
)
def test_other_ends_than_one_line_are_seen(code, err):
    Ended(1, "", "[  40] train\ndreamer.py: a: mend it\n").check_line(1, "a")
    with pytest.raises(Unmet):
        Ended(code, "", err).check_line(1, "a: mend it$")


def test_a_row_is_good_if_every_injection_was_survived():
    assert Tally(injected=3, survived=3).good
    assert not Tally(injected=3, survived=2).good
    assert not Tally().good
    assert not Tally(injected=3, survived=3, unmet="a line was missing").good


def test_the_readme_has_every_row_and_each_was_survived():
    text = README.read_text()
    for row in ROWS:
        lines = [line for line in text.splitlines() if line.startswith(f"| {row.fault} |")]
        assert len(lines) == 1, row.name
        assert "(100%)" in lines[0], row.name
