"""The studies that come with the code: every command line is taken, and shared stages run once."""

import math
from collections import Counter

import pytest

from agents.registry import AGENTS
from envs import parse_task
from figures import reference
from study import document
from study.document import SCALES
from study.plan import expand


@pytest.fixture(scope="module")
def common():
    return document.load_common()


def jobs_of(name, common, scale="debug", **more):
    return expand(document.load(name, common, AGENTS), common, scale, "runs", **more)


def words(job, flag):
    """What a job's command line gives a flag; empty without it."""
    values = job.words[job.words.index(f"--{flag}") + 1 :] if f"--{flag}" in job.words else ()
    ends = [i for i, word in enumerate(values) if word.startswith("--")]
    return values[: ends[0]] if ends else values


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", document.names())
def test_every_study_is_taken_at_every_scale(name, scale, common):
    jobs = jobs_of(name, common, scale, seeds=2)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for number, job in enumerate(jobs):
        assert set(job.needs) <= set(names[:number])  # they come before it
    assert {job.seed for job in jobs if job.stage == "train"} <= {0, 1}
    assert any(job.is_goal for job in jobs)


def test_figure_4_is_six_systems_on_six_transfers(common):
    jobs = jobs_of("figure4", common)
    assert Counter(job.stage for job in jobs) == {"collect": 3, "pretrain": 9, "train": 36}
    goals = [job for job in jobs if job.is_goal]
    assert len({(job.task, job.method) for job in goals}) == len(goals) == 36
    # One collection for each source, one pretraining for each source and kind of predictor.
    pretrained = Counter(
        (words(j, "task"), words(j, "method_name")) for j in jobs if j.stage == "pretrain"
    )
    assert set(pretrained.values()) == {1}
    shared = [
        j
        for j in goals
        if words(j, "pretrain_checkpoint_path") == ("runs/dmc2gym_cheetah_run/pretrain/seed_0",)
    ]
    assert [job.task for job in shared] == ["dmc2gym_walker_walk", "dmc2gym_hopper_stand"]


def test_widths_and_gaps_are_those_of_the_transfers(common):
    jobs = {(job.task, job.method): job for job in jobs_of("figure4", common) if job.is_goal}
    gaps = {
        task: words(job, "action_num_gap")
        for (task, method), job in jobs.items()
        if method == "apv"
    }
    assert {task: int(gap) for task, (gap,) in gaps.items()} == {
        "dmc2gym_walker_walk": 0,
        "dmc2gym_cheetah_run": 0,
        "dmc2gym_hopper_stand": 2,
        "dmc2gym_reacher_easy": 0,
        "dmc2gym_cartpole_swingup": 1,
        "gymnasium_Pusher-v5": 0,
    }
    across = {
        task for (task, method), job in jobs.items() if words(job, "cross_domain") == ("True",)
    }
    assert across == {"gymnasium_Pusher-v5"}
    assert words(jobs["dmc2gym_hopper_stand", "diswm"], "source_action_num") == ("6",)
    assert not words(jobs["dmc2gym_hopper_stand", "dreamerv2"], "source_action_num")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("table", ["A", "B"])
def test_each_published_cell_of_the_tables_has_its_command(table, scale, common):
    jobs = [job for job in jobs_of(f"table{table}", common, scale, seeds=1) if job.is_goal]
    published = reference.rows(f"table_{table.lower()}.csv")
    cells = {(row["task"], row["method"]): row["source"] for row in published}
    assert {(job.task, job.method) for job in jobs} == cells.keys()
    assert len(jobs) == len(cells) == len(published)
    for job in jobs:
        assert job.source in ("", cells[job.task, job.method])  # some learn from no videos
        assert bool(job.source) == bool(words(job, "pretrain_checkpoint_path"))
        assert words(job, "color_distractor") == ("True",)
        assert all(math.isfinite(float(row["mean"])) for row in published)


def test_each_source_has_its_collection_and_ablations_share_what_they_leave(common):
    sources = {
        j.task
        for name in ("tableA", "figure8")
        for j in jobs_of(name, common)
        if j.stage == "collect"
    }
    assert sources >= {"dmc2gym_walker_walk", "dmc2gym_hopper_stand"}
    jobs = jobs_of("figure7", common)
    by_arm = {arm: job for job in jobs for arm in job.arms if job.is_goal}
    teacher = {arm: words(job, "pretrain_checkpoint_path") for arm, job in by_arm.items()}
    assert teacher["η = 1"] == teacher["DisWM"] == ("runs/dmc2gym_cheetah_run/pretrain/seed_0",)
    assert teacher["β = 0.15"] == ("runs/dmc2gym_cheetah_run/pretrain-beta_0.15/seed_0",)
    assert teacher["without distillation"] == ()
    assert by_arm["without distillation"].needs == ()
    # Predictors: DisWM's, four of the sweep of β, and that without disentanglement.
    assert Counter(job.stage for job in jobs)["collect"] == 1
    assert Counter(job.stage for job in jobs)["pretrain"] == 6


