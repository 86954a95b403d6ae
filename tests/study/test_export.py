"""A study's runs as records, and as what draws them."""

import pytest

from fileio import FORMAT
from study.export import draw, drawn, export
from study.records import Plan
from tests.study import fakes
from tools import UserError

CONFIG = (
    "# DisWM run, format {}\ntask: dmc2gym_reacher_easy\nmethod_name: {}\nseed: {}\nsteps: 40\n"
)


@pytest.fixture
def plan(tmp_path):
    """Two arms of which the first two runs are done, and the collection before them."""
    jobs = [fakes.job(tmp_path, "videos", is_goal=False, stage="collect")]
    for method, seed in (("diswm", 0), ("ted", 0), ("diswm", 1)):
        named = {"method": method, "seed": seed, "arms": (f"our {method}",), "source": "videos_of"}
        jobs.append(fakes.job(tmp_path, f"t/{method}/seed_{seed}", **named))
    for job in jobs[:3]:
        assert fakes.begin(job).wait() == 0
        text = CONFIG.format(FORMAT, job.method, job.seed)
        (tmp_path / job.name / "config.yaml").write_text(f"{text}color_distractor: true\n")
    return Plan("mine", "cpu", "curves", {}, tuple(jobs))


def test_runs_without_an_evaluation_are_left_out_and_told_of(plan, tmp_path, capsys):
    assert [arm for arm, _ in drawn(plan, tmp_path)] == ["our diswm", "our ted"]
    assert "note: without t/diswm/seed_1, which" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no run of mine in .* has come to anything yet"):
        drawn(plan, tmp_path / "elsewhere")


def test_the_csv_has_a_row_for_each_run_and_evaluation(plan, tmp_path):
    path = tmp_path / "mine.csv"
    export(plan, tmp_path, path)
    head, *rows = path.read_text().splitlines()
    assert head == (
        "study,scale,task,source,method,arm,seed,frames,return,return_std,episodes,success"
    )
    assert rows == [
        "mine,cpu,dmc2gym_reacher_easy,videos_of,diswm,our diswm,0,1,40.0,0.0,1,",
        "mine,cpu,dmc2gym_reacher_easy,videos_of,ted,our ted,0,1,40.0,0.0,1,",
    ]


def test_a_figure_is_drawn_into_a_folder_under_the_studys_name(plan, tmp_path, capsys):
    draw(plan, tmp_path, tmp_path / "drawn")
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert names == {"mine.png", "mine.pdf"}
    with pytest.raises(UserError, match="setting"):
        draw(plan._replace(draw={"colour": 1}), tmp_path, tmp_path / "drawn")


def test_curves_have_the_differences_from_an_arm_beside_them(plan, tmp_path, capsys):
    compared = plan._replace(draw={"against": "our ted"})
    draw(compared, tmp_path, tmp_path / "drawn")
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    endings = ("png", "pdf", "txt", "csv", "tex")
    assert names == {"mine.png", "mine.pdf", *(f"mine_differences.{kind}" for kind in endings)}
    assert "our diswm" in (tmp_path / "drawn" / "mine_differences.txt").read_text()
    capsys.readouterr()
    draw(plan._replace(draw={"against": "our sac"}), tmp_path, tmp_path / "alone")
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"mine.png", "mine.pdf"}
    assert capsys.readouterr().err.splitlines()[-1].startswith("note: without differences: against")


def test_latents_are_measured_before_what_has_them_is_drawn(plan, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "study.disentanglement.measure_finished", lambda jobs, *rest: asked.append(([*jobs], *rest))
    )
    monkeypatch.setattr("figures.kinds.draw", lambda *_, **settings: asked.append(settings) or [])
    settings = {"values": {"eval_return": "return"}, "frames": 90}
    draw(plan._replace(figure="logged", draw=settings), tmp_path, tmp_path / "drawn")
    (jobs, logdir, frames), given = asked
    assert [job.name for job in jobs] == ["t/diswm/seed_0", "t/ted/seed_0"]
    assert (logdir, frames) == (tmp_path, 90)
    assert given["frames"] == 90
    draw(plan._replace(figure="logged", draw={"values": {}}), tmp_path, tmp_path / "drawn")
    assert len(asked) == 3  # drawn without
