"""Environments that fail are made anew, and nothing shows of it but a note."""

import functools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from envs import EnvError, VectorEnv
from envs.recovery import in_a_line, steps_of, used_up
from tests.envs.crashing import crashing, once_built, processes, real, toy

SEEDS = [11, 12]
KINDS = ("none", "process")
GONE = "env 1 is gone: its worker ended with signal SIGKILL"
GAVE_UP = "env 1 failed in step: ValueError: the simulator gave up"


def actions_for(k, seed=0):
    """k batches of random actions [k, 2, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (k, 2, 1)).astype(np.float32)


ACTIONS = actions_for(10)


def episode(vector, seeds=SEEDS, variation="train", step=None):
    """The frames and results of a whole episode; ``step(t, action)`` steps, if given."""
    step = step or (lambda t, action: vector.step(action))
    first = vector.reset(seeds=seeds, variation=variation)
    return first, [step(t, action) for t, action in enumerate(ACTIONS, 1)]


def assert_rows(found, expected, row=slice(None)):
    """Asserts that environments showed the same, bit for bit."""
    np.testing.assert_array_equal(found[0][row], expected[0][row])
    assert len(found[1]) == len(expected[1])
    for one, other in zip(found[1], expected[1], strict=True):
        for name, value in one._asdict().items():
            np.testing.assert_array_equal(value[row], getattr(other, name)[row], err_msg=name)


@pytest.fixture(scope="module")
def undisturbed():
    """Episodes of both kinds of environments in which nothing fails."""
    found = {}
    for make, variations in ((real, ["train"]), (toy, ["train", "test"])):
        with VectorEnv([functools.partial(make, i) for i in range(2)], workers="none") as vector:
            found[make] = {name: episode(vector, variation=name) for name in variations}
    images = [result.image for result in found[real]["train"][1]]
    assert (images[0] != images[-1]).any()
    return found


@pytest.fixture
def vector_of(tmp_path):
    """Makes two environments of which the second fails, and closes them."""
    made = []

    def build(make, workers, moment, how="raise", times=1, restarts=10):
        plan = {"moment": moment, "how": how, "ledger": tmp_path / "ledger", "times": times}
        second = functools.partial(crashing, 1, make, **plan)
        made.append(VectorEnv([functools.partial(make, 0), second], workers=workers))
        made[-1].restarts = restarts
        return made[-1]

    yield build
    for vector in made:
        vector.close()


def note(reason, steps, dropped=False):
    return {"env": 1, "reason": reason, "steps": steps, "dropped": dropped}


# Once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "how", "reason"), [("none", "raise", GAVE_UP), ("process", "kill", GONE)]
)
def test_a_simulator_goes_on_bit_for_bit(undisturbed, vector_of, workers, how, reason):
    vector = vector_of(real, workers, (12, 5), how)
    assert_rows(episode(vector), undisturbed[real]["train"])
    assert vector.restarted == 1
    assert vector.take_notes() == [note(reason, 4)]
    assert vector.take_notes() == []
    assert_rows(episode(vector), undisturbed[real]["train"])
    assert vector.restarted == 1


@pytest.mark.parametrize(
    ("workers", "how", "t", "reason"),
    [
        ("none", "raise", 1, GAVE_UP),
        ("none", "raise", 10, GAVE_UP),
        ("none", "nan", 2, "env 1 failed in step: its reward is nan"),
        ("none", "inf", 2, "env 1 failed in step: its reward is inf"),
        ("process", "raise", 1, GAVE_UP),
        ("process", "nan", 2, "env 1 failed in step: its reward is nan"),
        ("process", "leave", 10, "env 1 is gone: its worker ended with exit code 3"),
        ("process", "partial", 2, GONE),
    ],
)
def test_whenever_and_however_it_fails(undisturbed, vector_of, workers, how, t, reason):
    vector = vector_of(toy, workers, (12, t), how)
    assert_rows(episode(vector), undisturbed[toy]["train"])
    assert vector.take_notes() == [note(reason, t - 1)]


@pytest.mark.parametrize(
    ("workers", "variation"), [("none", "train"), ("none", "test"), ("process", "test")]
)
def test_failures_in_reset(undisturbed, vector_of, workers, variation):
    vector = vector_of(toy, workers, (12, 0))
    assert_rows(episode(vector, variation=variation), undisturbed[toy][variation])
    assert vector.take_notes() == [note(GAVE_UP.replace("step", "reset"), 0)]
    assert not vector.lost.any()


@pytest.mark.parametrize("workers", KINDS)
def test_the_variation_outlives_its_environment(undisturbed, vector_of, workers):
    vector = vector_of(toy, workers, (12, 3))
    assert_rows(episode(vector, variation="test"), undisturbed[toy]["test"])
    assert vector.restarted == 1
    assert_rows(episode(vector, variation=None), undisturbed[toy]["test"])


@pytest.mark.parametrize("when", ["before", "under way", "unread"])
def test_a_worker_killed_from_outside(undisturbed, when):
    """While it waits, while it steps, and while it has not even read what to do."""
    with VectorEnv([functools.partial(toy, i) for i in range(2)], workers="process") as vector:
        vector.restarts = 1
        healthy, doomed = (process.pid for process in processes(vector))

        def step(t, action):
            if t == 4 and when == "before":
                os.kill(doomed, signal.SIGKILL)
                processes(vector)[1].join()
            if t == 4 and when == "unread":
                os.kill(doomed, signal.SIGSTOP)
            vector.step_async(action)
            if t == 4 and when != "before":
                os.kill(doomed, signal.SIGKILL)
            return vector.step_wait()

        assert_rows(episode(vector, step=step), undisturbed[toy]["train"])
        # A worker that had answered before the kill is missed a step later.
        late = [note(GONE, 4)] if when == "under way" else []
        assert vector.take_notes()[0] in [note(GONE, 3), *late]
        assert vector.restarted == 1
        assert processes(vector)[0].pid == healthy
        assert not Path(f"/proc/{doomed}").exists()  # not even as a zombie


def test_all_of_them_and_twice_in_an_episode(undisturbed):
    with VectorEnv([functools.partial(toy, i) for i in range(2)], workers="process") as vector:
        vector.restarts = 4

        def step(t, action):
            vector.step_async(action)
            for i in (0, 1) if t in (3, 6) else ():
                os.kill(processes(vector)[i].pid, signal.SIGKILL)
            return vector.step_wait()

        assert_rows(episode(vector, step=step), undisturbed[toy]["train"])
        notes = [(entry["env"], entry["steps"]) for entry in vector.take_notes()]
        # A worker that had answered before the kill is missed a step later.
        assert sorted(i for i, _ in notes) == [0, 0, 1, 1]
        for i in (0, 1):
            first, second = (steps for j, steps in notes if j == i)
            assert (first in (2, 3), second in (5, 6)) == (True, True)


def interrupted(k):
    """Both episodes after k steps."""
    pairs = zip(SEEDS, ACTIONS[:k].swapaxes(0, 1), strict=True)
    return [{"seed": seed, "variation": "train", "actions": actions} for seed, actions in pairs]


@pytest.mark.parametrize("workers", KINDS)
def test_a_failure_while_an_interrupted_episode_is_taken_up(undisturbed, vector_of, workers):
    vector = vector_of(toy, workers, (12, -3))
    expected = undisturbed[toy]["train"][1]
    np.testing.assert_array_equal(vector.restore(interrupted(3)), expected[2].image)
    results = [vector.step(action) for action in ACTIONS[3:]]
    assert_rows(([0], results), ([0], expected[3:]))
    assert vector.take_notes() == [note(GAVE_UP.replace("step", "reset"), 3)]


# Again and again


def assert_broken(result, expected):
    """Asserts that the second environment broke, and that nothing happened to the first."""
    assert_rows(([0], [result]), ([0], [expected]), slice(0, 1))
    assert result.broken.tolist() == [False, True]
    facts = result.reward, result.terminated, result.truncated, result.discount
    assert [fact[1] for fact in facts] == [0, False, False, 1]
    assert np.isnan([result.success[1], result.distance[1]]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "workers", "how"),
    [(toy, "none", "nan"), (real, "none", "raise"), (toy, "process", "kill")],
)
def test_an_episode_that_fails_twice_is_lost_and_no_other(
    undisturbed, vector_of, make, workers, how
):
    vector = vector_of(make, workers, (12, 4), how, times=99)
    expected = undisturbed[make]["train"]
    first = vector.reset(seeds=SEEDS, variation="train")
    results = [vector.step(action) for action in ACTIONS[:3]]
    assert_rows((first, results), (expected[0], expected[1][:3]))
    assert_broken(vector.step(ACTIONS[3]), expected[1][3])
    assert vector.restarted == 2
    assert [(entry["steps"], entry["dropped"]) for entry in vector.take_notes()] == [
        (3, False),
        (3, True),
    ]
    with pytest.raises(RuntimeError, match="env 1: the episode has ended"):
        vector.step(ACTIONS[4])
    vector.reset([False, True], [None, 5])
    after = [vector.step(action) for action in ACTIONS[4:]]
    assert_rows(([0], after), ([0], expected[1][4:]), slice(0, 1))
    assert not any(result.broken.any() for result in after)
    assert vector.restarted == 2


@pytest.mark.parametrize(("workers", "k"), [("none", 0), ("none", 3), ("process", 3)])
def test_an_episode_that_cannot_begin_or_go_on_is_lost(undisturbed, vector_of, workers, k):
    vector = vector_of(toy, workers, (12, -k), times=99)
    expected = undisturbed[toy]["train"][1]
    vector.restore(interrupted(k))
    assert vector.lost.tolist() == [False, True]
    assert_broken(vector.step(ACTIONS[k]), expected[k])
    assert vector.restarted == 2
    vector.reset([False, True], [None, 5])
    assert not vector.lost.any()
    assert vector.step(ACTIONS[k + 1]).broken.tolist() == [False, False]


def test_recorded_actions_that_do_not_fit_are_tried_twice(vector_of):
    vector = vector_of(toy, "none", (None, 0), times=0)
    long = {"seed": 12, "variation": "train", "actions": np.zeros((11, 1))}
    vector.restore([interrupted(2)[0], long])
    assert vector.lost.tolist() == [False, True]
    assert "ends at action 10 of the 11 recorded" in vector.take_notes()[-1]["reason"]


def test_an_episode_without_a_seed_cannot_be_taken_up(vector_of):
    vector = vector_of(toy, "none", (None, 3))
    vector.reset()
    results = [vector.step(action) for action in ACTIONS[:3]]
    assert [result.broken.tolist() for result in results[1:]] == [[False, False], [False, True]]
    assert "reset without a seed" in vector.take_notes()[-1]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("t", "steps"), [(0, 0), (4, 3)])
def test_a_worker_that_hangs_is_ended_and_its_episode_taken_up(undisturbed, vector_of, t, steps):
    vector = vector_of(toy, "process", (12, t), "hang")
    vector._envs.timeout = 3  # from here on: how long a process takes to start is another matter
    assert_rows(episode(vector), undisturbed[toy]["train"])
    assert not any(entry["dropped"] for entry in vector.notes)
    reason = "env 1 is gone: it gave no answer for 3 s (--env_timeout)"
    assert note(reason, steps) in vector.take_notes()


@pytest.mark.slow
def test_workers_that_hang_together_are_waited_for_together(tmp_path):
    plans = [{"moment": (11 + i, 2), "how": "hang", "ledger": tmp_path / str(i)} for i in range(3)]
    factories = [
        functools.partial(crashing, i, toy, **plan, times=1) for i, plan in enumerate(plans)
    ]
    with VectorEnv(factories, workers="process") as vector:
        vector.restarts = 10
        vector.reset(seeds=[11, 12, 13])
        vector.step(np.zeros((3, 1)))
        vector._envs.timeout = 4
        before = vector._envs._waited
        vector.step(np.zeros((3, 1)))
        assert vector.restarted >= 3
        assert vector._envs._waited - before < 3 * 4
        for i in range(3):
            assert (tmp_path / str(i)).stat().st_size == 1


def test_errors_in_a_line():
    assert in_a_line(EnvError("env 0 is gone")) == "env 0 is gone"
    trace = EnvError("env 0 failed in step:\nTraceback\nValueError: no")
    assert in_a_line(trace) == "env 0 failed in step: ValueError: no"
    assert in_a_line(used_up(trace, 0)) == "env 0 failed in step: ValueError: no"
    told = "env 0 failed in step: ValueError: no; 2 restarts are used up (--env_restarts)"
    assert in_a_line(used_up(trace, 2)) == told
    assert in_a_line(used_up(EnvError(told), 1)) == f"{told}; 1 restart is used up (--env_restarts)"


# Used up


def test_without_restarts_the_first_failure_raises(vector_of):
    vector = vector_of(toy, "none", (12, 2), times=99, restarts=0)
    vector.reset(seeds=SEEDS)
    vector.step(ACTIONS[0])
    with pytest.raises(EnvError, match=r"(?s)^env 1 failed in step:\n.*Traceback.*gave up\n$"):
        vector.step(ACTIONS[1])
    assert (vector.restarted, vector.take_notes()) == (0, [])


@pytest.mark.parametrize(
    ("workers", "how", "restarts", "last"),
    [
        ("none", "raise", 1, f"{GAVE_UP}; 1 restart is used up (--env_restarts)"),
        ("process", "kill", 3, f"{GONE}; 3 restarts are used up (--env_restarts)"),
    ],
)
def test_restarts_are_used_up(vector_of, workers, how, restarts, last):
    vector = vector_of(toy, workers, (12, 2), how, times=99, restarts=restarts)

    def play():
        for _ in range(3):
            vector.reset(seeds=SEEDS)
            vector.step(ACTIONS[0])
            vector.step(ACTIONS[1])

    with pytest.raises(EnvError) as caught:
        play()
    lines = str(caught.value).splitlines()
    assert lines[-1] == last
    assert (len(lines) > 1) == (how == "raise")  # the traceback stays
    assert vector.restarted == restarts
    start = time.monotonic()
    vector.close()
    assert time.monotonic() - start < 30


NAN = np.array([[0], [np.nan]], np.float32)  # of which a toy's reward comes out as NaN


@pytest.mark.parametrize("workers", KINDS)
@pytest.mark.parametrize("times", [2, 99])
def test_one_that_cannot_be_built_is_tried_until_it_can(tmp_path, workers, times):
    second = functools.partial(once_built, 1, tmp_path / "ledger", times)
    with VectorEnv([functools.partial(toy, 0), second], workers=workers) as vector:
        vector.restarts = 4
        vector.reset(seeds=SEEDS)
        if times == 2:
            assert vector.step(NAN).broken.tolist() == [False, True]
            reasons = [entry["reason"] for entry in vector.take_notes()]
            unbuilt = "env 1 could not be built: OSError: no more memory"
            failed = "env 1 failed in step: its reward is nan"
            assert reasons == [failed, unbuilt, unbuilt, failed]
            vector.reset(seeds=SEEDS)
            assert not vector.step(ACTIONS[0]).broken.any()
        else:
            with pytest.raises(EnvError, match="no more memory; 4 restarts are used up"):
                vector.step(NAN)
            with pytest.raises(EnvError, match="env 1 is gone"):
                vector.reset(seeds=SEEDS)


def test_how_much_time_an_answer_may_take():
    replay = {"options": {"replay": {1: {"actions": np.zeros((7, 2))}}}}
    assert steps_of(1, "reset", replay) == 7
    assert steps_of(0, "reset", replay) == 0
    assert steps_of(1, "reset", {"options": {"variation": "train"}}) == 0
    assert steps_of(1, "step", np.zeros(2)) == 0


def test_a_worker_that_ends_by_a_signal_without_a_name():
    with VectorEnv([functools.partial(toy, 0)], workers="process") as vector:
        vector.reset(seeds=[1])
        os.kill(processes(vector)[0].pid, 40)
        with pytest.raises(EnvError, match=r"its worker ended with signal 40$"):
            vector.step(np.zeros((1, 1)))
