"""README.md and docs/: their commands run, their examples work, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import config
from agents.registry import METHODS
from config.hints import other_names
from config.schema import keys_of, load_keys
from tests.data.samples import encode
from tests.helpers.docs import ROOT, add_keys, bash, blocks, copy_code, edit
from tests.helpers.runs import events, metrics
from training.run_folder import folder_of

DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", *DOCS]
WORDS = 1400
# The blocks `debug` and those of the README stacked below it, tiny.
DEBUG = """
debug:
  steps: 80
  time_limit: 40
  prefill: 10
  pretrain: 1
  train_every: 10
  eval_every: 80
  log_every: 80
  checkpoint_every: 80
  eval_episodes: 2
  eval_envs: 1
  num_threads: 1
  shadow_size: 64
  batch_size: 2
  batch_length: 6
  imag_horizon: 3
  units: 16
  dyn_deter: 16
  dyn_hidden: 16
  dyn_stoch: 4
  z_dim: 4
  cnn_depth: 4
  pretrain_steps: 100
  pretrain_save_every: 100
"""


def make_tiny(folder):
    """Puts a smaller block `debug` at the end of a copy's configs.yaml, where it stands."""
    path = folder / "configs.yaml"
    before, found, _ = path.read_text().partition("\ndebug:\n")
    assert found
    path.write_text(before + DEBUG)


