"""Command lines: blocks stack, flags override, a method's keys come with it, help lists all."""

import dataclasses
import re
import sys

import pytest
from ruamel.yaml import YAML

from accel.runtime import Runtime
from agents.base import Agent
from agents.registry import AGENTS, METHODS, MethodKeys, agent_class
from config import CONFIGS, check_same, key, load_keys, load_saved, parse
from dreamer import check
from tools import UserError

KEYS = load_keys()
BLOCKS = YAML(typ="safe", pure=True).load(CONFIGS.read_text(encoding="utf-8"))
WITHIN = [(a, b) for a, keys in BLOCKS.items() for b in keys if isinstance(keys[b], dict)]
SUITE = {"steps": 1_000_000, "dyn_cell": "gru_layer_norm"}
SUITE |= {"imag_gradient_mix": "1.0", "reward_scale": "2.0"}


@dataclasses.dataclass(frozen=True)
class Keys:
    """Of an invented method."""

    queue_size: int = key(4096, "frames to look back on", above=0)
    bonus_scale: str = key("linear(1,0,9)", "weight of its bonus", schedule=True)


class Invented:
    Keys = Keys


class Plain:
    Keys = None


METHODS_HERE = MethodKeys({"invented": f"{__name__}:Invented", "plain": f"{__name__}:Plain"})


@pytest.fixture
def presets(tmp_path):
    """A small configs.yaml of our own."""
    path = tmp_path / "configs.yaml"
    path.write_text(
        "defaults:\n\n"
        "  # ## First\n"
        "  method_name: plain # who\n"
        "  task: x # what\n"
        "  count: 3 # {>0} how many\n"
        "  rate: 1e-4 # how fast (resume)\n"
        "suite:\n  task: y\n  count: 4\n"
        "one:\n  count: 5\n  rate: 1\n"
        "two:\n  count: 7\n"
        "invented:\n  count: 50\n  queue_size: 9\n  one: {count: 51}\n  two: {queue_size: 10}\n"
        "chooses:\n  method_name: invented\n"
        "typo:\n  cuont: 7\n"
        "wrong:\n  count: many\n"
        "many:\n  method_name: [a]\n"
        "lost:\n  three: {count: 1}\n"
    )
    return path


def changed(parsed):
    """The values that are not the defaults'."""
    return {name: value for name, value in parsed.items() if value != KEYS[name].default}


# The paper's commands


def test_commands_of_the_paper(tmp_path):
    words = "--configs defaults dmc2gym --task dmc2gym_reacher_easy --logdir L --seed 0 "
    words += "--beta_vae_pretrain True --beta_vae True --pretrain_action_num 2 "
    words += "--pretrain_datasets_path D/train_eps --device cpu"
    wanted = {"task": "dmc2gym_reacher_easy", "logdir": "L", "device": "cpu", **SUITE}
    wanted |= {"beta_vae_pretrain": True, "beta_vae": True, "pretrain_action_num": 2}
    wanted |= {"pretrain_datasets_path": "D/train_eps"}
    assert changed(parse(words.split(), methods=METHODS)) == wanted

    words = "--device cpu --task dmc2gym_walker_walk --logdir L --pretrain_checkpoint_path C "
    words += "--seed 0 --configs defaults dmc2gym --traverse True --beta_vae True --method_name "
    words += "diswm --cross_domain False --source_action_num 2 --action_num_gap 4 "
    words += "--distillation True --color_distractor True"
    wanted = {"task": "dmc2gym_walker_walk", "logdir": "L", "device": "cpu", **SUITE}
    wanted |= {"pretrain_checkpoint_path": "C", "source_action_num": 2, "action_num_gap": 4}
    wanted |= dict.fromkeys(("traverse", "beta_vae", "distillation", "color_distractor"), True)
    parsed = parse(words.split(), methods=METHODS)
    assert changed(parsed) == wanted
    (tmp_path / "encoder.pt").touch()
    check(parsed.replace(pretrain_checkpoint_path=str(tmp_path)), Runtime.resolve(parsed))


