"""Study files that say what nothing understands: one line each, before anything is started."""

import pytest

from agents.registry import AGENTS
from study import document, records
from study.__main__ import main
from study.plan import expand
from tools import UserError

GOOD = """
transfers: [{source: dmc2gym_finger_spin, target: dmc2gym_reacher_easy}]
arms:
  DisWM: {method: diswm}
"""
# What is put in the place of something, and words of the line that comes of it.
REFUSED = {
    "method": ("diswm}", "diswn}", r"arm DisWM: method: 'diswn' \(did you mean 'diswm'"),
    "no method": ("{method: diswm}", "{}", r"arm DisWM: it names no `method`"),
    "task": ("reacher_easy", "reacher_esay", r"DisWM, train: there is no task .*reacher_easy"),
    "flag": ("diswm}", "diswm, train: {modle_lr: 1}}", r"unknown flag --modle_lr"),
    "value": ("diswm}", "diswm, train: {batch_size: 0}}", r"DisWM, train: --batch_size"),
    "block": ("diswm}", "diswm, train: {configs: [cpuu]}}", r"no block 'cpuu'"),
    "stage": ("diswm}", "diswm, tarin: {}}", r"unknown key 'tarin' \(did you mean 'train'\?\)"),
    "stage that is named": (
        "diswm}", "diswm, train: {traindir: '{pretain}'}}", r"no stage or value '{pretain}'"
    ),
    "cycle": (
        "diswm}", "diswm, collect: {traindir: '{train}'}}",
        r"DisWM, train: it needs itself: train → pretrain → collect → train",
    ),
    "source": ("source: dmc2gym_finger_spin, ", "", r"it needs a source, and its transfer"),
    "target": (", target: dmc2gym_reacher_easy", "", r"it needs a target, and its transfer"),
    "actions": ("finger_spin", "fish_swim", r"how many actions has dmc2gym_fish_swim\?"),
    "folder": (
        "DisWM: {method: diswm}",
        "DisWM: {method: diswm}\n  fast: {method: diswm, train: {model_lr: 1}}",
        r"arm fast, train: .* that of arm DisWM does, .*/diswm/seed_0: give it a `label`",
    ),
    "arms": ("arms:\n  DisWM: {method: diswm}", "arms: []", r"arms: a mapping is needed"),
    "transfers": (GOOD.splitlines()[1], "transfers: []", r"it needs `transfers`, a list"),
    "seeds": ("arms:", "seeds: 0\narms:", r"seeds: a whole number from 1 on is needed, not '0'"),
    "first seed": ("arms:", "first_seed: -1\narms:", r"first_seed: a whole .* 0 on .* '-1'"),
    "key": ("arms:", "armz: 1\narms:", r"unknown key 'armz' \(did you mean 'arms'\?\)"),
    "figure": ("arms:", "figure: curve\narms:", r"figure: 'curve' \(did you mean 'curves'"),
    "against": ("arms:", "draw: {against: DisWN}\narms:", r"against: 'DisWN' \(did .*'DisWM'"),
    "nested flag": ("diswm}", "diswm, train: {size: {a: 1}}}", r"--size is a value, a list of"),
    "what another method has": (
        "diswm}", "dreamerv2, train: {traverse: True}}", r"leave out --trav"
    ),
    "first stage": (
        "diswm}", "ted, train: {pretrain_checkpoint_path: '{pretrain}'}}", "no first"),
    "yaml": ("arms:", "arms: [", r"cannot be read: line"),
}  # fmt: skip


def plan(path, scale="debug", **more):
    common = document.load_common()
    return expand(document.load(str(path), common, AGENTS), common, scale, "runs", **more)


def test_the_file_that_the_refusals_begin_from_is_taken(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert [job.stage for job in plan(path)] == ["collect", "pretrain", "train"]


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_is_wrong_is_one_line(tmp_path, wrong, capsys):
    old, new, words = REFUSED[wrong]
    assert old in GOOD
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=words) as refused:
        plan(path)
    assert "mine.yaml" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert capsys.readouterr().out == ""


def test_arms_and_seeds_can_be_chosen(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{GOOD}  TED: {{method: ted}}\nfirst_seed: 3\n")
    for job, seed in zip(plan(path, only=["TED"], seeds=2), ("3", "4"), strict=True):
        assert job.words[job.words.index("--seed") + 1] == seed
    assert [job.method for job in plan(path, only=["TED"], seeds=2)] == ["ted", "ted"]
    with pytest.raises(UserError, match=r"no such arm \(did you mean 'TED'\?\); there are DisWM"):
        plan(path, only=["TDE"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["commands", "figure44"], "there is no study 'figure44' (did you mean 'figure4'?)"),
        (["commands", "no.yaml"], "no.yaml: there is no such file"),
        (["status", "figure4", "--logdir", "{tmp}"], "has no study 'figure4'"),
        (
            ["run", "figure6", "--scale", "debug", "--logdir", "{tmp}", "--backend", "ray"],
            "needs the --address of a cluster",
        ),
        (
            ["run", "figure6", "--scale", "debug", "--logdir", "{tmp}", "--slurm", "a=1"],
            "--slurm is for --backend slurm",
        ),
        (
            ["run", "figure6", "--scale", "debug", "--logdir", "{tmp}/file/runs"],
            "is a file; choose another",
        ),
    ],
)
def test_a_command_line_that_cannot_be_is_one_line(tmp_path, capsys, words, line):
    (tmp_path / "file").touch()
    assert main([word.replace("{tmp}", str(tmp_path)) for word in words]) == 2
    said = capsys.readouterr()
    assert line in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_scale_has_settings_of_its_own_for_the_drawing(tmp_path):
    own = "draw: {seed: 1, length: 50}\nscales: {debug: {draw: {length: 10}, train: {steps: 80}}}\n"
    (tmp_path / "own.yaml").write_text(GOOD + own)
    study = document.load(str(tmp_path / "own.yaml"), document.load_common(), AGENTS)
    assert study.scales == {"debug": {"train": {"steps": 80}}}
    for scale, length in (("debug", 10), ("cpu", 50)):
        records.write_plan(tmp_path, study, scale, [])
        assert records.read_plan(tmp_path, "own").draw == {"seed": 1, "length": length}
