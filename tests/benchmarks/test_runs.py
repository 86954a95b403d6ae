"""The benchmarks of environments, acting and a whole run: what they count, print and write."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import acting, env, turns
from tests.benchmarks.here import ours_here


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """What is ours is held in this process."""
    for module in (acting, turns):
        monkeypatch.setattr(module, "Worker", ours_here)


WALKER = "dmc2gym_walker_walk"
# A checkout in the shape of the authors', whose policy tells what it was asked.
THEIRS = {
    "configs.yaml": "defaults: {act: 'ELU', traindir: null}\ndmc2gym: {reward_scale: 2}\n",
    "tools.py": "def args_type(default):\n    return lambda x: x\n",
    "models.py": "",
    "pretrain.py": "",
    "dreamer.py": """
import torch, wandb, wrappers
class Dreamer(torch.nn.Module):
    def __init__(self, config, logger, dataset):
        super().__init__()
        self.config, self.steps = config, 0
    def _policy(self, obs, state, training):
        assert not torch.is_grad_enabled() and obs['reward'].shape == (len(obs['image']),)
        # Two modes, two numbers of environments, two steps of each a turn; the episodes go on.
        assert (state or 0) == self.steps // 8 * 2 + self.steps % 2
        assert training == (self.steps % 8 < 4)
        self.steps += 1
        action = torch.full((len(obs['image']), self.config.num_actions), 0.5)
        return {'action': action}, (state or 0) + 1
""",
}


def table_of(text):
    """The cells of the Markdown table in a text, row by row, without the rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [rows[0], *rows[2:]]


class Envs:
    """Environments whose episodes have four steps, and a clock that they move."""

    action_size, now = 2, 0.0

    def __init__(self, n):
        self.n, self.step_number, self.seeds = n, 0, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def reset(self, ended, seeds):
        Envs.now += 0.5
        self.seeds.append(seeds)
        assert ended.all()

    def step(self, actions):
        assert actions.shape == (self.n, self.action_size)
        Envs.now += 0.25
        self.step_number += 1
        over = np.full(self.n, self.step_number % 4 == 0)
        return SimpleNamespace(terminated=over & False, truncated=over)


def test_steps_and_resets_of_environments_are_told_apart(monkeypatch):
    made = []
    monkeypatch.setattr(env, "make_vector", lambda task, n, **_: made.append(Envs(n)) or made[-1])
    monkeypatch.setattr(env.time, "perf_counter", lambda: Envs.now)
    found = env.measure("task", 2, {}, seconds=2.0)
    assert set(found["steps"]) == {0.25}
    assert len(found["steps"]) == made[0].step_number - env.WARMUP
    assert found["resets"] == [0.5] * (1 + (made[0].step_number - 1) // 4)
    assert made[0].seeds[:2] == [[0, 1], [2, 3]]
    row = env.summarise(2, found)
    assert row["steps_per_second"] == pytest.approx(2 / 0.25)
    assert (row["ms"], row["reset_ms"]) == (250, 500)


def test_steps_of_an_environment(tmp_path, capsys):
    out, renderer = tmp_path / "env.json", os.environ["MUJOCO_GL"]
    words = ["--tasks", "dmc2gym_cartpole_swingup", "--renderers", renderer, "--envs", "1"]
    flags = ["--", "--shadow_size", "64", "--time_limit", "20"]
    assert env.main([*words, "--seconds", "0.05", "--json", str(out), *flags]) == 0
    report = json.loads(out.read_text())
    assert report["machine"]["cpu"]
    assert report["failed"] == {}
    (row,) = report["rows"]
    assert row["measured"]["backend"]["name"] == renderer
    # Episodes of ten agent steps, the flag's.
    steps = len(row["measured"]["steps"]) + env.WARMUP
    assert len(row["measured"]["resets"]) == 1 + (steps - 1) // 10
    table = table_of(capsys.readouterr().out)
    assert table[1][:3] == ["dmc2gym_cartpole_swingup", renderer, "1"]
    assert table[1][3] == f"{row['steps_per_second']:.1f}"


def test_an_environment_that_cannot_be_measured_is_named(tmp_path, monkeypatch, capsys):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho first >&2; echo no such display >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(env.sys, "executable", str(program))
    words = ["--tasks", WALKER, "--renderers", "egl", "--envs", "1"]
    assert env.main(words) == 1
    assert f"{WALKER}, egl, 1: no such display" in capsys.readouterr().out


def test_a_suites_block_is_where_its_settings_come_from():
    assert env.settings_of("gymnasium_Pusher-v5", [])["step_std"] == 0.1
    assert env.settings_of("gymnasium_Pusher-v5", [])["time_limit"] == 100
    assert env.settings_of("gymnasium_HalfCheetah-v5", [])["time_limit"] == 1000
    flags = ["--time_limit", "50", "--action_repeat", "4"]
    settings = env.settings_of("gymnasium_HalfCheetah-v5", flags)
    assert (settings["time_limit"], settings["action_repeat"]) == (50, 4)


def test_policies_take_turns(tmp_path, capsys):
    checkout, out = tmp_path / "theirs", tmp_path / "acting.json"
    checkout.mkdir()
    for name, text in THEIRS.items():
        (checkout / name).write_text(text)
    words = ["--reference", str(checkout), "--settings", "reference", "--steps", "2"]
    sizes = ["--device", "cpu", "--threads", "1", "--envs", "1", "3", "--rounds", "2"]
    more = [
        "--also",
        "narrow=--precision 32 --units 16 --dyn_deter 16 --cnn_depth 4",
        "broken=--units x",
        "--json",
        str(out),
    ]
    assert acting.main([*words, *sizes, *more]) == 1
    report = json.loads(out.read_text())
    assert list(report["settings"]) == ["reference", "narrow"]
    assert report["settings"]["narrow"]["dtype"] == "torch.float32"
    assert "units" in report["failed"]["broken"]
    for setting in report["settings"].values():
        assert set(setting["seconds"]) == {"train 1", "train 3", "eval 1", "eval 3"}
        assert all(len(seconds) == 2 for seconds in setting["seconds"].values())
    rows = {(row["mode"], row["envs"], row["setting"]): row for row in report["rows"]}
    row = rows["eval", 3, "narrow"]
    theirs, ours = (
        report["settings"][name]["seconds"]["eval 3"] for name in ("reference", "narrow")
    )
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    assert row["faster"] == pytest.approx(sum(ratios) / 2)
    assert row["steps_per_second"] == pytest.approx(3 / (sum(ours) / 2))
    assert rows["train", 1, "reference"]["faster"] == 1.0
    table = table_of(capsys.readouterr().out)
    assert len(table) == 1 + len(report["rows"]) == 9
    assert str(checkout) not in out.read_text()


@pytest.mark.parametrize(
    ("main", "words", "line"),
    [
        (env.main, "--envs 0", "--envs takes numbers from 1, not 0"),
        (env.main, "--seconds 0", "--seconds takes a number above 0"),
        (env.main, "--tasks dmc2gym_walker_wolk", "did you mean 'dmc2gym_walker_walk'"),
        (acting.main, "--steps 0", "--steps takes a whole number from 1, not 0"),
        (acting.main, "--envs 0", "--envs takes numbers from 1"),
        (acting.main, "--reference .", "is no checkout"),
        (acting.main, "--method tdmcp2", "did you mean 'tdmpc2'"),
        (acting.main, "--device cpu --settings exakt", "did you mean 'exact'"),
    ],
)
def test_mistakes_are_one_line(main, words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert line in err.splitlines()[-1]
    assert out == ""