@pytest.mark.parametrize("words", ["random cpu demo", "cpu debug --method_name random"])
def test_the_random_agent_makes_no_updates(words):
    parsed = parse(f"--configs defaults dmc2gym {words}".split(), methods=METHODS)
    assert (parsed.method_name, parsed.pretrain, parsed.train_steps) == ("random", 0, 0)


def test_defaults_are_the_papers():
    parsed = parse(["--configs", "defaults", "dmc2gym"])
    table_d = {"size": (64, 64), "z_dim": 20, "model_lr": 3e-4, "actor_lr": 8e-5, "value_lr": 8e-5}
    table_d |= {"batch_size": 50, "batch_length": 50, "imag_horizon": 15, "discount": 0.99}
    table_d |= {"discount_lambda": 0.95, "beta_vae_beta": "0.015", "kl_scale": "1.0"}
    table_d |= {"prefill": 2500, "pretrain": 100, "train_every": 5, "opt_eps": 1e-5}
    table_d |= {"dyn_stoch": 50, "dyn_deter": 200, "dyn_hidden": 200, "grad_clip": 100.0}
    table_d |= {"pretrain_steps": 1_000_000, "pretrain_save_every": 100_000, "action_repeat": 2}
    assert {name: parsed[name] for name in table_d} == table_d


# Blocks


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("", 3),
        ("--configs defaults one", 5),
        ("--configs defaults one two", 7),
        ("--configs defaults two one", 5),
        ("--configs one", 5),  # defaults are always below
        ("--count 9 --configs defaults one two", 9),
        ("--configs defaults one --count=11", 11),
    ],
)
def test_blocks_stack_left_to_right_and_flags_override(presets, words, count):
    assert parse(words.split(), presets).count == count


@pytest.mark.parametrize(
    ("words", "count", "queue"),
    [
        ("invented", 50, 9),
        ("suite invented", 50, 9),
        ("invented one", 51, 9),  # one says what it is to the method
        ("one invented", 51, 9),
        ("invented two", 7, 10),
        ("invented one two", 7, 10),
        ("suite one --method_name invented", 51, 9),  # behind the suite, before the rest
        ("suite two --method_name invented", 7, 10),
        ("one chooses", 51, 9),
        ("chooses --method_name plain", 3, None),
        ("one --method_name invented --queue_size 3 --count 2", 2, 3),
    ],
)
def test_the_block_of_a_method_and_the_blocks_within(presets, words, count, queue):
    parsed = parse(["--configs", "defaults", *words.split()], presets, METHODS_HERE)
    assert (parsed.count, parsed.get("queue_size")) == (count, queue)
    assert parsed.method_name == ("plain" if queue is None else "invented")
    assert parsed.blocks == ("defaults", *words.split(" --")[0].split())


@pytest.mark.parametrize("blocks", [*((b,) for b in BLOCKS if b != "defaults"), *WITHIN], ids=str)
def test_every_block_has_known_keys_that_hold(blocks):
    parsed, block = parse(["--configs", *blocks], methods=METHODS), BLOCKS
    for name in blocks[-2:]:
        block = block[name]
    for name, value in block.items():
        assert isinstance(value, dict) or parsed[name] == parsed.schema[name].parse(value)


PRESETS = ["dmc2gym", "dmc2gym cpu", "dmc2gym cpu demo", "dmc2gym debug"]
PRESETS += ["dmc2gym as_published", "metaworld as_published"]


@pytest.mark.parametrize("blocks", PRESETS)
def test_presets_pass_the_checks(blocks):
    words = ["--configs", "defaults", *blocks.split()]
    for more in (["--method_name", "dreamerv2"], ["collect"]):
        parsed = parse([*words, *more, "--device", "cpu"], methods=METHODS)
        check(parsed, Runtime.resolve(parsed))


def test_a_block_of_another_spelling_is_taken_under_a_warning(capsys):
    assert parse(["--configs", "metawolrd"]).task == "metaworld_drawer-open-v1"
    assert "the block 'metawolrd' is called 'metaworld' here" in capsys.readouterr().err


