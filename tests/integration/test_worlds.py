"""HRSSM's command line, and one agent in several worlds: while it trains, and afterwards."""

import pytest

import config
import envs
from agents.registry import METHODS
from logger import read_metrics
from tests.helpers.runs import events

WORLDS = ("color_hard", "video_easy")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    """A run of HRSSM's world that visits others, and what it said."""
    runs = tmp_path_factory.mktemp("worlds")
    task = {"task": "dmc_walker_stand_video", "eval_worlds": WORLDS}
    sizes = {"steps": 60, "prefill": 12, "pretrain": 1, "eval_every": 60, "size": (64, 64)}
    words = tiny.episodes(runs, **task, **sizes, block_size=3)
    argv = ["--configs", "dmc_vision", "debug", *words[3:], "--checkpoint_every", "40"]
    result = tiny.run(argv)
    assert result.code == 0, result.err
    return runs / "dmc_walker_stand_video" / "hrssm" / "seed_0", result


def test_the_block_stands_alone(run):
    folder, result = run
    lines = result.err.splitlines()
    assert not any("the agent in HRSSM's world" in line for line in lines)
    assert sum("computed pictures move there" in line for line in lines) == 1
    written = (folder / "config.yaml").read_text()
    for line in ("action_repeat: 2", "method_name: hrssm", "beta_vae: false"):
        assert f"\n{line}\n" in written


def test_another_agent_there_is_named(capsys):
    argv = ["--configs", "dmc_vision", "--method_name", "dreamerv2"]
    envs.check(config.parse(argv, methods=METHODS))
    assert "note: the agent in HRSSM's world is dreamerv2" in capsys.readouterr().err.splitlines()


def test_each_world_is_logged_under_its_name(run):
    folder, _ = run
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "event" not in row]
    for kind in ("eval", *(f"eval_{world}" for world in WORLDS)):
        found = [row for row in rows if f"{kind}_return" in row]
        assert [(row["step"], row[f"{kind}_decisions"]) for row in found] == [(24, 12), (60, 30)]
        assert all(row[f"{kind}_episodes"] == 2 for row in found)
        assert all(row[f"{kind}_length"] == 10 for row in found)
    told = {(row["policy"], row["colors"]) for row in events(folder, "evaluation")}
    assert {(f"eval_{world}", world) for world in WORLDS} < told


def test_worlds_are_evaluated_in_one_go(run, tiny):
    folder, _ = run
    last = [
        row for row in read_metrics(folder / "metrics.jsonl") if "eval_color_hard_return" in row
    ]
    result = tiny.run(["--evaluate", str(folder)])
    assert result.code == 0, result.err
    table = result.out.split("\n\n")[-1].splitlines()
    lines = {line.split()[0]: line.split() for line in table}
    assert [*lines] == ["world", "test", *WORLDS]
    assert lines["color_hard"][1] == f"{last[-1]['eval_color_hard_return']:.2f}"  # as it was logged
    assert lines["color_hard"][4:] == ["10", "20"]  # decisions and frames
    title = "dmc_walker_stand_video, hrssm: frame 60, decision 30"
    assert result.out.split("\n\n")[-2] == title
    written = {path.name for path in (folder / "evaluations").glob("*.json")}
    assert written == {f"000000060-{name}-2.json" for name in ("test", *WORLDS)}
    refused = tiny.run(["--evaluate", str(folder), "--eval_worlds", "video_haerd"])
    assert refused.code == 2
    assert "did you mean 'video_hard'?" in refused.err
