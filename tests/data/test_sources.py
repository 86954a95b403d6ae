"""Several sources in --pretrain_datasets_path: their names, their weights, runs that mix them."""

import numpy as np
import pytest

from data import sources
from data.sources import Named, names, split
from logger import read_metrics
from tests.helpers.runs import refusal
from training.stop import Stopped

FLAG = "pretrain_datasets_path"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder with things of odd names, in which the test works."""
    for name in ("a", "b", "c:0.3", "d,e", "f,g:h", "i:j"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


GIVEN = {  # what is given, and the sources that it names
    "a": [("a", None)],
    "a:0.3": [("a", None)],
    "a,b": [("a", None), ("b", None)],
    "a:3,b:1": [("a", 0.75), ("b", 0.25)],
    "a,b:0.3": [("a", None), ("b", 0.3)],
    "a,b:0.3,i:j:.2": [("a", None), ("b", 0.3), ("i:j", 0.2)],
    "a:0,b": [("b", None)],
    "a:0,b:5": [("b", None)],
    "c:0.3": [("c:0.3", None)],
    "c:0.3:1,a:1e0": [("c:0.3", 0.5), ("a", 0.5)],
    "d,e": [("d,e", None)],
    "d,e:0.2,a": [("d,e", 0.2), ("a", None)],
    "a,f,g:h,d,e:0.5": [("a", None), ("f,g:h", None), ("d,e", 0.5)],
    "hf:walker_walk": [("hf:walker_walk", None)],
    "hf:walker_walk:1,hf:finger_spin:3": [("hf:walker_walk", 0.25), ("hf:finger_spin", 0.75)],
    "a,hf:walker_walk": [("a", None), ("hf:walker_walk", None)],
    "nowhere": [("nowhere", None)],
    "nowhere:else": [("nowhere:else", None)],
}


@pytest.mark.parametrize(("given", "expected"), GIVEN.items(), ids=GIVEN)
def test_sources_and_shares(given, expected):
    found = split(given, FLAG)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, share), (_, other) in zip(found, expected, strict=True):
        assert share == pytest.approx(other) if other else share is None


REFUSED = {  # what is given, and a word of its refusal
    "a:-1": "'-1' is no weight of a",
    "a:x,b:1": "'x' is no weight of a",
    "a:nan,b:1": "'nan' is no weight",
    "a:inf,b:1": "'inf' is no weight",
    "a:,b": "'' is no weight",
    "hf:walker_walk:x": "'x' is no weight of hf:walker_walk",
    "a:0,b:0": "all weights are 0",
    "a:0": "all weights are 0",
    "a:1e308,b:1e308": "too large",
    "a,b:1": "leaves nothing to the sources without one",
    "a,,b": "nothing stands beside one of its commas",
    "a,": "nothing stands beside",
    "a," * 100: "more than 64 sources",
}


@pytest.mark.parametrize(("given", "word"), REFUSED.items(), ids=[k[:20] for k in REFUSED])
def test_odd_weights_are_refused(given, word):
    line = refusal(split, given, FLAG)
    assert word in line
    assert f"--{FLAG}" in line


def test_sources_of_weight_0_are_named_all_the_same():
    assert names("a:0,b:2", FLAG) == ["a", "b"]
    assert split("a:0,b:2", FLAG) == [Named("b", None)]


def grey(folder, level, episodes=2, rows=9):
    """Episodes of one grey."""
    folder.mkdir(exist_ok=True)
    for number in range(episodes):
        np.savez(folder / f"{number}.npz", image=np.full((rows, 64, 64, 3), level, np.uint8))
    return folder


def test_a_run_mixes_its_sources_and_resumes(tmp_path, tiny, calling, same):
    one, two = grey(tmp_path / "a", 10), grey(tmp_path / "b", 200, rows=4)
    given = f"{one},{two}:0.3"
    whole = tiny.finish(tiny.pretrain(tmp_path / "whole", given))
    rows = [r for r in read_metrics(whole / "metrics.jsonl") if r.get("event") == "dataset"]
    assert [row["folder"] for row in rows] == [str(one), str(two)]
    assert [row.get("share") for row in rows] == [None, 0.3]

    def stop():
        raise Stopped

    argv = tiny.pretrain(tmp_path / "stopped", given)
    with calling({("update", 5): stop}):
        assert tiny.run(argv).code == 128
    same.run(tiny.finish(argv), whole)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a,nowhere", ["there is no such folder", "nowhere"]),
        ("a:0,nowhere:1", ["there is no such folder", "nowhere"]),
        ("a:-1,b", ["'-1' is no weight"]),
    ],
)
def test_refused_before_a_run_begins(tmp_path, tiny, given, words):
    grey(tmp_path / "a", 10)
    result = tiny.run(tiny.pretrain(tmp_path / "runs", given))
    assert result.code == 2
    [line] = result.err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("weight", [":1", ""])
def test_a_memory_too_small_for_all_sources_is_refused(tmp_path, tiny, weight):
    given = f"{grey(tmp_path / 'a', 10)}{weight},{grey(tmp_path / 'b', 20)}:0.5"
    result = tiny.run(tiny.pretrain(tmp_path / "runs", given, dataset_size=18))
    assert result.code == 2
    assert "--dataset_size 18 is too small for all sources" in result.err


def test_most_names_are_looked_up_once(monkeypatch):
    asked = []
    monkeypatch.setattr(sources.os.path, "exists", lambda name: asked.append(name))
    split(",".join("x" for _ in range(sources.MOST)), FLAG)
    assert len(asked) < 10_000