# Hints


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        *(("--lr 1", "model_lr"), ("--learning_rate 1", "model_lr"), ("--LR=1", "model_lr")),
        *(("--batch 1", "batch_size"), ("--batch-size 1", "batch_size"), ("-lr 1", "model_lr")),
        *(("--seq_len 1", "batch_length"), ("--log_dir x", "logdir"), ("--gpu 0", "device")),
        *(("--total_steps 1", "steps"), ("--num-envs 2", "envs"), ("--env x", "task")),
        *(("--Task x", "task"), ("--METHOD_NAME x", "method_name"), ("-task x", "task")),
        *(("--gamma 1", "discount"), ("--dataset x", "pretrain_datasets_path")),
        *(("--bacth_size 3", "batch_size"), ("--configs DMC2GYM", "dmc2gym")),
        ("--method_name DisWM", "diswm"),
    ],
)  # fmt: skip
def test_other_names_of_a_flag_are_hints_and_no_more(words, meant):
    with pytest.raises(UserError, match=re.escape(f"(did you mean '{meant}'?)")):
        parse(words.split(), methods=METHODS)


@pytest.mark.parametrize("word", ["--FINE_TUNE", "--fine-tune", "-fine_tune"])
def test_a_retired_flag_is_known_in_any_spelling(word):
    with pytest.raises(UserError, match=f"^{word} is not used here: methods are named"):
        parse([word, "True"], methods=METHODS)


# Values


