"""The benchmarks of environments, acting and a whole run: what they count, print and write."""

import json

import pytest

from benchmarks import acting, env
from tools import UserError

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


def test_steps_of_environments(tmp_path, capsys):
    out = tmp_path / "env.json"
    words = ["--tasks", "dmc2gym_cartpole_swingup", "--renderers", "osmesa", "--envs", "1", "2"]
    flags = ["--", "--shadow_size", "64", "--time_limit", "20"]
    assert env.main([*words, "--seconds", "0.3", "--json", str(out), *flags]) == 0
    report = json.loads(out.read_text())
    assert report["machine"]["cpu"]
    assert report["failed"] == {}
    one, two = report["rows"]
    assert (one["envs"], two["envs"]) == (1, 2)
    assert one["measured"]["backend"]["name"] == renderer
    steps = one["measured"]["steps"]
    assert one["steps_per_second"] == pytest.approx(len(steps) / sum(steps))
    # Episodes of ten agent steps, the flag's.
    assert len(one["measured"]["resets"]) == 1 + (len(steps) + env.WARMUP) // 10
    steps = two["measured"]["steps"]
    assert two["steps_per_second"] == pytest.approx(2 * len(steps) / sum(steps))
    table = table_of(capsys.readouterr().out)
    assert [row[:3] for row in table[1:]] == [
        ["dmc2gym_cartpole_swingup", renderer, n] for n in ("1", "2")
    ]
    assert table[1][3] == f"{one['steps_per_second']:.1f}"


def test_an_environment_that_cannot_be_measured_is_named():
    spec = {"task": WALKER, "renderer": "vulkan", "envs": 1, "seconds": 0.1, "settings": {}}
    with pytest.raises(UserError, match=r"MUJOCO_GL=vulkan is no backend"):
        env.ask(spec)


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
    more = ["--also", "narrow=--precision 32 --units 16", "broken=--units x", "--json", str(out)]
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
        (acting.main, "--device cpu --settings exakt", "did you mean 'exact'"),
    ],
)
def test_mistakes_are_one_line(main, words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert line in err.splitlines()[-1]
    assert out == ""
