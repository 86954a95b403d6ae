"""What a run was made with is written down, and nothing of a checkout is run to find it out."""

import json
import os
import shlex
import shutil
import subprocess

import pytest
import torch

import config
from accel.runtime import Runtime
from logger import read_metrics
from tests.helpers.runs import refusal
from training import provenance
from training.run_folder import RunFolder, check_format

CPU = torch.device("cpu")


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository of one commit whose own settings name programs."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "diswm"\nversion = "3.2.1"\n')
    (folder / "a b.py").write_text("x = 1\n")
    (folder / "notes.md").write_text("a\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    ran = tmp_path / "ran"
    program = folder / ".git" / "program"
    program.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(ran))}\ncat\n")
    program.chmod(0o755)
    for name in (
        "core.fsmonitor",
        "filter.x.clean",
        "filter.x.smudge",
        "core.pager",
        "diff.external",
    ):
        git(folder, "config", name, str(program))
    (folder / ".git" / "info" / "attributes").write_text("*.py filter=x\n")
    (folder / ".git" / "hooks").mkdir(exist_ok=True)
    os.symlink(program, folder / ".git" / "hooks" / "post-index-change")
    yield folder
    assert not ran.exists()


def head(folder):
    return (folder / ".git" / "refs" / "heads" / "main").read_text().strip()


def test_commit_and_whether_the_code_is_modified(checkout):
    clean = {"version": "3.2.1", "commit": head(checkout), "modified": False}
    assert provenance.code(checkout) == clean
    (checkout / "notes.md").write_text("b\n")  # no code
    os.utime(checkout / "a b.py", (1, 1))
    assert provenance.code(checkout) == clean
    (checkout / "a b.py").write_text("x = 2\n")
    assert provenance.code(checkout) == clean | {"modified": True}
    (checkout / "a b.py").unlink()
    assert provenance.code(checkout)["modified"] is True


def test_another_worktree_and_packed_names(checkout, tmp_path):
    commit = head(checkout)
    git(checkout, "pack-refs", "--all")
    git(checkout, "config", "--unset-all", "core.fsmonitor")
    git(checkout, "config", "--remove-section", "filter.x")
    git(
        checkout, "-c", "core.hooksPath=/dev/null", "worktree", "add", "-q", str(tmp_path / "other")
    )
    for folder in (checkout, tmp_path / "other"):
        assert provenance.code(folder)["commit"] == commit
        assert provenance.code(folder)["modified"] is False


def test_without_checkout_or_git_there_is_the_version(checkout, tmp_path, monkeypatch):
    unknown = {"version": "3.2.1", "commit": None, "modified": None}
    inside = checkout / "vendored"  # another project's repository is not this code's
    inside.mkdir()
    (inside / "pyproject.toml").write_text('version = "3.2.1"\n')
    assert provenance.code(inside) == unknown
    assert provenance.code(tmp_path) == unknown | {"version": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code(checkout) == unknown


def test_settings_of_the_shell_lead_to_no_other_repository(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path))
    assert provenance.code(checkout)["commit"] == head(checkout)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            '{"commit": "0123456789abcdef"}\n{"commit": "123456789abcdef0"}\n',
            ", commit 123456789abc:",
        ),
        ('{"commit": null}\n', "made it:"),
        ('{"commit": "a\\nb"}\n', "made it:"),
        ("[]\n", "made it:"),
        ('{"comm', "made it:"),
        (None, "made it:"),
    ],
)
def test_a_run_of_another_format_is_refused_with_the_commit_that_wrote_it(tmp_path, lines, told):
    (tmp_path / "config.yaml").write_text("# DisWM run, format 0\nseed: 0\n")
    if lines:
        (tmp_path / "provenance.jsonl").write_text(lines)
    assert told in refusal(check_format, tmp_path)


def test_each_start_has_a_line(tmp_path, tiny):
    argv = tiny.finetune(tmp_path, wandb_name="two words")
    for _ in range(2):
        given = config.parse(argv)
        run = RunFolder(given, Runtime.resolve(given), argv)
        run.renderer = "osmesa"
        with run:
            pass
        run.close()
    lines = (run.folder / "provenance.jsonl").read_text().splitlines()
    assert len(lines) == 2
    for start in map(json.loads, lines):
        assert shlex.split(start["command"]) == ["dreamer.py", *argv]
        assert start["versions"]["torch"].startswith(torch.__version__.split("+")[0])
        assert {"python", "mujoco", "dm_control", "numpy"} <= start["versions"].keys()
        assert (start["renderer"], start["device"]) == ("osmesa", "cpu")
        assert start["device_name"]
    [told] = [r for r in read_metrics(run.folder / "metrics.jsonl") if r["event"] == "provenance"]
    assert (told["commit"], told["file"]) == (start["commit"], "provenance.jsonl")


def test_a_line_that_an_editor_cut_is_no_line_of_ours(tmp_path):
    (tmp_path / "provenance.jsonl").write_text('{"mine": 1}')
    provenance.write_start(tmp_path, [], CPU, None)
    first, second = map(json.loads, (tmp_path / "provenance.jsonl").read_text().splitlines())
    assert first == {"mine": 1}
    assert second["renderer"] is None
