"""Configuration: blocks stack, flags override, types come from the defaults, nothing changes."""

import re

import pytest
from ruamel.yaml import YAML

import checks
import config
from agents.diswm import SCHEDULES
from config import CONFIGS, RETIRED, check_same, load_keys, parse
from tools import UserError, schedule

KEYS = load_keys()
BLOCKS = YAML(typ="safe", pure=True).load(CONFIGS.read_text(encoding="utf-8"))

PRETRAIN = (
    "--configs defaults dmc2gym --task dmc2gym_reacher_easy --logdir L --seed 0 "
    "--beta_vae_pretrain True --beta_vae True --pretrain_action_num 2 "
    "--pretrain_datasets_path D/train_eps --device cpu"
)
FINETUNE = (
    "--device cpu --task dmc2gym_walker_walk --logdir L --pretrain_checkpoint_path C --seed 0 "
    "--configs defaults dmc2gym --traverse True --beta_vae True --method_name diswm "
    "--cross_domain False --source_action_num 2 --action_num_gap 4 --distillation True "
    "--color_distractor True"
)


def changed(parsed):
    """The values that are not the defaults'."""
    return {name: value for name, value in parsed.items() if value != KEYS[name].default}


@pytest.fixture
def presets(tmp_path):
    """A small configs.yaml of our own."""
    path = tmp_path / "configs.yaml"
    path.write_text(
        "defaults:\n\n"
        "  # ## First\n"
        "  count: 3 # how many\n"
        "  rate: 1e-4 # how fast\n"
        "  frames: 1e6 # how long\n"
        "  maybe: null # [float] {low|high|null} perhaps\n"
        "  name: a # {a|b} who\n\n"
        "  # ## Second\n"
        "  sides: [4, 4] # how large\n"
        "  words: [x, y] # which\n"
        "  yes: True # whether\n"
        "one:\n  count: 5\n  rate: 1\n"
        "two:\n  count: 7\n"
        "typo:\n  cuont: 7\n"
        "wrong:\n  count: many\n"
    )
    return path


def test_pretraining_command_of_the_paper():
    parsed = parse(PRETRAIN.split())
    assert changed(parsed) == {
        "task": "dmc2gym_reacher_easy",
        "logdir": "L",
        "beta_vae_pretrain": True,
        "beta_vae": True,
        "pretrain_action_num": 2,
        "pretrain_datasets_path": "D/train_eps",
        "device": "cpu",
        "steps": 1_000_000,
        "dyn_cell": "gru_layer_norm",
        "imag_gradient_mix": "1.0",
        "reward_scale": 2.0,
    }


def test_finetuning_command_of_the_paper(tmp_path):
    parsed = parse(FINETUNE.split())
    assert changed(parsed) == {
        "task": "dmc2gym_walker_walk",
        "logdir": "L",
        "pretrain_checkpoint_path": "C",
        "device": "cpu",
        "traverse": True,
        "beta_vae": True,
        "source_action_num": 2,
        "action_num_gap": 4,
        "distillation": True,
        "color_distractor": True,
        "steps": 1_000_000,
        "dyn_cell": "gru_layer_norm",
        "imag_gradient_mix": "1.0",
        "reward_scale": 2.0,
    }
    assert (parsed.method_name, parsed.seed, parsed.cross_domain) == ("diswm", 0, False)
    (tmp_path / "encoder.pt").touch()
    checks.check(parsed.replace(pretrain_checkpoint_path=str(tmp_path)))


def test_defaults_are_the_papers():
    parsed = parse(["--configs", "defaults", "dmc2gym"])
    table_d = {"size": (64, 64), "z_dim": 20, "model_lr": 3e-4, "actor_lr": 8e-5, "value_lr": 8e-5}
    table_d |= {"batch_size": 50, "batch_length": 50, "imag_horizon": 15, "discount": 0.99}
    table_d |= {"discount_lambda": 0.95, "beta_vae_beta": "0.015", "kl_scale": "1.0"}
    table_d |= {"prefill": 2500, "pretrain": 100, "train_every": 5, "opt_eps": 1e-5}
    table_d |= {"dyn_stoch": 50, "dyn_deter": 200, "dyn_hidden": 200, "grad_clip": 100.0}
    table_d |= {"pretrain_steps": 1_000_000, "pretrain_save_every": 100_000, "action_repeat": 2}
    assert {name: parsed[name] for name in table_d} == table_d


