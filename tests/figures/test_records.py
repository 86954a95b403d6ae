"""Records of evaluations: from run folders, to a CSV and back, and what is refused."""

import dataclasses

import pytest

from figures import kinds, records
from tests.figures.recorded import TASK, evaluation, make_records, make_run
from tests.helpers.runs import refusal


def test_a_run_tells_its_records(tmp_path):
    run = make_run(tmp_path / "run", label="no_switch")
    random, first, last = records.from_run(run)
    assert random == records.Record("", "", TASK, "", "random", "random", 3, 0, 20.0, 10.0, 4, None)
    assert first == records.Record(
        "", "", TASK, "", "diswm", "diswm-no_switch", 3, 0, 30.0, 5.0, 4, None
    )
    assert (last.frames, last.ret, last.return_std) == (50, 80.0, 8.0)
    named = records.from_run(run, study="s", scale="paper", source="x", arm="mine")
    assert [(r.study, r.scale, r.source, r.arm) for r in named] == [
        ("s", "paper", "x", "random"),
        ("s", "paper", "x", "mine"),
        ("s", "paper", "x", "mine"),
    ]


def test_success_is_recorded_where_the_log_has_it(tmp_path):
    rows = [evaluation(0, "eval", 1.0, 2.0, 4, success=0.25)]
    [record] = records.from_run(make_run(tmp_path / "run", rows))
    assert record.success == 0.25


def test_scale_and_source_follow_from_the_configuration(tmp_path):
    run = make_run(
        tmp_path / "run",
        distillation="true",
        pretrain_checkpoint_path="L/dmc2gym_finger_spin/pretrain-x/seed_0",
    )
    assert {(r.scale, r.source) for r in records.from_run(run)} == {("", "dmc2gym_finger_spin")}
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(f"# a run\n# --configs defaults dmc2gym cpu debug\n{text}")
    assert {r.scale for r in records.from_run(run)} == {"debug"}
    (run / "config.yaml").write_text(text.replace("distillation: true", "distillation: false"))
    assert {r.source for r in records.from_run(run)} == {""}


def test_a_parent_folder_has_all_runs_below_it_but_pretrainings(tmp_path, capsys):
    for seed in (0, 1):
        make_run(tmp_path / "t" / "diswm" / f"seed_{seed}", seed=seed)
    make_run(tmp_path / "t" / "pretrain-x" / "seed_0")
    make_run(tmp_path / "t" / "ted" / "seed_0", rows=[{"step": 1}], method_name="ted")
    found = records.from_run(tmp_path)
    assert {(r.method, r.seed) for r in found} == {
        ("diswm", 0), ("diswm", 1), ("random", 0), ("random", 1)
    }  # fmt: skip
    assert "ted/seed_0 has not been evaluated yet: it is left out\n" in capsys.readouterr().err


def test_a_csv_gives_back_what_was_written(tmp_path):
    written = [
        *make_records([[1 / 3, -2.5e-7]], source="dmc2gym_finger_spin"),
        *make_records([[5, 6]], arm="random", success=0.5),
    ]
    records.write_csv(written, tmp_path / "r.csv")
    first = (tmp_path / "r.csv").read_text().splitlines()[0]
    assert first == (
        "study,scale,task,source,method,arm,seed,frames,return,return_std,episodes,success"
    )
    assert records.read_csv(tmp_path / "r.csv") == written


def test_inputs_are_runs_and_tables_and_may_be_named(tmp_path):
    run = make_run(tmp_path / "run")
    table = tmp_path / "r.csv"
    records.write_csv([*make_records([[1, 2]]), *make_records([[3, 4]], arm="random")], table)
    found, runs = records.load([f"a={run}", f"b={table}"], scale="mine")
    assert runs == [run]
    assert {(r.arm, r.scale) for r in found} == {
        ("random", "mine"), ("a", "mine"), ("b", "cpu"), ("random", "cpu")
    }  # fmt: skip


