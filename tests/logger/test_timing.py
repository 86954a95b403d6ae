"""The stopwatch: every second has one name."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from logger.timing import Stopwatch
from tests.logger.clock import Clock


def test_the_innermost_name_has_the_second():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 1
    with watch("update"):
        clock.now += 2
        with watch("sample"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    with watch("env"):
        clock.now += 32
    assert watch.flush() == {"other": 17, "update": 10, "sample": 4, "env": 32}
    assert watch.flush() == {"other": 0}


def test_a_name_goes_on_over_a_flush_inside_it():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch("log"):
        clock.now += 3
        assert watch.flush() == {"other": 0, "log": 3}
        clock.now += 5
    assert watch.flush() == {"log": 5, "other": 0}


def test_an_exception_ends_a_name():
    clock = Clock()
    watch = Stopwatch(clock)
    with contextlib.suppress(KeyError), watch("env"):
        clock.now += 3
        raise KeyError
    clock.now += 5
    assert watch.flush() == {"other": 5, "env": 3}


@given(st.lists(st.tuples(st.sampled_from(["in", "out", "flush"]), st.integers(0, 9))))
def test_seconds_add_up_to_the_time_that_passed(moves):
    clock = Clock()
    watch, begun = Stopwatch(clock), clock.now
    opened, total = [], 0
    for number, (move, seconds) in enumerate(moves):
        clock.now += seconds
        if move == "in":
            opened.append(watch(f"name {number % 3}"))
            opened[-1].__enter__()
        elif move == "out" and opened:
            opened.pop().__exit__(None, None, None)
        elif move == "flush":
            total += sum(watch.flush().values())
    assert total + sum(watch.flush().values()) == clock.now - begun
