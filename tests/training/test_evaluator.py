"""Evaluating a run beside the run: the numbers, the files, what is refused, what stays as it is."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

import config
import dreamer
from accel.runtime import Runtime
from agents.base import Spaces
from agents.diswm import DisWM
from envs import EnvSettings, episode_seed, make_env
from fileio import checkpoints
from logger import read_metrics
from logger.pictures import GAP, cut_grid
from replay.episodes import read_episode
from tools import UserError, derive_seed
from training import evaluate as evaluating
from training.evaluation_report import HEAD
from training.stop import Stopped

ROOT = Path(dreamer.__file__).parent
CUDA = torch.cuda.is_available()
# Rewards that tell policies apart at every step, and noise that only the right seed repeats.
PLAYED = {"task": "dmc2gym_cartpole_balance", "eval_noise": 0.3, "eval_episodes": 3, "eval_envs": 2}


def stop():
    raise Stopped


def command(runs, tiny, teacher):
    return tiny.finetune(runs, **PLAYED, pretrain_checkpoint_path=teacher, async_env="none")


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny):
    """A finished run, whose teacher is gone since."""
    base = tmp_path_factory.mktemp("made")
    shutil.copytree(tiny.teacher, base / "teacher")
    folder = tiny.finish(command(base / "runs", tiny, base / "teacher"))
    shutil.rmtree(base / "teacher")
    return folder


@pytest.fixture
def run(tmp_path, made):
    """A copy of that run before its evaluation, to do with as a test likes."""
    ignore = shutil.ignore_patterns("evaluations")
    return Path(shutil.copytree(made, tmp_path / "seed_0", ignore=ignore, symlinks=True))


@pytest.fixture(scope="session")
def own(made, tiny):
    """That run's evaluation with its own settings, by one process."""
    return evaluate(tiny, made)


def evaluate(tiny, folder, /, **flags):
    """An evaluation that has to succeed: its JSON, and where it is."""
    given = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    result = tiny.run(["--evaluate", str(folder), *given])
    assert result.code == 0, result.err
    paths = [Path(line) for line in result.out.splitlines()[-3:]]
    assert [path.suffix for path in paths] == [".json", ".mp4", ".png"]
    assert {path.parent for path in paths} == {folder / "evaluations"}
    assert {path.stem for path in paths} == {paths[0].stem}
    return json.loads(paths[0].read_text()), paths[0], result


def frames_of(path):
    with av.open(str(path)) as file:
        [stream] = file.streams.video
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 20
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])


def hashes(folder, but="evaluations"):
    """The content of every file, but for those in one folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != but
    }


def rewrite(folder, drop=(), **changes):
    """Other values in a run's config.yaml."""
    path, yaml = folder / "config.yaml", YAML(typ="safe", pure=True)
    values = yaml.load(path.read_text()) | changes
    with path.open("w") as file:
        file.write(config.HEAD)
        yaml.dump({name: value for name, value in values.items() if name not in drop}, file)


# The numbers


