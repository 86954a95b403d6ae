"""Logger: what it gathers, what a failing sink may do to a run, and the meters."""

import numpy as np
import pytest

from logger import Logger, MeanMeter, Rate, read_metrics
from logger.jsonl import JSONLSink
from logger.sink import Sink
from tests.logger.clock import Clock


def test_pictures_of_a_wrong_kind_are_refused_and_nans_are_black(tmp_path):
    logger = Logger([])
    with pytest.raises(ValueError, match=r"video 'v' is \[2, 3, 4\]"):
        logger.video("v", np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"image 'i' is \[4, 4, 1\]"):
        logger.image("i", np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(ValueError, match="'i' is int64"):
        logger.image("i", np.zeros((4, 4, 3), np.int64))
    caught = Catcher()
    with np.errstate(invalid="raise"), Logger([caught]) as logger:
        logger.image("i", np.array([[[np.nan, 0.5, 2.0]]]))
    assert caught.records[0][1].images["i"].tolist() == [[[0, 128, 255]]]


def test_pictures_are_copied_so_that_callers_may_reuse_buffers():
    caught, buffer = Catcher(), np.zeros((2, 2, 3), np.uint8)
    with Logger([caught]) as logger:
        logger.image("i", buffer)
        buffer[:] = 9
    assert not caught.records[0][1].images["i"].any()


@pytest.mark.parametrize("name", ["step", "time", "nonfinite", "event"])
def test_names_of_the_log_itself_are_refused(name):
    logger = Logger([])
    with pytest.raises(ValueError, match=name):
        logger.scalar(name, 1)
    with pytest.raises(ValueError, match=name):
        logger.event("eval", **{name: 1})


# Sinks that fail


class Catcher(Sink):
    def __init__(self):
        self.records, self.events = [], []

    def write(self, step, record):
        self.records.append((step, record))

    def event(self, step, event, fields):
        self.events.append((step, event, fields))


class Failing(Catcher):
    name = "fragile"

    def __init__(self, where, required=False):
        super().__init__()
        self.where, self.required = where, required

    def __getattribute__(self, name):
        if name in ("open", "write", "flush", "close") and name == self.where:
            raise OSError("no\nspace")
        return super().__getattribute__(name)


@pytest.mark.parametrize("where", ["open", "write", "flush", "close"])
def test_failing_sink_is_switched_off_with_one_warning(tmp_path, where, capsys):
    fragile, other = Failing(where), Catcher()
    with Logger([fragile, other, JSONLSink(tmp_path / "m")]) as logger:
        for step in (1, 2):
            logger.scalar("a", step)
            logger.write(step, flush=True)
    assert [step for step, _ in other.records] == [1, 2]
    warnings = [row for row in read_metrics(tmp_path / "m") if row.get("event") == "warning"]
    [warning] = warnings
    assert f"fragile failed in {where} and is off" in warning["message"]
    assert "OSError: no space" in warning["message"]
    assert [event for _, event, _ in other.events] == ["warning"]
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert len(fragile.records) == {"open": 0, "write": 0, "flush": 1, "close": 2}[where]


def test_failure_of_the_truth_stops_the_run(tmp_path):
    with pytest.raises(OSError, match="space"):
        Logger([Failing("open", required=True)])
    logger = Logger([Failing("write", required=True)])
    logger.scalar("a", 1)
    with pytest.raises(OSError, match="space"):
        logger.write()


def test_the_size_is_that_of_the_file_once_it_is_flushed(tmp_path):
    path = tmp_path / "m"
    assert Logger([Catcher()]).size == 0
    with Logger([Catcher(), JSONLSink(path)]) as logger:
        assert logger.size == 0
        logger.scalar("å", 1)
        logger.write(1, flush=True)
        before = logger.size
        assert before == len(path.read_bytes()) > 0
    assert logger.size == 0
    with Logger([JSONLSink(path, before)]) as logger:
        assert logger.size == before


# Meters


class Lazy:
    """A number that counts how often it is looked at."""

    looked = 0

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        return Lazy(self.value + getattr(other, "value", other))

    __radd__ = __add__

    def __float__(self):
        Lazy.looked += 1
        return float(self.value)


def test_mean_meter_looks_at_values_only_when_flushed():
    meter = MeanMeter()
    assert meter.flush() == {}
    for value in (1, 2, 6):
        meter.add({"a": Lazy(value)})
    meter.add({"b": 5})
    assert Lazy.looked == 0
    assert meter.flush() == {"a": 3.0, "b": 5.0}
    assert Lazy.looked == 1
    assert meter.flush() == {}


def test_mean_meter_survives_values_that_are_overwritten_in_place():
    meter, value = MeanMeter(), np.array(1.0)
    meter.add({"a": value})
    value[...] = 3
    meter.add({"a": value})
    assert meter.flush() == {"a": 2.0}


def test_rate_counts_per_second_between_calls():
    clock = Clock()
    rate = Rate(1000, clock)
    clock.now += 2
    assert rate(1100) == 50
    clock.now += 0.5
    assert rate(1101) == 2
    assert rate(1200) == 0