def anchor(heading):
    """The name that a heading has in a link."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"\s*\n\s*", " ", text)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, section = target.partition("#")
        path = ((ROOT / page).parent / name) if name else ROOT / page
        assert path.exists(), target
        if section:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert section in map(anchor, headings), target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page):
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|md|sh|yaml))(?: [^`]*)?`", text)
    made = {
        "config.yaml",
        "mine.yaml",
        "agents/greedy_pixel.py",
        "my_envs.py",
        "envs/dot.py",
        "distracting_control/light.py",
    }
    for name in set(named) - made:
        assert (ROOT / name).exists() or ((ROOT / page).parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_are_named_exist(page):
    text = (ROOT / page).read_text()
    known = set(load_keys()) | {"configs", "help"} | set(other_names("methods"))
    known |= {name for method, keys in METHODS.items() for name in keys_of(keys, method)}
    known |= {"pixel_gain", "stillness_scale", "light_delta"}  # those of the examples
    known |= {"output", "axis", "published", "samples_per_plugin"}  # of figures, of TensorBoard
    if page == "docs/figures.md":
        known |= {"against", "at", "band", "bands", "by", "csv", "name", "offline", "panel"}
        known |= {"range", "scale", "seeds", "until"}
    known |= {"only", "scale", "backend", "address"}  # of python -m study, as are those below
    known |= {"seeds", "jobs", "per_gpu", "slurm", "dry", "watch", "csv", "frames", "variation"}
    if page == "docs/explorer.md":
        known |= {"port"}
    if page == "docs/departures.md":
        known |= {"camera_kwargs", "disag_"}  # refused, as it says
    assert set(re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", text)) - known == set()


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) < WORDS


def commands(block):
    """The words of each `python dreamer.py` in a block; its variables stand for themselves."""
    lines = re.sub(r"\\\n", " ", block).splitlines()
    values = dict(re.findall(r"^(\w+)=(\S*)", block, re.MULTILINE))
    for line in lines:
        if line.startswith("python dreamer.py"):
            line = re.sub(r"\$(\w+)", lambda match: values[match[1]], line)
            yield shlex.split(line)[2:]


def test_commands_of_the_paper_are_taken():
    parsed = [
        config.parse(words, methods=METHODS)
        for words in commands("\n".join(blocks("docs/reproduce.md", "bash")))
    ]
    tasks = ["dmc2gym_walker_walk", "gymnasium_Pusher-v5", "metaworld_drawer-open-v1"]
    assert [c.task for c in parsed[:3]] == tasks
    for c in parsed[:3]:
        assert c.source_action_num == 2
        assert c.pretrain_checkpoint_path == "runs/dmc2gym_reacher_easy/pretrain/seed_0"
    labels = ["no_distillation", "no_disentanglement", "no_disentanglement", "no_switch", ""]
    assert [c.label for c in parsed[3:8]] == labels
    assert len({folder_of(c) for c in parsed}) == len(parsed)
    for pretrained, finetuned in (parsed[4:6], parsed[8:10]):
        assert Path(finetuned.pretrain_checkpoint_path) == folder_of(pretrained)


def test_commands_of_the_methods_are_taken():
    for page in (page for page in PAGES if page.startswith("docs/methods/")):
        words = [*commands("\n".join(blocks(page, "bash")))]
        assert words, page
        parsed = [config.parse(each, methods=METHODS) for each in words]
        assert {c.method_name for c in parsed} == {Path(page).stem}
        assert len({folder_of(c) for c in parsed}) == len(parsed)


def test_commands_of_the_published_curves_are_taken():
    """They are in float32, without overlap, with 14 targets, at the published rate of steps."""
    dmc, pusher = (
        config.parse(words, methods=METHODS)
        for words in commands("\n".join(blocks("docs/departures.md", "bash")))
    )
    metaworld = config.parse(
        ["--configs", "defaults", "metaworld", "as_published"], methods=METHODS
    )
    for c in (dmc, pusher, metaworld):
        assert (c.imag_horizon, c.precision, c.overlap, c.clip_actions) == (
            14,
            "32",
            "False",
            False,
        )
        assert (c.lambda_return, c.actor_target) == ("published", "published")
        assert (c.actor_dist, c.teacher) == ("normal_published", "trainable")
        assert (c.pretrain_latents, c.eta_schedule) == ("mode", "published")
        assert c.first_action == "published"
    assert (dmc.action_repeat, dmc.steps, dmc.eval_every, dmc.log_every) == (4, 2e6, 2e4, 2e4)
    assert (pusher.action_repeat, pusher.steps) == (2, 1e6)
    geometries = [c.drawer_geometry for c in (dmc, pusher, metaworld)]
    assert geometries == ["package", "package", "published"]


@pytest.mark.slow
def test_commands_of_the_readme_run(tmp_path):
    folder = copy_code(tmp_path / "copy", "tests")
    make_tiny(folder)
    (folder / "my_videos").mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    encode(folder / "my_videos" / "one.mp4", list(pictures))
    script = "".join(blocks("README.md", "bash"))
    script = re.sub(r"^(make|source) .*$", "", script, flags=re.MULTILINE)
    script, count = re.subn(r"^size=.*$", 'size="cpu debug"', script, flags=re.MULTILINE)
    assert count == 1
    done = bash(folder, f"export XDG_CACHE_HOME={tmp_path}\n{script}")
    assert done.returncode == 0, done.stderr
    runs = folder / "runs"
    assert (runs / "my_videos/pretrain/seed_0/encoder.pt").exists()
    collected = runs / "dmc2gym_reacher_easy/dreamerv2/seed_0"
    finetuned = runs / "dmc2gym_walker_walk/diswm/seed_0"
    assert any("model_loss" in row for row in metrics(collected))
    assert any("distillation_kl_loss" in row for row in metrics(finetuned))
    assert list((finetuned / "evaluations").iterdir())
    assert (folder / "curve.png").exists()


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy in which a reader has followed every page that says how to add something."""
    folder = copy_code(tmp_path_factory.mktemp("docs") / "copy", "docs")
    configs, registry = folder / "configs.yaml", folder / "agents" / "registry.py"

    (method, line), (block,) = (blocks("docs/add_a_method.md", kind) for kind in ("python", "yaml"))
    (folder / "agents" / "greedy_pixel.py").write_text(method)
    edit(registry, "AGENTS = {\n", f"AGENTS = {{\n{line}")
    configs.write_text(configs.read_text().replace("\n# A laptop's", f"\n{block}\n# A laptop's"))

    (term,), (key,) = (blocks("docs/add_a_loss_term.md", kind) for kind in ("python", "yaml"))
    edit(folder / "models.py", "        return outputs\n", f"{term}        return outputs\n")
    add_keys(folder, key)

    mine, suite, names, listed, light = blocks("docs/add_an_environment.md", "python")
    (folder / "my_envs.py").write_text(mine)
    (folder / "envs" / "dot.py").write_text(suite)
    tasks = folder / "envs" / "tasks.py"
    suites = "atari, crafter, dmc, drawerworld, maniskill, minigrid, pusher"
    edit(tasks, f"from envs import {suites}\n", names)
    suites = "dmc, pusher, drawerworld, atari, minigrid, crafter, maniskill"
    edit(tasks, f"    for module in ({suites})\n", listed)
    (folder / "distracting_control" / "light.py").write_text(light)
    add_keys(folder, *blocks("docs/add_an_environment.md", "yaml"))
    make_tiny(folder)
    return folder


def test_a_new_method_is_listed_and_its_misspelt_name_corrected(followed):
    done = bash(followed, "python dreamer.py --help all")
    assert re.search(r"--method_name .*\bgreedy_pixel\b", done.stdout)
    for flag in ("--pixel_gain", "--stillness_scale", "--light_delta", "--test_light_delta"):
        assert f"  {flag} " in done.stdout
    done = bash(followed, "python dreamer.py --method_name greedy_pixle")
    assert done.returncode == 2
    assert "did you mean 'greedy_pixel'?" in done.stderr


