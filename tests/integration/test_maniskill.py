"""HRSSM's command line of its realistic ManiSkill, at debug size."""

import pytest

from logger import read_metrics

pytestmark = pytest.mark.maniskill


def test_the_block_stands_alone_trains_and_tells_success(tmp_path, tiny):
    argv = ["--configs", "realistic_maniskill", "debug", "--task", "rms_push_cube", "--seed", "0"]
    argv += ["--logdir", str(tmp_path), "--device", "cpu", "--log_videos", "False"]
    result = tiny.run(argv)
    assert result.code == 0, result.err
    said = result.err.splitlines()
    assert sum("computed pictures are behind the robot" in line for line in said) == 1
    [folder] = tmp_path.glob("rms_push_cube/hrssm/seed_0")
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "eval_return" in row]
    assert rows
    for row in rows:
        assert row["eval_length"] == 20
        assert 0 <= row["eval_return"] <= 20
        assert row["eval_success"] in (0.0, 0.5, 1.0)
