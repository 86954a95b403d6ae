"""The journal: which lines of a log count after restarts and kills, and which logs are refused."""

import pytest

from logger import Logger, make_sinks, read_metrics
from logger.jsonl import JSONLSink
from tests.logger.logs import Clock, steps

# Restarts


class Listening:
    """A file that keeps what it is told to write."""

    def __init__(self, file):
        self._file, self.writes = file, []

    def write(self, text):
        self.writes.append(text)
        return self._file.write(text)

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_one_write_ends_a_torn_line_and_marks_the_restart(tmp_path, monkeypatch):
    path, opened, open_file = tmp_path / "m", [], type(tmp_path).open

    def open_and_listen(path, mode="r", *args, **kwargs):
        file = open_file(path, mode, *args, **kwargs)
        if mode != "a":
            return file
        opened.append(Listening(file))
        return opened[-1]

    path.write_bytes(b'{"step": 1, "time": 0}\n{"step": 2, "ti')
    monkeypatch.setattr(type(tmp_path), "open", open_and_listen)
    with Logger([JSONLSink(path, resume_step=1)]):
        assert [file.writes for file in opened] == [['\n{"resumed_from": 1}\n']]


def test_a_run_goes_on_wherever_a_restart_was_killed(tmp_path):
    path, torn = tmp_path / "m", b'{"step": 1, "time": 0}\n{"step": 2, "ti'
    path.write_bytes(torn)
    with Logger([JSONLSink(path, resume_step=1, resume_bytes=23)]) as logger:
        logger.event("resume")
    whole = path.read_bytes()
    for cut in range(len(torn), len(whole)):
        path.write_bytes(whole[:cut])
        assert steps(path)[:1] == [1]
        with Logger([JSONLSink(path, resume_step=1, resume_bytes=23)], step=1) as logger:
            logger.scalar("a", cut)
        [first, *_, last] = read_metrics(path)
        assert (first, last["a"]) == ({"step": 1, "time": 0}, cut)
        assert all("event" in row for row in read_metrics(path)[1:-1])


def test_what_was_logged_twice_at_the_step_of_the_checkpoint_counts_once(tmp_path):
    path = tmp_path / "metrics.jsonl"

    def start(resume_step, size, *rows):
        sinks = make_sinks(
            tmp_path, resume_step=resume_step, resume_bytes=size, tensorboard=False, terminal=False
        )
        sizes = []
        with Logger(sinks) as logger:
            for step, value in rows:
                logger.scalar("a", value)
                logger.write(step, flush=True)
                sizes.append(logger.size)
        return sizes

    def values():
        return [(row["step"], row["a"]) for row in read_metrics(path)]

    first, _ = start(None, None, (10, 1), (20, 1))  # the checkpoint of 20 is written before its row
    start(20, first, (20, 2), (30, 2))  # killed
    assert values() == [(10, 1), (20, 2), (30, 2)]
    second, _ = start(20, first, (20, 3), (30, 3))  # another checkpoint, within 30
    start(30, second, (30, 4))
    assert values() == [(10, 1), (20, 3), (30, 4)]
    start(20, first)  # back to the older one
    assert values() == [(10, 1)]
    start(10, None, (20, 5), (30, 5))  # a checkpoint that does not know goes by the step
    assert values() == [(10, 1), (20, 5), (30, 5)]
    start(20, None)
    assert values() == [(10, 1), (20, 5)]
    start(-1, None, (10, 6))  # stopped before its first checkpoint
    assert values() == [(10, 6)]


def test_bytes_of_another_file_drop_nothing_that_came_before(tmp_path):
    path = tmp_path / "m"
    rows = [f'{{"step": {step}, "time": 0.5}}\n' for step in (1, 2)]
    path.write_text("".join(rows))
    for _ in range(2):  # shortened, or moved away and begun anew
        with Logger([JSONLSink(path, resume_step=2, resume_bytes=10_000)]) as logger:
            assert steps(path) == [1, 2]
            logger.scalar("a", 1)
            logger.write(3)
        assert steps(path) == [1, 2, 3]


def test_time_goes_on_from_the_last_row_that_counts(tmp_path):
    path, clock, sizes = tmp_path / "m", Clock(), []
    with Logger([JSONLSink(path, clock=clock)]) as logger:
        for passed in (10, 90):
            clock.now += passed
            logger.scalar("a", passed)
            logger.write(1, flush=True)
            sizes.append(logger.size)
    with Logger([JSONLSink(path, 1, clock, resume_bytes=sizes[0])]) as logger:
        clock.now += 5
        logger.scalar("a", 5)
        logger.write(2)
    assert [row["time"] for row in read_metrics(path)] == [10, 15]


# Lines


@pytest.mark.parametrize("value", ["null", '"9"', "true", "NaN", "1e400", "[1]"])
def test_bytes_of_a_marker_are_a_number_and_those_of_a_row_anything(tmp_path, value):
    path = tmp_path / "m"
    path.write_text('{"step": 1, "bytes": null}\n')
    assert steps(path) == [1]
    path.write_text(f'{{"resumed_from": 1, "bytes": {value}}}\n')
    with pytest.raises(ValueError, match="m, line 1: no line of a log"):
        read_metrics(path)


@pytest.mark.parametrize("last", ["{", '{"resu', '{"step": 2, "ti', '{"resumed_from": 1, "by'])
def test_a_line_cut_short_is_read_over_at_the_end_alone(tmp_path, last):
    path = tmp_path / "m"
    path.write_text('{"step": 1}\n' + last + "\n")
    assert steps(path) == [1]
    path.write_text('{"step": 1}\n' + last + '\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2: no line of a log"):
        read_metrics(path)


@pytest.mark.parametrize("last", ['{"a": 1', '{"step": "2"}', '{"stop', '"step": 2', "\0\0", "{}"])
def test_a_last_line_of_another_kind_is_refused(tmp_path, last):
    (tmp_path / "m").write_text('{"step": 1}\n' + last + "\n")
    with pytest.raises(ValueError, match="line 2: no line of a log"):
        read_metrics(tmp_path / "m")


@pytest.mark.parametrize("content", ['{"step": 1}\n{"st\n{"step": 2}\n', "hello\n", "[1]\n"])
def test_a_damaged_log_is_refused_by_line(tmp_path, content):
    (tmp_path / "m").write_text(content)
    with pytest.raises(ValueError, match=r"m, line \d"):
        read_metrics(tmp_path / "m")


def test_two_kills_within_their_lines_are_read_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "time": 0}\n{"step": 2, "ti')
    for cut in (8, None):
        sink = JSONLSink(path, resume_step=1)
        sink.open()
        sink.close()
        if cut:
            path.write_bytes(path.read_bytes()[:-cut])
    assert [row["step"] for row in read_metrics(path)] == [1]
    path.write_bytes(b'{"step": 1, "ti\nxx\n{"step": 2, "time": 0}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_metrics(path)


def test_what_happened_once_outlives_a_restart_within_its_step(tmp_path):
    path = tmp_path / "m"
    before = '{"step": 20, "time": 1, "a": 1}\n'
    told = [f'{{"step": 20, "time": 1, "event": "{name}"}}\n' for name in ("resume", "warning")]
    row = '{"step": 20, "time": 2, "a": 2}\n'
    marker = f'{{"resumed_from": 20, "bytes": {len(before)}}}\n'
    path.write_text(before + marker + "".join(told) + row + marker + row)
    rows = read_metrics(path)
    assert [row.get("event") for row in rows] == [None, "resume", "warning", None]
    assert [row["a"] for row in rows if "a" in row] == [1, 2]