def test_same_settings_give_what_the_run_logged(own, made):
    last = [row for row in read_metrics(made / "metrics.jsonl") if "eval_return" in row][-1]
    found, path, result = own
    assert found["return_mean"] == last["eval_return"]
    assert found["return_std"] == last["eval_return_std"] > 0
    assert found["length_mean"] == last["eval_length"] == 10
    assert (found["frames"], found["updates"], found["finished"]) == (120, 3 + 9, True)
    assert (found["colors"], found["seed"], found["flags"]) == ("test", 0, {})
    assert path.name == "000000120-test-3.json"
    seeds = [episode_seed(0, "eval", 60 * 3 + i) for i in range(3)]
    assert [one["seed"] for one in found["episodes"]] == seeds
    returns = [one["return"] for one in found["episodes"]]
    assert len(set(returns)) == 3
    assert found["return_mean"] == np.mean(returns)
    half = 4.302652729911275 * np.std(returns, ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    wanted = [np.mean(returns) - half, np.mean(returns) + half]
    np.testing.assert_allclose(found["return_interval95"], wanted)
    assert found["success_rate"] is found["distance_mean"] is None
    local = slice(len(torch.__version__.split("+")[0]))  # "+cu130" is not in every metadata
    assert found["versions"]["torch"][local] == torch.__version__[local]
    for number, one in enumerate(found["episodes"], 1):
        row = [str(number), str(one["seed"]), f"{one['return']:.2f}", "10"]
        assert row in [line.split() for line in result.out.splitlines()]
    assert result.err == ""


def by_hand(made, colors, count, seed, **settings):
    """Returns of the checkpoint's agent, played without what the evaluation is made of."""
    c = config.load_saved(made / "config.yaml")
    state = torch.load(made / "checkpoint.pt", weights_only=True)
    agent = DisWM(c, Runtime.resolve(c), Spaces((64, 64, 3), 1, discrete=False))
    weights = state["learner"]["weights"]
    assert any(".teacher." in name for name in weights)
    own = {name: value for name, value in weights.items() if ".teacher." not in name}
    torch.nn.Module.load_state_dict(agent, own)
    names = set(EnvSettings.__dataclass_fields__)
    env = make_env(c.task, **{**{k: v for k, v in c.items() if k in names}, **settings})
    returns, images, policy = [], [], None
    torch.manual_seed(derive_seed(seed, "evaluation", 60))
    for i in range(count):
        variation = {"variation": colors}
        obs, _ = env.reset(seed=episode_seed(seed, "eval", 60 * 3 + i), options=variation)
        total, ended, first = 0.0, False, True
        while not ended:
            images.append(obs["image"])
            seen = {"image": obs["image"][None], "is_first": np.array([first])}
            action, policy = agent.act(seen, policy, "eval")
            obs, reward, terminated, truncated, _ = env.step(action[0])
            total, ended, first = total + np.float32(reward), terminated or truncated, False
        returns.append(total)
        images.append(obs["image"])
    env.close()
    return returns, np.array(images).reshape(count, -1, 64, 64, 3)


def test_colours_number_seed_and_settings_are_those_asked_for(tiny, made):
    flags = {"eval_colors": "original", "eval_episodes": 2, "eval_envs": 1, "seed": 5}
    found, path, _ = evaluate(tiny, made, **flags, time_limit=14)
    returns, images = by_hand(made, "original", 2, 5, time_limit=14)
    np.testing.assert_allclose([one["return"] for one in found["episodes"]], returns, rtol=1e-6)
    assert path.name == "000000120-original-2.json"
    assert found["flags"] == {**flags, "time_limit": 14}
    assert [one["length"] for one in found["episodes"]] == [7, 7]
    sheet = np.asarray(Image.open(path.with_suffix(".png")))
    # Eight frames of each episode: all that there are.
    np.testing.assert_array_equal(cut_grid(sheet, (64, 64)), images)


@pytest.mark.slow
def test_more_episodes_in_processes_begin_with_the_same_ones(tmp_path, own, run):
    command = [sys.executable, str(ROOT / "dreamer.py"), "--evaluate", str(run)]
    command += ["--async_env", "process", "--eval_episodes", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    more = json.loads(Path(done.stdout.splitlines()[-3]).read_text())["episodes"]
    assert more[:3] == own[0]["episodes"]
    assert more[4]["seed"] == episode_seed(0, "eval", 60 * 3 + 4)


@pytest.mark.slow
def test_drawer_world_tells_more_on_any_texture(tmp_path, tiny):
    """Of an agent that has learnt nothing, on a texture that no stage of training has."""
    flags = {"steps": 0, "prefill": 2, "time_limit": 8, "distillation": False}
    folder = tiny.finish(tiny.finetune(tmp_path, task="metaworld_drawer-open-v1", **flags))
    found, path, result = evaluate(tiny, folder, eval_colors="marble")
    assert path.name == "000000008-marble-2.json"
    assert result.err == "note: this agent has made no update yet\n"
    assert "success 0%, 0 of 2" in result.out
    assert [one["success"] for one in found["episodes"]] == [False, False]
    for one in found["episodes"]:
        assert 0.1 < one["distance"] < 0.3  # the drawer is closed, and 0.19 m from its goal


# A run that goes on


@pytest.mark.slow
def test_run_that_goes_on_is_evaluated_and_not_disturbed(tmp_path, tiny, made, same, calling):
    argv = command(tmp_path / "runs", tiny, tiny.teacher)
    with calling({("acting", 5): stop}):
        assert tiny.run(argv).code == 128
    folder = tiny.folder(argv)
    before = hashes(folder)
    found, path, _ = evaluate(tiny, folder)
    assert path.name.endswith("-train-3.json")  # before the midpoint
    assert 30 <= found["frames"] < 60
    assert not found["finished"]
    assert hashes(folder) == before
    assert tiny.run(argv).code == 0
    same.run(folder, made)


def test_checkpoint_that_is_replaced_meanwhile_is_read_whole(tiny, run):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    done, swaps = threading.Event(), []

    def swap():
        while not done.is_set():
            frames = 121 + len(swaps)
            checkpoints.save_newest(run, frames, {**state, "frames": frames}, keep=1)
            swaps.append(1)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        found, _, _ = evaluate(tiny, run)
    finally:
        done.set()
        thread.join()
    assert len(swaps) > 10
    assert 120 <= found["frames"] <= 120 + len(swaps)


# The files


def test_video_and_sheet_show_the_episodes(own, made):
    path = own[1]
    [first] = (made / "eval_eps").glob("000000120-*.npz")
    truth = read_episode(first)["image"]  # of the run's own last evaluation
    video = frames_of(path.with_suffix(".mp4"))
    assert video.shape == (11, HEAD + 256, 3 * 256, 3)
    video = video[:, HEAD:]
    shown = video[:, 2::4, 2 : 4 * 64 : 4].astype(float)
    assert np.abs(shown - truth).mean() < 6
    assert np.abs(video[:, 2::4, 258:512:4].astype(float) - truth).mean() > 6  # another one
    sheet = np.asarray(Image.open(path.with_suffix(".png")))
    label = sheet.shape[1] - 8 * (128 + GAP)
    assert 50 < label < 128
    assert (sheet[20:128, :label] < 100).any()  # something is written there
    columns = np.linspace(0, 10, 8).round().astype(int)
    tiles = cut_grid(sheet, (64, 64))
    assert tiles.shape[0] == 3
    np.testing.assert_array_equal(tiles[0], truth[columns])


def test_same_evaluation_is_written_once_and_another_beside_it(tiny, run):
    untouched = hashes(run)
    _, first, _ = evaluate(tiny, run)
    before = hashes(run, but="")
    first.with_suffix(".mp4").unlink()
    assert evaluate(tiny, run)[1] == first
    assert hashes(run, but="") == before
    found, second, _ = evaluate(tiny, run, seed=1, color_distractor=False)
    assert second.name == first.stem + "-2.json"
    assert found["seed"] == 1
    after = hashes(run, but="")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3
    assert hashes(run) == untouched


# Elsewhere, later


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
def test_what_was_played_stays_though_the_next_world_fails(tiny, run, monkeypatch):
    play = evaluating._play

    def failing(evaluator, agent, steps, look):
        if look == "blur":
            raise UserError("there is no blur today")
        return play(evaluator, agent, steps, look)

    monkeypatch.setattr(evaluating, "_play", failing)
    result = tiny.run(["--evaluate", str(run), "--eval_worlds", "blur"])
    assert result.code == 2
    assert "there is no blur today" in result.err
    [path] = (run / "evaluations").glob("*.json")
    assert str(path) in result.out.splitlines()


def test_older_run_of_a_gpu_is_evaluated_on_the_cpu(tiny, run, own):
    """A run older than some keys; and blocks beside it, which are not read."""
    drop = ("evaluate", "eval_colors", "video_fps", "train_texture")
    rewrite(run, drop=drop, device="cuda:0", replay_device="cuda", cuda_graphs="True")
    result = tiny.run(["--configs", "defaults", "dmc2gym", "cpu", "--evaluate", str(run)])
    assert result.code == 0
    blocks, device = result.err.splitlines()
    assert blocks.startswith("note: --configs is not read")
    assert device.startswith("note: the run's device cuda:0 is not here")
    found = json.loads(Path(result.out.splitlines()[-3]).read_text())
    assert found["device"] == "cpu"
    assert found["episodes"] == own[0]["episodes"]


def test_the_midpoint_is_the_runs_whatever_the_action_repeat(tiny, run):
    """The run has 120 frames; at repeat 8 its 60 agent steps would be beyond another midpoint."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    for steps, colors in ((29, "train"), (30, "test")):
        state["collector"]["steps"] = steps
        torch.save(state, run / "checkpoint.pt")
        flags = {"action_repeat": 4, "eval_episodes": 1, "eval_envs": 1}
        found, _, _ = evaluate(tiny, run, **flags)
        assert found["colors"] == colors
        assert [one["length"] for one in found["episodes"]] == [5]