def test_blocks_stack_left_to_right_and_flags_override(presets):
    def count(*argv):
        return parse(argv, presets).count

    assert count() == 3
    assert count("--configs", "defaults", "one") == 5
    assert count("--configs", "defaults", "one", "two") == 7
    assert count("--configs", "defaults", "two", "one") == 5
    assert count("--configs", "one") == 5  # defaults are always below
    assert count("--count", "9", "--configs", "defaults", "one", "two") == 9
    assert count("--configs", "defaults", "one", "--count=11") == 11


def test_types_come_from_the_defaults(presets):
    parsed = parse(["--configs", "defaults", "one"], presets)
    assert {name: (value, type(value)) for name, value in parsed.items()} == {
        "count": (5, int),
        "rate": (1.0, float),
        "frames": (1_000_000, int),
        "maybe": (None, type(None)),
        "name": ("a", str),
        "sides": ((4, 4), tuple),
        "words": (("x", "y"), tuple),
        "yes": (True, bool),
    }


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "1.01e6", 1_010_000),
        ("steps", "500", 500),
        ("seed", "-0", 0),
        ("opt_eps", "1", 1.0),
        ("model_lr", "3e-4", 3e-4),
        ("beta_vae", "true", True),
        ("beta_vae", "FALSE", False),
        ("camera_id", "2", 2),
        ("camera_id", "None", None),
        ("camera_id", "null", None),
        ("test_camera", "False", False),
        ("test_camera", "none", None),
        ("disjoint_sets", "null", None),
        ("disjoint_sets", "test", "test"),
        ("difficulty", "hard", "hard"),
        ("logdir", "~/runs", "~/runs"),
        ("wandb", "off", "off"),
        ("precision", "16", "16"),
        ("kl_scale", "linear(0,1,100)", "linear(0,1,100)"),
        ("beta_vae_beta", "0", "0"),
    ],
)
def test_flags_take_what_their_key_takes(key, text, value):
    found = parse([f"--{key}", text])[key]
    assert found == value
    assert type(found) is type(value)


def test_lists_of_numbers():
    assert parse(["--size", "32", "48"]).size == (32, 48)
    assert parse(["--seed", "1", "--encoder_kernels", "3", "3"]).encoder_kernels == (3, 3)


@pytest.mark.parametrize("words", [["image"], ["image", "reward", "discount"]])
def test_lists_of_words(words):
    assert parse(["--grad_heads", *words, "--seed", "1"]).grad_heads == tuple(words)


