"""A loss term is two places, as docs/add_a_loss_term.md has it: its edits, done to a copy."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from logger import read_metrics

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "runs", "results", "shared", "tests", "benchmarks", "docs"
)


def insert(path, block, where):
    """Puts a block of the page behind what a pattern finds first."""
    text = path.read_text()
    place = re.search(where, text).end()
    path.write_text(text[:place] + block + text[place:])


@pytest.mark.slow
def test_a_loss_term_is_two_places(tmp_path, tiny):
    page, code = (ROOT / "docs" / "add_a_loss_term.md").read_text(), tmp_path / "code"
    shutil.copytree(ROOT, code, ignore=LEFT_OUT)
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", page, re.DOTALL))
    insert(
        code / "models.py", blocks["python"], r"class WorldModel\((.|\n)*?(?=        return outp)"
    )
    insert(code / "configs.yaml", blocks["yaml"], r"defaults:\n(.|\n)*?(?=  image_scale:)")

    def run(**flags):
        few = {"steps": 40, "prefill": 15, "pretrain": 1, "eval_every": 0, "log_every": 10}
        flags = {"method_name": "dreamerv2", "reward_scale": 1, **few, **flags}
        words = [sys.executable, "dreamer.py", *tiny.episodes(tmp_path / "runs", **flags)]
        return subprocess.run(words, cwd=code, capture_output=True, text=True)

    refused = run(stillness_scale="linear(0,1")
    assert refused.returncode == 2
    assert "--stillness_scale" in refused.stderr
    ended = run(stillness_scale="linear(1e5,1e5,10)")
    assert ended.returncode == 0, ended.stderr
    (log,) = (tmp_path / "runs").rglob("metrics.jsonl")
    rows = [row for row in read_metrics(log) if "stillness_loss" in row]
    assert rows
    for row in rows:
        terms = row["image_loss"] + row["kl_loss"] + row["reward_loss"]
        assert row["stillness_loss"] > 1e-3
        assert row["model_loss"] - terms == pytest.approx(1e5 * row["stillness_loss"], rel=1e-3)