@pytest.mark.slow
def test_a_new_method_trains_and_keeps_the_contract(followed):
    (script,) = blocks("docs/add_a_method.md", "bash")
    done = bash(followed, script)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = followed / "runs/dmc2gym_walker_walk/greedy_pixel/seed_0"
    assert "pixel_gain: 3.0\n" in (folder / "config.yaml").read_text()
    assert any("threshold_error" in row for row in metrics(folder))


@pytest.mark.slow
def test_a_new_loss_term_is_logged_and_weighed(followed, tmp_path):
    command = "python dreamer.py --configs defaults cpu debug --task dot_middle --log_videos False "
    command += f"--method_name dreamerv2 --stillness_scale 0.1 --logdir {tmp_path}"
    done = bash(followed, command)
    assert done.returncode == 0, done.stderr
    rows = metrics(tmp_path / "dot_middle/dreamerv2/seed_0")
    assert any(row.get("stillness_loss", 0) > 0 for row in rows)


@pytest.mark.slow
def test_an_environment_of_ones_own_is_learned_and_evaluated(followed):
    done = bash(followed, blocks("docs/add_an_environment.md", "bash")[0])
    assert done.returncode == 0, done.stderr
    folder = followed / "runs/gymnasium_my_envs_Cart-v0/dreamerv2/seed_0"
    assert any("discount_loss" in row for row in metrics(folder))
    assert f"--evaluate {folder} --task gymnasium_my_envs:Cart-v0" in done.stdout  # what comes next
    with np.load(next(folder.glob("train_eps/*.npz"))) as episode:
        speeds, steered = episode["vector"][:, 0], episode["action"].argmax(1) - 1
        np.testing.assert_allclose(speeds[1:], 0.8 * speeds[:-1] + 0.02 * steered[1:], atol=1e-6)
    assert list((folder / "evaluations").iterdir())
    # Nobody's folder runs code by itself, and who sees images alone says so.
    words = ["--device", "cpu", "--method_name", "sac", "--task", "gymnasium_my_envs:Cart-v0"]
    calls = [["--evaluate", str(folder)], words]
    script = f"import dreamer; print([dreamer.main(words) for words in {calls}])"
    done = bash(followed, f"python -c {shlex.quote(script)}")
    assert done.stdout == "[2, 2]\n"
    assert "imports the module my_envs, whose code then runs" in done.stderr
    assert "shows 1 numbers beside its image, and --method_name sac sees images" in done.stderr


@pytest.mark.slow
def test_a_new_suite_is_played(followed):
    done = bash(followed, blocks("docs/add_an_environment.md", "bash")[1])
    assert done.returncode == 0, done.stderr
    folder = followed / "runs/dot_middle/random/seed_0"
    assert events(folder, "finished")
    with np.load(next(folder.glob("train_eps/*.npz"))) as episode:
        shown = episode["image"].reshape(len(episode["image"]), -1, 3).max(1)
        assert (shown == (255, 60, 60)).all()
    with np.load(next(folder.glob("eval_eps/*.npz"))) as episode:
        assert (episode["image"][0].reshape(-1, 3).max(0) == (60, 255, 60)).all()


DRAWS = """
import config, dmc2gym, envs
frames = []
for words in ([], ["--light_delta", "0.5"], ["--light_delta", "0.5", "--test_light_delta", "0"]):
    parsed = config.parse(["--task", "dmc2gym_cartpole_swingup", *words])
    env = envs.make_env(parsed.task, **envs.EnvSettings.pick(parsed))
    variations = ("train", "test", "original")
    shown = [env.reset(seed=3, options={"variation": name})[0]["image"] for name in variations]
    frames.append([image.tobytes() for image in shown])
    env.close()
for lit in frames[1:]:
    print(*(one != other for one, other in zip(frames[0], lit)))
lit = dmc2gym.make("cartpole", "swingup", light_kwargs={"delta": 0.5})
print(type(lit.dmc_env).__name__)
print("light_delta" in envs.SUITES["dmc2gym"].reads, "light_delta" in envs.SUITES["dmc"].reads)
"""


@pytest.mark.slow
def test_a_new_distraction_is_drawn_where_it_is_on(followed):
    done = bash(followed, f"python -W ignore -c {shlex.quote(DRAWS)}")
    assert done.returncode == 0, done.stderr
    told = ["True True False", "True False False", "DistractingLight", "True False"]
    assert done.stdout.splitlines() == told
    done = bash(followed, blocks("docs/add_an_environment.md", "bash")[2])
    assert done.returncode == 0, done.stderr
    done = bash(followed, "python dreamer.py --light_delta 2")
    assert done.returncode == 2
    assert "--light_delta" in done.stderr