@pytest.mark.parametrize(
    ("words", "value"),
    [
        *(("steps 1.01e6", 1_010_000), ("steps 500", 500), ("seed -0", 0), ("opt_eps 1", 1.0)),
        *(("model_lr 3e-4", 3e-4), ("beta_vae true", True), ("beta_vae FALSE", False)),
        *(("camera_id 2", 2), ("camera_id None", None), ("camera_id null", None)),
        *(("test_camera False", False), ("test_camera none", None), ("wandb off", "off")),
        *(("disjoint_sets null", None), ("disjoint_sets test", "test"), ("precision 16", "16")),
        *(("difficulty hard", "hard"), ("logdir ~/runs", "~/runs"), ("beta_vae_beta 0", "0")),
        *(("kl_scale linear(0,1,100)", "linear(0,1,100)"), ("distill_scale auto", "auto")),
        *(("size 32 48", (32, 48)), ("encoder_kernels 3 3 --seed 1", (3, 3))),
        ("grad_heads image", ("image",)),
        ("grad_heads image reward discount --seed 1", ("image", "reward", "discount")),
    ],
    ids=str,
)
def test_flags_take_what_their_key_takes(words, value):
    name, *values = words.split()
    found = parse([f"--{name}", *values])[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("words", ["3 5", "3,5", "[3,5]", "[3, 5]", "[ 3 ,5 ]", "3, 5", "=[3, 5]"])
@pytest.mark.parametrize("quoted", [True, False])
def test_a_list_is_written_as_one_likes(words, quoted):
    values = [f"--size{words}"] if words[0] == "=" else ["--size", words]
    if not quoted and words[0] != "=":
        values = ["--size", *words.split()]
    assert parse([*values, "--seed", "1"]).size == (3, 5)
    names = words.replace("3", "image").replace("5", "reward")
    assert parse([f"--grad_heads={names.removeprefix('=')}"]).grad_heads == ("image", "reward")


@pytest.mark.parametrize("words", ["3,,5", "3,", "[]", "", "[3,5", "3;5", "3 [5]", "(3, 5)"])
def test_a_list_that_is_none_is_refused_as_it_was_given(words):
    with pytest.raises(
        UserError, match=r"^--size takes a (list such as 64 64|whole number), not '"
    ):
        parse(["--size", words])


def test_flags_that_were_given_are_known_whatever_their_values():
    parsed = parse(["--configs", "defaults", "cpu", "--eval_episodes", "10", "--batch_size", "7"])
    assert parsed.overrides == parsed.replace(seed=3).overrides == {"eval_episodes", "batch_size"}
    assert (parsed.batch_size, parsed.preset_value("batch_size")) == (7, 16)


# Methods


def test_a_methods_keys_are_keys_like_others(presets, tmp_path):
    words = ["--method_name", "invented", "--queue_size", "5"]
    parsed = parse(words, presets, METHODS_HERE)
    assert (parsed.queue_size, parsed.bonus_scale) == (5, "linear(1,0,9)")
    assert parsed.schedules() == {"bonus": "bonus_scale"}
    parsed.save(tmp_path / "config.yaml")
    check_same(parsed, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"\(queue_size: 5 there, 6 now\)"):
        check_same(parsed.replace(queue_size=6), tmp_path / "config.yaml")
    assert "queue_size" not in parse([], presets, METHODS_HERE)


@pytest.mark.parametrize(
    ("there", "now", "same"),
    [
        ("videos", "videos/", True),
        ("a/,b:0.3", "a,b//:0.3", True),
        ("/", "", False),
        ("videos", "videos/more", False),
    ],
)
def test_a_path_is_the_same_with_a_slash_behind_it(tmp_path, there, now, same):
    before, after = (parse(["--pretrain_datasets_path", path]) for path in (there, now))
    before.save(tmp_path / "config.yaml")
    if same:
        return check_same(after, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"another configuration \(pretrain_datasets_path: "):
        check_same(after, tmp_path / "config.yaml")


def test_a_saved_configuration_has_its_methods_keys(tmp_path):
    methods = {**METHODS, "invented": Keys}
    parsed = parse(["--method_name", "invented", "--queue_size", "5"], methods=methods)
    parsed.save(tmp_path / "config.yaml")
    assert dict(load_saved(tmp_path / "config.yaml", methods)) == dict(parsed)
    with pytest.raises(UserError, match=r"config\.yaml has a key 'bonus_scale' that this version"):
        load_saved(tmp_path / "config.yaml", METHODS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--queue_size 5", "--queue_size belongs to --method_name invented, and the"),
        ("--method_name invented --queue_size 0", "--queue_size must be above 0, not 0"),
        ("--method_name invnted", "--method_name takes invented, plain, not 'invnted' (did"),
        ("--configs invented --method_name plain", "the block invented is for --method_name"),
        ("--configs invented --queuesize 5", "unknown flag --queuesize (did you mean 'queue_size'"),
        ("--configs typo", "block typo: unknown key 'cuont' (did you mean 'count'?)"),
        ("--configs wrong", "--count takes a whole number, not 'many'"),
        ("--configs many", "--method_name takes up to 4096 characters"),
        ("--configs lost", "the block 'three' within it is called like none of the others"),
    ],
)  # fmt: skip
def test_what_no_method_or_block_is_there_for_is_refused(presets, words, line):
    with pytest.raises(UserError) as refusal:
        parse(words.split(), presets, METHODS_HERE)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_registry_imports_what_is_asked_for_and_no_more(presets):
    table = {"plain": f"{__name__}:Plain", "absent": "no_such_module:Agent"}
    assert parse([], presets, MethodKeys(table)).method_name == "plain"
    with pytest.raises(ModuleNotFoundError):
        parse(["--method_name", "absent"], presets, MethodKeys(table))
    with pytest.raises(ModuleNotFoundError):
        parse(["--help", "all"], presets, MethodKeys(table))
    assert agent_class("plain", table) is sys.modules[__name__].Plain
    with pytest.raises(UserError, match=r"^--method_name takes plain, absent, not 'plian' \(did"):
        agent_class("plian", table)


def test_every_agent_is_there():
    for name in AGENTS:
        assert issubclass(agent_class(name), Agent)


# What is no configs.yaml


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "configs.yaml has no block 'defaults'"),
        ("a: [1", "configs.yaml cannot be read"),
        ("defaults: 3", "configs.yaml has no block 'defaults'"),
        ("other: {a: 1}", "configs.yaml has no block 'defaults'"),
        ("defaults:\n  told: 1 # a word\n  untold: 2\n", "without a remark behind them: ['untold"),
    ],
)  # fmt: skip
def test_presets_that_are_none_are_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "configs.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refusal:
        parse([], path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