def test_the_middle_bars_of_figure_7_are_named_by_their_values_and_are_one_run(common):
    panels = document.load("figure7", common, AGENTS).draw["panels"]
    assert panels["η"] == [f"η = {eta}" for eta in (0.01, 0.03, 0.1, 0.3, 1)]
    assert panels["β"] == [f"β = {beta}" for beta in (0.0015, 0.005, 0.015, 0.05, 0.15)]
    goals = [job for job in jobs_of("figure7", common) if job.is_goal]
    assert {arm for job in goals for arm in job.arms} == {
        a for arms in panels.values() for a in arms
    }
    [own] = [job for job in goals if "DisWM" in job.arms]
    assert own.arms == ("DisWM", "η = 0.1", "β = 0.015")


def test_the_laptops_transfer_is_what_its_evidence_says(common):
    jobs = jobs_of("cpu_transfer", common, "cpu")
    goals = [job for job in jobs if job.is_goal]
    assert len(goals) == 15
    assert {job.seed for job in goals} == {0, 1, 2}
    assert {(job.task, job.end) for job in goals} == {("dmc2gym_cartpole_swingup", 40_000)}
    published = [job for job in goals if words(job, "lambda_return")]
    assert [words(job, "lambda_return") for job in published] == [("published",)] * 3
    usual = next(job for job in goals if job.arms == ("DisWM",))
    differ = set(published[0].words) ^ set(usual.words)
    assert differ == {"--lambda_return", "published", "--label", "published_lambda_return"}


def test_paper_videos_are_a_learning_agents_and_others_a_random_policys(common):
    for scale, learns in (("paper", True), ("cpu", False), ("debug", False)):
        (job,) = (job for job in jobs_of("figure6", common, scale) if job.stage == "collect")
        assert (words(job, "steps") == ("0",)) != learns
        assert "collect" in words(job, "configs")


@pytest.mark.slow
def test_actions_are_as_many_as_the_tasks_have(common):
    """Without DrawerWorld's two, whose actions are those of every task of Meta-World's."""
    import gymnasium
    from dm_control import suite

    counts = {"gymnasium_Pusher-v5": gymnasium.make("Pusher-v5").action_space.shape[0]}
    for task in common.actions:
        if task.startswith("dmc2gym"):
            env = suite.load(*parse_task(task).identity)
            counts[task] = env.action_spec().shape[0]
    assert len(counts) == len(common.actions) - 2
    assert counts == {task: common.actions[task] for task in counts}


def test_the_study_of_beta_has_fixed_ones_controllers_and_wrong_starts(common):
    jobs = jobs_of("beta", common, "cpu")
    assert Counter(job.stage for job in jobs) == {"collect": 1, "pretrain": 30}
    given = {(*words(j, "beta_control"), *words(j, "beta_vae_beta")) for j in jobs if j.is_goal}
    fixed = {("0.0015",), ("0.015",), ("0.15",)}
    wrong = {(kind, beta) for kind in ("controlvae", "geco") for beta in ("0.0015", "0.15")}
    right = {(kind, "0.015") for kind in ("controlvae", "geco", "sigma_vae")}
    assert given == fixed | wrong | right
    assert {job.seed for job in jobs if job.is_goal} == {0, 1, 2}


def test_the_study_of_beta_draws_what_it_asks(common):
    """Its latents are measured, and each arm with another start stands beside its own."""
    study = document.load("beta", common, AGENTS)
    assert {*study.draw["values"]} == {"image_mse", "beta_vae_kl_loss", "beta"}
    assert study.draw["frames"] == 15000
    starts = study.draw["starts"]
    others = [arm for arms in starts.values() for arm in arms]
    assert {*starts, *others, "σ-VAE"} == {arm.name for arm in study.arms}
    for usual, arms in starts.items():
        assert [arm.rpartition(" ")[2] for arm in arms] == ["0.0015", "0.15"]
        assert all(arm.split()[0] == usual.split()[0] for arm in arms)
