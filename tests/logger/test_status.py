"""Where a run stands: the line of a log, how long the rest takes, and what a terminal shows."""

import io

import pytest

from logger import Logger, Pace, Status
from logger.terminal import TerminalSink, duration, status_line
from tests.logger.clock import Clock


def test_a_line_has_share_speed_the_time_left_and_numbers():
    numbers = {"return": 83.25, "image": 11403.2}
    line = status_line(4000, Status(60_000, "frames", 35.21, 1590.4, numbers))
    assert line == (
        "[    4,000] 7% of 60,000  35.2 frames/s  26 min 30 s left  return 83.25  image 1.14e+04"
    )


@pytest.mark.parametrize(("step", "left"), [(100, None), (500, 0.0)])
def test_no_time_is_left_where_nothing_tells_and_at_the_end(step, left):
    line = status_line(step, Status(500, "steps", 2.0, left, {}))
    assert line == f"[{step:>9,}] {step // 5}% of 500  2 steps/s"


def test_durations_in_words():
    seconds = [0.4, 59, 61, 3599, 3660, 86_399, 90_000]
    words = ["0 s", "59 s", "1 min 01 s", "59 min 59 s", "1 h 01 min", "23 h 59 min", "1 d 01 h"]
    assert list(map(duration, seconds)) == words


def test_the_pace_is_that_since_its_start():
    clock = Clock()
    pace = Pace(1000, clock)
    assert pace.left(0) is None
    clock.now += 500  # the beginning does not count
    pace.start(100)
    assert pace.left(100) is None
    clock.now += 10
    assert pace.left(200) == 80
    pace.start(200)  # only the first one
    clock.now += 50
    assert pace.left(400) == 120
    assert pace.left(1001) == 0


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("screen", "lines"), [(io.StringIO(), 1), (Terminal(), 0)])
def test_a_log_has_the_line_and_a_terminal_its_bar(screen, lines):
    with Logger([TerminalSink(screen)], step=40) as logger:
        logger.status(Status(100, "frames", 4.0, 15, {}))
    assert screen.getvalue().count("[       40] 40% of 100  4 frames/s  15 s left\n") == lines
