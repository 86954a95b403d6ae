"""The commands that draw: what they have in common."""

import importlib

import numpy as np
import pytest
from matplotlib.figure import Figure

from figures import overview, save
from figures.records import write_csv
from tests.figures.recorded import make_records

# What each is given besides the output; the records, where it takes those.
COMMANDS = {
    "learning_curve": ["r.csv"],
    "bars": ["r.csv"],
    "aggregates": ["r.csv"],
    "differences": ["r.csv", "--against", "ted"],
    "tables": ["A", "r.csv"],
    "traversals": ["run"],
    "tsne": ["run"],
    "environments": ["gymnasium_Pusher-v5"],
    "overview": ["run"],
    "worlds": ["--only", "rms_push_cube"],
}
SAVING = ("traversals", "tsne")  # whose `draw` saves
DRAWING = ("environments", "overview", "worlds")  # whose `draw` makes a figure


@pytest.fixture
def command(tmp_path, monkeypatch, request):
    """A command's module and its words; what takes long to draw is drawn empty."""
    name = request.param
    module = importlib.import_module(f"figures.{name}")
    monkeypatch.chdir(tmp_path)
    write_csv(make_records([[0, 6]]) + make_records([[0, 3]], arm="ted"), tmp_path / "r.csv")
    monkeypatch.setattr(overview, "read_picture", lambda path: np.zeros(()))
    if name in SAVING:
        monkeypatch.setattr(module, "draw", lambda records, output, **_: save(Figure(), output))
    if name in DRAWING:
        monkeypatch.setattr(module, "draw", lambda *_: Figure())
        monkeypatch.setattr(module, "can_play", lambda row: True, raising=False)
    return module, COMMANDS[name]


@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_an_output_that_cannot_be_written_is_named_in_a_line(command, capsys):
    module, words = command
    ending = "txt" if words[0] == "A" else "png"
    assert module.main([*words, "--output", f"r.csv/x.{ending}"]) == 1
    said = capsys.readouterr().err.splitlines()
    program = module.__name__.removeprefix("figures.")
    assert said == [f"{program}: r.csv: File exists: mend that"]
