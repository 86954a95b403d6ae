"""The commands that a run ends with work in the folder where it was started."""

import shlex

from training import commands
from training.provenance import ROOT


def test_in_the_folder_of_the_code_they_are_short(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert commands.dreamer("--evaluate", "a b") == "python dreamer.py --evaluate 'a b'"
    assert commands.module("figures.learning_curve", "x") == "python -m figures.learning_curve x"


def test_elsewhere_they_say_where_the_code_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert shlex.split(commands.dreamer("-h")) == ["python", str(ROOT / "dreamer.py"), "-h"]
    words = shlex.split(commands.module("figures.learning_curve"))
    assert words == [f"PYTHONPATH={ROOT}", "python", "-m", "figures.learning_curve"]
