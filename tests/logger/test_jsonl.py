"""The JSONL log: what a line holds, what a restart cuts off, and which files are no log."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from logger import Logger, read_metrics
from logger.jsonl import JSONLSink
from tests.logger.clock import Clock

LINE = '{"step": 1, "time": 0.5}\n'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def discarded(path):
    return path.with_name("metrics.discarded.jsonl").read_text()


def log(path, values, kept=0, clock=None):
    """Logs (step, value) pairs behind what is kept; the size after each of them."""
    sizes = []
    with Logger([JSONLSink(path, kept, **({"clock": clock} if clock else {}))]) as logger:
        for step, value in values:
            logger.scalar("a", value)
            logger.write(step, flush=True)
            sizes.append(logger.size)
    return sizes


def logged(path):
    """What is read of each line; what knows nothing of this log reads the same."""
    rows = read_metrics(path)
    assert rows == [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["step"], row["a"]) for row in rows]


def test_one_line_per_write_with_step_time_and_scalars(path):
    clock = Clock()
    with Logger([JSONLSink(path, clock=clock)], step=4) as logger:
        logger.scalar("a", np.float32(0.5))
        logger.scalars({"b": 2, "c": np.array(3)}, prefix="eval_")
        clock.now += 1.25
        logger.write()
        assert len(path.read_text().splitlines()) == 1  # at once, not when the file is closed
        logger.write()  # nothing gathered, nothing written
        logger.scalar("a", 1)  # written by close
    expected = [{"step": 4, "time": 1.25, "a": 0.5, "eval_b": 2.0, "eval_c": 3.0}]
    expected += [{"step": 4, "time": 1.25, "a": 1.0}]
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected
    assert read_metrics(path) == read_metrics(str(path)) == expected


def test_non_finite_numbers_stay_valid_json(path):
    with Logger([JSONLSink(path)]) as logger:
        logger.scalars({"x": float("nan"), "y": -np.inf, "z": 1})
        logger.write()
        logger.event("eval", returns=[1.0, float("nan")], mean=np.float32("inf"), ok=np.bool_(True))

    def refuse(constant):
        raise AssertionError(constant)

    first, second = (json.loads(x, parse_constant=refuse) for x in path.read_text().splitlines())
    assert (first["x"], first["y"], first["z"], first["nonfinite"]) == (None, None, 1, ["x", "y"])
    assert (second["event"], second["returns"], second["ok"]) == ("eval", [1.0, None], True)
    assert (second["mean"], second["nonfinite"]) == (None, ["returns", "mean"])


# Restarts


def test_a_restart_cuts_off_what_came_after_its_checkpoint_and_keeps_it_beside(path):
    first, _ = log(path, [(10, 1), (20, 1)])  # the checkpoint of 20 is written before its row
    log(path, [(20, 2), (30, 2)], first)  # killed
    assert logged(path) == [(10, 1), (20, 2), (30, 2)]
    second, _ = log(path, [(20, 3), (30, 3)], first)
    log(path, [(30, 4)], second)
    assert logged(path) == [(10, 1), (20, 3), (30, 4)]
    log(path, [], first)  # back to the older one
    assert logged(path) == [(10, 1)]
    log(path, [(10, 5)])  # stopped before its first checkpoint
    assert logged(path) == [(10, 5)]
    cut = [(20, 1), (20, 2), (30, 2), (30, 3), (20, 3), (30, 4), (10, 1)]
    assert logged(path.with_name("metrics.discarded.jsonl")) == cut


def test_time_goes_on_from_the_last_row_that_is_kept(path):
    clock = Clock()
    path.parent.mkdir()
    path.write_text('{"step": 1, "time": 10.0, "a": 1}\n{"step": 1, "time": 90.0, "a": 1}\n')
    clock.now += 1000
    with Logger([JSONLSink(path, 35, clock)]) as logger:
        clock.now += 5
        logger.scalar("a", 5)
        logger.write(2)
    assert [row["time"] for row in read_metrics(path)] == [10, 15]
    path.write_text('{"step": 1}\n')  # one without times
    log(path, [(2, 1)], 12, clock)
    assert [row.get("time") for row in read_metrics(path)] == [None, 0]


@pytest.mark.parametrize("torn", [b"", b'{"step": 2, "ti', b'{"step": 2, "event": "\xce', b"\0\0"])
def test_a_torn_end_is_cut_off_whole(path, torn):
    path.parent.mkdir()
    path.write_bytes(LINE.encode() + torn)
    log(path, [(2, 7)], kept=len(LINE))
    assert path.read_text().startswith(LINE)
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    kept = path.with_name("metrics.discarded.jsonl")
    assert (kept.read_bytes() if kept.exists() else b"") == torn


@pytest.mark.parametrize("kept", [len(LINE) + 5, 10_000])
def test_the_size_of_another_file_breaks_no_line(path, kept):
    path.parent.mkdir()
    path.write_text(LINE + LINE + LINE[:9])  # edited, or moved away and begun anew
    log(path, [(3, 1)], kept)
    assert [row["step"] for row in read_metrics(path)][-1] == 3
    assert (path.read_text() + discarded(path)).count(LINE) == 2
    assert LINE[:9] in discarded(path).splitlines()


@pytest.mark.parametrize("moment", ["open", "fsync", "truncate"])
def test_a_kill_between_any_two_steps_loses_nothing(path, monkeypatch, moment):
    first, _ = log(path, [(1, 1), (2, 2)])
    content, tail = path.read_text(), path.read_text()[first:]

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "open":
            patch.setattr(Path, "open", killed)
        else:
            patch.setattr(os, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            JSONLSink(path, first).open()
    assert path.read_text() == content
    if moment == "truncate":
        beside = path.with_name("metrics.discarded.jsonl")
        beside.write_text(discarded(path)[:-3])  # only some of it had reached the disk
    log(path, [(2, 3)], first)
    assert logged(path) == [(1, 1), (2, 3)]
    assert discarded(path).endswith("\n" + tail if moment == "truncate" else tail)


# Files that are no log


@pytest.mark.parametrize(
    "last", ['{"step": 2, "ti', '{"a": 1', "{", '"step": 2', "\0\0", '{"step": "2"}', "{}"]
)
def test_a_line_cut_short_is_read_over_at_the_very_end_alone(path, last):
    path.parent.mkdir()
    path.write_text(LINE + last)
    assert [row["step"] for row in read_metrics(path)] == [1]
    for rest in ("\n", "\n" + LINE):
        path.write_text(LINE + last + rest)
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: no line of a log"):
            read_metrics(path)


@pytest.mark.parametrize(
    "line",
    [
        *(b'{"step": "3"}', b'{"step": NaN}', b'{"step": 1, "time": "x"}', b"[" * 100_000, b"\xff"),
        *(b'{"step": true}', b'{"step": ' + b"9" * 400 + b"}", b"[1]", b"hello", b'{"time": 1}'),
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_log_with_another_line_is_refused_and_left_alone(path, line):
    path.parent.mkdir()
    content = LINE.encode() + line + b"\n" + LINE.encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: no line of a log"):
        read_metrics(path)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: no line of a log"):
        JSONLSink(path, len(content) - 5).open()
    assert path.read_bytes() == content
    log(path, [(1, 1)])  # beginning anew, it counts for nothing
    assert logged(path) == [(1, 1)]
    assert path.with_name("metrics.discarded.jsonl").read_bytes() == content


def test_a_last_line_without_its_end_counts(path):
    path.parent.mkdir()
    path.write_text(LINE + LINE.strip())
    assert [row["step"] for row in read_metrics(path)] == [1, 1]