def test_help_has_every_key_once_under_its_group(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--configs", "defaults", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for block in BLOCKS:
        assert block in text.splitlines()[2].split()
    group, found = "", {}
    for line in text.splitlines():
        if re.fullmatch(r"[A-ZΒβ].*:", line):
            group = line[:-1]
        elif match := re.match(r"  --(\w+) +(.+) \[.*\]$", line):
            found[match[1]] = group, match[2]
    assert list(found) == list(KEYS)
    for name, (group, remark) in found.items():
        assert group == KEYS[name].group
        assert remark.endswith(KEYS[name].help)


def test_short_help_flag(capsys):
    with pytest.raises(SystemExit):
        parse(["-h"])
    assert "--pretrain_datasets_path" in capsys.readouterr().out


@pytest.mark.parametrize("name", KEYS)
def test_every_key_has_help_a_group_and_a_fitting_default(name):
    key = KEYS[name]
    assert re.search(r"\w{3}", key.help), "a remark that says something"
    assert "#" not in key.help
    assert key.group
    assert key.parse(key.default) == key.default
    assert type(key.parse(key.default)) in (key.kind, tuple, type(None))
    assert key.nullable == (key.default is None or "null" in key.choices)
    if key.choices and key.default is not None:
        assert str(key.default) in key.choices


@pytest.mark.parametrize("block", [name for name in BLOCKS if name != "defaults"])
def test_every_block_has_known_keys_that_change_something(block):
    assert set(BLOCKS[block]) <= set(KEYS)
    parsed = parse(["--configs", "defaults", block])
    for name, value in BLOCKS[block].items():
        assert parsed[name] == KEYS[name].parse(value)


@pytest.mark.parametrize("blocks", [["dmc2gym"], ["dmc2gym", "cpu"], ["dmc2gym", "cpu", "demo"]])
def test_presets_pass_the_checks(blocks, tmp_path):
    (tmp_path / "encoder.pt").touch()
    flags = ["--device", "cpu", "--method_name", "dreamerv2"]
    checks.check(parse(["--configs", "defaults", *blocks, *flags]))
    checks.check(parse(["--configs", "defaults", *blocks, "collect", "--device", "cpu"]))


def test_schedules_of_the_defaults_parse():
    defaults = parse([])
    for key in SCHEDULES.values():
        if defaults[key] != "auto":
            assert schedule(defaults[key])(0) >= 0


def test_retired_flags_are_no_keys_and_have_a_mend():
    assert not set(RETIRED) & set(KEYS)
    assert all(len(mend) > 10 for mend in RETIRED.values())


def test_misspelt_preset_is_refused(presets):
    with pytest.raises(UserError, match=r"block typo: unknown key 'cuont'.*'count'"):
        parse(["--configs", "defaults", "typo"], presets)
    with pytest.raises(UserError, match="--count takes a whole number, not 'many'"):
        parse(["--configs", "defaults", "wrong"], presets)


def test_key_without_a_remark_is_refused(tmp_path):
    path = tmp_path / "configs.yaml"
    path.write_text("defaults:\n  told: 1 # a number\n  untold: 2\n")
    with pytest.raises(UserError, match=r"without a remark.*untold"):
        parse([], path)


@pytest.mark.parametrize(
    "text",
    ["", "a: [1", "defaults: 3", "other: {a: 1}"],
    ids=["empty", "broken", "no keys", "no defaults"],
)
def test_presets_that_are_none_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "configs.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refusal:
        parse([], path)
    assert "\n" not in str(refusal.value)
    assert "configs.yaml" in str(refusal.value)


def test_config_is_frozen_and_a_mapping():
    parsed = parse([])
    with pytest.raises(AttributeError, match="frozen"):
        parsed.seed = 3
    with pytest.raises(TypeError):
        parsed["seed"] = 3
    with pytest.raises(AttributeError, match="sede"):
        _ = parsed.sede
    other = parsed.replace(seed=3)
    assert (parsed.seed, other.seed) == (0, 3)
    with pytest.raises(KeyError, match="sede"):
        parsed.replace(sede=3)
    assert dict(parsed) == {name: key.default for name, key in KEYS.items()}


def test_saved_config_round_trips(tmp_path):
    parsed = parse(["--size", "32", "48", "--camera_id", "null", "--steps", "1.01e6"])
    parsed = parsed.replace(wandb_name="a: #b", seed=7, model_lr=1e-20, logdir="yes")
    parsed.save(tmp_path / "config.yaml")
    back = YAML(typ="safe", pure=True).load((tmp_path / "config.yaml").read_text())
    assert list(back) == sorted(back) or list(back) == list(parsed)
    assert {name: KEYS[name].parse(value) for name, value in back.items()} == dict(parsed)
    check_same(parsed, tmp_path / "config.yaml")


@pytest.mark.parametrize("name", KEYS)
def test_change_of_any_key_is_noticed_or_harmless(tmp_path, name):
    parsed = parse([])
    parsed.save(tmp_path / "config.yaml")
    value = parsed[name]
    other = (*value, value[0]) if isinstance(value, tuple) else "other" if value != "other" else ""
    changed = parsed.replace(**{name: other})
    if name in config.RESUMABLE:
        check_same(changed, tmp_path / "config.yaml")
    else:
        with pytest.raises(UserError, match=re.escape(name)) as refusal:
            check_same(changed, tmp_path / "config.yaml")
        assert "other" in str(refusal.value) or isinstance(value, tuple)
        assert "\n" not in str(refusal.value)


def test_key_that_came_later_had_its_default(tmp_path):
    parsed = parse(["--seed", "3"])
    older = config.Config({k: v for k, v in parsed.items() if k not in ("z_dim", "size")})
    older.save(tmp_path / "config.yaml")
    check_same(parsed, tmp_path / "config.yaml")
    with pytest.raises(UserError, match="z_dim: 20 there, 21 now"):
        check_same(parsed.replace(z_dim=21), tmp_path / "config.yaml")
    loaded = config.load_saved(tmp_path / "config.yaml")
    assert dict(loaded) == dict(parsed)
    assert loaded.size == (64, 64)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- a list", "not a run's configuration"),
        ("zdim: 3", "'zdim'"),
        ("z_dim: many", "--z_dim takes a whole number"),
        ("a: [1", "cannot be read"),
    ],
)
def test_saved_config_that_is_none_is_refused(tmp_path, text, wanted):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=wanted) as refusal:
        config.load_saved(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_flags_that_were_given_are_known_whatever_their_values():
    parsed = parse(["--configs", "defaults", "cpu", "--eval_episodes", "10"])
    assert parsed.given == {"eval_episodes"}
    assert parsed.replace(seed=3).given == {"eval_episodes"}