GOOD = "s,cpu,dmc2gym_walker_walk,,diswm,diswm,0,10,1.5,0.5,10,"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GOOD + ",", "r.csv, line 3 has 13 of 12 columns"),
        ("s,cpu", "r.csv, line 3 has 2 of 12 columns"),
        (GOOD.replace("1.5", "high"), "line 3: return is 'high': give a finite number"),
        (GOOD.replace("1.5", "nan"), "return is 'nan'"),
        (GOOD.replace("0.5", "-1"), "return_std is below 0"),
        (GOOD.replace(",0,10", ",0,-10"), "frames is '-10': give a whole number"),
        (GOOD + "2", "success is to be a share of 1"),
        (GOOD.replace("diswm,diswm", "disvm,disvm"), "no method 'disvm' (did you mean 'diswm'?)"),
        (GOOD.replace("dmc2gym_walker_walk", ""), "names no task"),
        ('"open', "is no CSV file"),
    ],
)
def test_a_damaged_row_is_refused_in_one_line(tmp_path, row, said):
    path = tmp_path / "r.csv"
    path.write_text("\n".join([",".join(records.COLUMNS), GOOD, row]) + "\n")
    line = refusal(records.read_csv, path)
    assert said in line
    assert str(path) in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"task,method\n", "its first line is to be study,scale"),
        (b"", "its first line is to be"),
        (b"\xff\xfe\x00", "not text"),
        (",".join(records.COLUMNS).encode() + b"\n", "holds no records"),
    ],
)
def test_another_table_is_refused_in_one_line(tmp_path, content, said):
    (tmp_path / "r.csv").write_bytes(content)
    assert said in refusal(records.read_csv, tmp_path / "r.csv")


def test_no_runs_are_refused_in_one_line(tmp_path):
    assert "is not there" in refusal(records.from_run, tmp_path / "none")
    assert "holds no run" in refusal(records.from_run, tmp_path)
    run = make_run(tmp_path / "t" / "diswm" / "seed_0", rows=[{"step": 1, "image_loss": 2.0}])
    assert refusal(records.from_run, run) == f"{run} has not been evaluated yet"
    assert "none of the runs below it has" in refusal(records.from_run, tmp_path)
    (run / "metrics.jsonl").unlink()
    assert "it has no metrics.jsonl" in refusal(records.from_run, run)
    (run / "metrics.jsonl").write_text('{"step": 1, "eval_return": 2.0}\n')
    assert "the evaluation at step 1 lacks a number" in refusal(records.from_run, run)
    (run / "metrics.jsonl").write_text('{"step": 1, "eval_return": 2.0}\nhello\n')
    assert "metrics.jsonl, line 2: no line of a log; take it out" in refusal(records.from_run, run)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"task: [1\n", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"- task\n", "not a run's configuration"),
        (b"task: x\n", "not a run's configuration"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_a_damaged_configuration_is_refused_in_one_line(tmp_path, content, said):
    run = make_run(tmp_path / "run")
    (run / "config.yaml").write_bytes(content)
    line = refusal(records.from_run, run)
    assert said in line
    assert str(run / "config.yaml") in line


def test_a_kind_of_figure_is_asked_for_by_name(tmp_path):
    line = refusal(kinds.draw, "curve", [], tmp_path / "x")
    assert line.startswith(
        "a figure's kind takes curves, bars, aggregates, differences, traversals, tsne, "
        "logged, table"
    )
    assert line.endswith("not 'curve' (did you mean 'curves'?)")
    for kind, setting in (("curves", "banden"), ("bars", "panel"), ("table", "values")):
        line = refusal(lambda k=kind, s=setting: kinds.draw(k, [], tmp_path / "x", **{s: 1}))
        assert line.startswith(f"a setting of {kind} takes ")
    for kind, place in kinds.KINDS.items():
        module, _, name = place.partition(":")
        assert callable(getattr(kinds.importlib.import_module(module), name)), kind


def test_records_are_frozen_and_have_the_columns_of_the_table():
    names = [field.name for field in dataclasses.fields(records.Record)]
    assert ["return" if name == "ret" else name for name in names] == list(records.COLUMNS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_records([[1, 2]])[0].seed = 1
