"""The command line, on real runs: run, again, status, and what is in the way of it."""

import json

import pytest

from agents.registry import AGENTS
from study import document
from study.__main__ import main
from study.plan import expand
from study.records import folder_of, lock, read_plan, write_plan
from tests.helpers.runs import TASK

NAME = f"{TASK}/random/seed_0"
STUDY = f"""
transfers: [{{target: {TASK}}}]
arms:
  random: {{method: random}}
train: {{steps: 40, time_limit: 20, prefill: 5, eval_every: 20, eval_episodes: 1, shadow_size: 64}}
"""


@pytest.mark.slow
def test_a_study_runs_is_skipped_and_tells_its_status(tmp_path, capfd):
    path, logdir = tmp_path / "mine.yaml", tmp_path / "runs"
    path.write_text(STUDY)
    words = ["run", str(path), "--scale", "debug", "--logdir", str(logdir), "--jobs", "1"]
    assert main(words) == 0
    first = capfd.readouterr().err
    assert f"start {NAME}" in first
    assert "all 1 jobs are done" in first
    output = (logdir / f"{NAME}.log").read_text()
    assert output.startswith("study: mine, runner ")
    assert "study: exit 0 after " in output.splitlines()[-1]
    assert main(words) == 0
    assert "start" not in capfd.readouterr().err

    assert main(["status", "mine", "--logdir", str(logdir)]) == 0
    head, row, total = capfd.readouterr().out.splitlines()
    assert head.split() == ["state", "run", "at", "of", "return", "left"]
    assert row.split()[:4] == ["done", NAME, "40", "40"]
    assert total == "mine at scale debug: 1 done of 1"
    assert main(["status", str(path), "--logdir", str(logdir), "--watch"]) == 0
    assert total in capfd.readouterr().out

    # Another scale, another runner, a damaged plan: one line each, and nothing is touched.
    before = sorted(p.name for p in (logdir / NAME).iterdir())
    assert main([*words[:3], "cpu", *words[4:]]) == 2
    assert "holds mine at scale debug" in capfd.readouterr().err
    held = lock(logdir, "mine")
    assert main(words) == 2
    assert "another runner is at work on mine" in capfd.readouterr().err.splitlines()[-1]
    held.release()
    plan = folder_of(logdir, "mine") / "plan.json"
    plan.write_text(json.dumps({"study": "mine"}))
    assert main(["status", "mine", "--logdir", str(logdir)]) == 2
    assert "plan.json is damaged (KeyError" in capfd.readouterr().err
    assert sorted(p.name for p in (logdir / NAME).iterdir()) == before


@pytest.mark.parametrize("command", ["status", "export", "draw"])
def test_a_line_of_run_is_edited_into_other_commands_and_its_scale_is_checked(
    tmp_path, capsys, command
):
    common = document.load_common()
    study = document.load("tableB", common, AGENTS)
    write_plan(tmp_path, study, "debug", expand(study, common, "debug", str(tmp_path)))
    more = {"status": [], "export": ["--csv", "x.csv"], "draw": ["--output", "x"]}[command]
    words = [command, "tableB", "--logdir", str(tmp_path), *more, "--scale"]
    assert main([*words, "debug"]) == (0 if command == "status" else 2)  # nothing has run yet
    assert "at scale" not in capsys.readouterr().err
    assert main([*words, "cpu"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "holds tableB at scale debug, not cpu: name that, or the --logdir of" in line


def test_commands_can_be_pasted(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY)
    assert main(["commands", str(path), "--logdir", "my runs", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("python dreamer.py --configs defaults dmc2gym ") for line in lines)
    assert all(line.endswith("--logdir 'my runs'") for line in lines)
    assert [("--seed 0" in line, "--seed 1" in line) for line in lines] == [(1, 0), (0, 1)]


def test_a_plan_is_read_as_it_was_written(tmp_path):
    common = document.load_common()
    study = document.load("tableB", common, AGENTS)
    jobs = expand(study, common, "debug", str(tmp_path))
    write_plan(tmp_path, study, "debug", jobs)
    plan = read_plan(tmp_path, "tableB")
    assert plan.jobs == tuple(jobs)
    assert (plan.scale, plan.figure, plan.draw) == ("debug", "table", {"value": "success"})
