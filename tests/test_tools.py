"""Schedules, clocks, seeds, names, and files that are whole or not there."""

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tools
from tools import Every, UserError, derive_seed, is_zero, nearest, schedule

finite = st.floats(-1e3, 1e3, allow_subnormal=False)
counts = st.integers(1, 10**6)


@given(finite, finite, counts, st.floats(0, 2))
def test_linear_goes_from_a_to_b_and_stays(a, b, steps, share):
    value = schedule(f"linear({a!r},{b!r},{steps})")
    assert value(0) == pytest.approx(a)
    assert value(steps) == value(steps * 7) == b
    assert value(steps * share) == pytest.approx(a + (b - a) * min(share, 1), abs=1e-6)


@given(finite, counts, st.integers(0, 10**6))
def test_warmup_rises_from_0(value, steps, step):
    expected = value * min(step / steps, 1)
    assert schedule(f"warmup({steps},{value!r})")(step) == pytest.approx(expected, abs=1e-9)


@given(finite, finite, counts, st.integers(0, 20))
def test_exp_goes_half_of_the_way_every_halflife(a, b, halflife, times):
    value = schedule(f"exp({a!r},{b!r},{halflife})")
    assert value(times * halflife) == pytest.approx(b + (a - b) / 2**times, abs=1e-6)


@given(st.floats(1, 100), st.floats(1, 100), counts, st.floats(0, 2))
def test_horizon_is_a_discount_of_growing_reach(a, b, steps, share):
    reach = a + (b - a) * min(share, 1)
    value = schedule(f"horizon({a!r},{b!r},{steps})")(steps * share)
    assert value == pytest.approx(1 - 1 / reach, abs=1e-6)


@given(counts, st.integers(0, 2 * 10**6))
def test_delay_waits_and_then_counts_from_its_end(wait, step):
    inner = schedule("linear(0.1,0.01,45000)")
    value = schedule(f"delay({wait}, linear(0.1, 0.01, 45000))")(step)
    assert value == (inner(step - wait) if step >= wait else 0.0)


@given(finite, counts)
def test_numbers_are_constants(value, step):
    assert schedule(value)(step) == schedule(f" {value!r} ")(0) == value
    assert is_zero(value) == is_zero(repr(value)) == (value == 0)


def test_schedules_nest_and_have_no_steps_before_0():
    assert [schedule("delay(5,delay(3,2))")(s) for s in (4, 7, 8)] == [0, 0, 2]
    assert [schedule("linear(1,2,0)")(s) for s in (0, 1)] == [2, 2]
    assert schedule("linear(1,2,10)")(-5) == 1
    assert schedule("exp(1,0,10)")(-5) == 1
    assert schedule("1e-4")(0) == 1e-4
    assert schedule("linear(1e-1,.5,4e3)")(2e3) == pytest.approx(0.3)
    assert not is_zero("linear(0,1,10)")


@pytest.mark.parametrize(
    "text",
    [
        *("", "fast", "linear", "linear(1,2)", "linear(1,2,3,4)", "linear(1,2,x)", "linear(1,2,3"),
        *("delay(3)", "delay(x,1)", "delay(5,fast)", "cosine(1,2,3)", "1;2", "__import__('os')"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_line(text):
    with pytest.raises(UserError, match=r"is not a schedule: give a number or one of") as caught:
        schedule(text)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 50), st.lists(st.integers(0, 60), min_size=2, max_size=30), st.data())
def test_every_answers_once_and_goes_on_in_rhythm_after_a_resume(period, jumps, data):
    steps = [sum(jumps[: i + 1]) for i in range(len(jumps))]
    clock, answered = Every(period), -1
    expected = []
    for step in steps:
        expected.append(clock.take(step))
        assert expected[-1] == (step // period > answered)
        answered = step // period
        assert not clock.is_due(step)
    cut = data.draw(st.integers(0, len(steps)))
    first = Every(period)
    found = [first.take(step) for step in steps[:cut]]
    resumed = Every(period, first.last)
    assert found + [resumed.take(step) for step in steps[cut:]] == expected


def test_every_may_start_late_be_off_and_go_back():
    assert [Every(10, last=0).take(s) for s in (0, 9, 10)] == [False, False, True]
    assert not any(Every(0).take(s) for s in range(5))
    clock = Every(10)
    assert [clock.take(s) for s in (25, 5, 29, 30)] == [True, False, False, True]


def test_homes():
    assert tools.expand_path("~/runs", "logdir") == Path.home() / "runs"
    assert tools.expand_path("runs~", "logdir") == Path("runs~")
    with pytest.raises(UserError, match=r"^--logdir ~nobody-here/runs: its home is not known"):
        tools.expand_path("~nobody-here/runs", "logdir")


def test_derived_seeds_are_the_same_everywhere():
    seeds = [
        derive_seed(0),
        derive_seed(5, "a"),
        derive_seed(5, "a", 1),
        derive_seed(0, "train", 3),
        derive_seed(7, "eval", 0, 2),
    ]
    assert seeds == [1484405855, 836586293, 1365442385, 167145179, 1543975981]


def test_derived_seeds_differ_and_fit():
    seeds = {
        derive_seed(seed, split, i)
        for seed in range(5)
        for split in ("train", "eval")
        for i in range(200)
    }
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert abs(sum(seeds) / 2000 / 2**30 - 1) < 0.06
    assert derive_seed(0, "a", "b") != derive_seed(0, "b", "a")


def test_an_index_0_is_another_purpose():
    assert derive_seed(5, "eval") != derive_seed(5, "eval", 0)


@pytest.mark.parametrize("text", ["exp(1,0,0)", "horizon(0,10,100)", "delay(5,exp(1,0,0))"])
def test_schedules_that_divide_by_zero_are_refused(text):
    with pytest.raises(UserError):
        schedule(text)


def test_nearest():
    names = ["defaults", "metaworld", "dmc2gym", "Pusher"]
    assert nearest("metawolrd", names) == " (did you mean 'metaworld'?)"
    assert nearest("PUSHER", names) == " (did you mean 'Pusher'?)"
    assert nearest("xyz", names) == nearest("x", []) == ""
    assert nearest(1, [1, 2]) == " (did you mean '1'?)"


@pytest.mark.parametrize("size", [0, 5, (2 << 20) + 3])
def test_sha256_of_what_is_left_of_a_file(size):
    content = os.urandom(size)
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    assert tools.sha256(file) == hashlib.sha256(content).hexdigest()
