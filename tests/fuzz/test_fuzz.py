"""A slice of the fuzzing, from the same seed each time, and that it would find what is wrong."""

import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz import guard
from tests.fuzz.guard import Wrong, bounded, guarded
from tests.fuzz.harness import Harness, Target, examine, scratch
from tests.fuzz.pickles import PICKLES
from tests.fuzz.targets import TARGETS, divided

INPUTS = {"saved": 20, "predictors": 8, "folders": 20, "videos": 20, "flags": 30}
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_read_is_refused_in_one_line_or_right(tmp_path, name):
    with scratch() as folder:
        harness = Harness(folder / "desk", tmp_path / "kept")
        examine(harness, TARGETS[name], INPUTS.get(name, 60))
    assert harness.count >= INPUTS.get(name, 60) // 2
    assert [finding.reason for finding in harness.findings.values()] == []


def _call_system(given, made):
    os.system("true")


def _start_a_program(given, made):
    subprocess.run(["true"])


def _load_a_pickle(given, made):
    pickle.loads(PICKLES[0])


def _write_elsewhere(given, made):
    (given.parents[2] / "elsewhere").write_text("x")


def _remove_elsewhere(given, made):
    os.remove(ROOT / "README.md")


def _hide_it(given, made):
    try:
        os.system("true")
    except Exception:
        return


def _hang(given, made):
    while True:
        try:
            time.sleep(60)
        except Exception:
            continue


def _take_memory(given, made):
    bytearray(1 << 40)


def _raise(given, made):
    raise KeyError((given / "a").read_bytes()[:1])


def _print(given, made):
    os.write(2, b"[mov] moov atom not found\n")


WRONG = {
    _call_system: "os.system",
    _start_a_program: "subprocess.Popen",
    _load_a_pickle: "find_class",
    _write_elsewhere: "open .*elsewhere",
    _remove_elsewhere: "os.remove .*README",
    _hide_it: "os.system",
    _hang: "too long",
    _take_memory: "MemoryError",
    _raise: "KeyError",
    _print: "printed .*moov",
}


@pytest.mark.parametrize("judge", WRONG)
def test_what_goes_wrong_is_found_and_its_input_kept(tmp_path, judge):
    target = Target("planted", 1, st.just({"a": b"input"}), judge, silent=True)
    with scratch() as folder:
        seconds = 0.3 if judge is _hang else guard.SECONDS
        harness = Harness(folder / "desk", tmp_path / "kept", seconds)
        examine(harness, target, 5)
    [finding] = harness.findings.values()
    assert re.search(WRONG[judge], finding.reason), finding.reason
    assert (finding.folder / "a").read_bytes() == b"input"
    assert "Traceback" in (finding.folder / "reason.txt").read_text()
    assert not (tmp_path / "elsewhere").exists()
    assert (ROOT / "README.md").is_file()


def test_what_an_input_may_do_is_no_finding(tmp_path):
    with guarded(tmp_path), bounded():
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").rename(tmp_path / "b")
        (tmp_path / "b").unlink()
        assert Path(__file__).read_bytes()


def test_memory_that_is_taken_is_noticed(tmp_path, monkeypatch):
    peaks = iter([1 << 30, (1 << 30) + guard.GROWTH + (1 << 20), 2 << 30])
    monkeypatch.setattr(guard, "_peak", lambda: next(peaks))
    with pytest.raises(Wrong, match="memory: the peak grew"), guarded(tmp_path):
        pass


def test_every_target_gets_its_share():
    shares = divided(1000)
    assert set(shares) == set(TARGETS)
    assert sum(shares.values()) >= 1000
    assert divided(10, ("logs",)) == {"logs": 10}


def test_command_line_prints_a_table_and_keeps_what_it_finds(tmp_path):
    words = [sys.executable, "-m", "tests.fuzz", "--findings", str(tmp_path), "--processes", "1"]
    words += ["--only", "schedules", "--inputs", "30"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "| schedules | 30 |" in done.stdout
    assert list(tmp_path.iterdir()) == []
