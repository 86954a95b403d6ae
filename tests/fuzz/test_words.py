"""Command lines, schedules, YAML and logs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import config
from agents.model_configs import check_networks
from config import Config
from config.hints import other_names
from logger import read_metrics
from logger.jsonl import JSONLSink
from tests.fuzz.inputs import check_refusal, damaged, fuzz, laid
from tools import UserError, is_zero, schedule

KEYS = config.load_keys()

# Words that somebody's parser takes for something else.
NASTY = (
    *("", " ", "-", "--", "-1", "0", "-0", "1e400", "-1e400", "nan", "NaN", "inf", "-inf", ".inf"),
    *("1_0", "0x10", "0b1", "0o7", "1e-320", "9007199254740993", "9223372036854775807", "1e18"),
    *("9223372036854775808", "-9223372036854775809", "9" * 400, "9" * 5000, "1" * 200_000 + "x"),
    *("null", "None", "~", "true", "True", "no", "yes", "auto", "\0", "a\0b", "a\nb", "a\rb"),
    *("\x1b[2J", "\udcff", "\u2028", "\ufeff", "\uffff", "é", "٣", "½", "x" * 5000, "%s", "{0}"),
    *("../..", "/dev/zero", "/proc/self/mem", "~nobody/x", "~", "@file", "*", "[1, 2]", "{a: 1}"),
    *("os.system", "Module", "__class__", "Linear", "LSTM", "!!python/name:os.system"),
    *("linear(0,1,100)", "delay(5,warmup(3,1))", "exp(1e308,-1e308,1)", "delay(1," * 900),
    *("linear(1e308,-1e308,5)", "horizon(1,1,0)", "exp(1,2,1e-320)", "linear(0,1,1e-320)"),
)
COMMANDS = (
    "--configs defaults dmc2gym --task dmc2gym_reacher_easy --beta_vae_pretrain True --seed 0",
    "--configs defaults dmc2gym cpu --beta_vae True --distillation True --source_action_num 2",
    "--configs defaults metawolrd --kl_scale linear(0,1,100) --size 64 64 --act ELU",
    "--evaluate runs/x --eval_colors wood --device cuda:0 --grad_heads image reward discount",
    "--encoder_kernels 4 4 4 4 --decoder_kernels 5 3 4 2 --decoder_thin False --max_delta 0.1",
)


def check_types(found: Config) -> None:
    """Every value of a configuration is one that its key takes."""
    for name, value in found.items():
        assert KEYS[name].parse(value) == value, name
        assert isinstance(value, (KEYS[name].kind, tuple, type(None))), name


# Command lines.

_WORDS = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from([choice for key in KEYS.values() for choice in key.choices]),
)
_FLAGS = st.one_of(
    st.sampled_from([f"--{name}" for name in KEYS]),
    st.sampled_from([f"--{name}" for name in other_names("retired")]),
    st.sampled_from(["-h", "--help", "--configs", "--", "---", "--x", "--seed=3", "--seed="]),
    st.builds("--{}={}".format, st.sampled_from(list(KEYS)), _WORDS),
)
_PLAIN = {
    bool: st.sampled_from(["True", "False", "true"]),
    int: st.one_of(st.integers(0, 300).map(str), st.integers().map(str)),
    float: st.one_of(st.floats(0, 1).map(str), st.floats().map(str)),
    str: st.sampled_from(["", "x", "ELU", "cpu", "linear(1,0,9)", "0.5", "kl_scale"]),
    tuple: st.sampled_from(["image", "3", "64", "4"]),
}


def plain(key: config.Key) -> st.SearchStrategy[str]:
    """Texts of a key's type."""
    return _PLAIN[tuple if key.many else key.kind]


@st.composite
def _fitting(draw: st.DrawFn) -> list[str]:
    """A flag with a value of its type, or one of its choices."""
    key = draw(st.sampled_from(list(KEYS.values())))
    value = draw(st.sampled_from(key.choices) if key.choices else _PLAIN[key.kind])
    return [f"--{key.name}", value]


_PAIRS = st.tuples(_FLAGS, _WORDS).map(list)
_PIECES = st.one_of(
    *[_fitting()] * 6,
    _PAIRS,
    _WORDS.map(lambda word: [word]),
    st.lists(st.sampled_from(["defaults", "dmc", "cpu", "demo", "debug", "x"]), max_size=3).map(
        lambda blocks: ["--configs", *blocks]
    ),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command line with words put in, taken out and changed."""
    words = draw(st.sampled_from(("", *COMMANDS))).split()
    for piece in draw(st.lists(_PIECES, min_size=1, max_size=4)):
        at = len(words) if draw(st.booleans()) else draw(st.integers(0, len(words)))
        words[at : at + draw(st.integers(0, 1))] = piece
    return words


def check_help(stop: SystemExit, argv: list[str]) -> None:
    """A command line stops by itself only where help is asked for."""
    assert stop.code == 0
    assert any("h" in word for word in argv)


@fuzz(30, command_lines())
def test_a_command_line_is_a_configuration_of_the_right_types_or_refused(argv):
    try:
        found = config.parse(argv)
    except SystemExit as stop:
        return check_help(stop, argv)
    except UserError as error:
        return check_refusal(error)
    check_types(found)
    try:
        check_networks(found)
    except UserError as error:
        return check_refusal(error, "--")
    for key in found.schedules().values():
        if found[key] != "auto":
            check_schedule(found[key])


# Schedules.

_NUMBERS = st.one_of(
    st.floats(allow_nan=False).map(str),
    st.integers(-10, 10**6).map(str),
    st.sampled_from(["1e308", "-1e308", "5e-324", "0", "1", "-0.0", "1e400", ".5", "5.", "+3"]),
)


def _calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.sampled_from(["linear", "warmup", "exp", "horizon", "delay", "x", ""])
    call = st.builds(
        lambda name, items, comma: f"{name}({comma.join(items)})",
        names,
        st.lists(st.one_of(_NUMBERS, inner), max_size=4),
        st.sampled_from([",", ", ", ",,", " "]),
    )
    return st.one_of(call, st.builds("delay({},{})".format, _NUMBERS, inner))


_SCHEDULES = st.one_of(
    st.recursive(_NUMBERS, _calls, max_leaves=8),
    st.builds(lambda text, count: "delay(1," * count + text, _NUMBERS, st.integers(0, 3000)),
    st.sampled_from(NASTY),
    st.text("0123456789.eE+-,() linearwmupxhozdty", max_size=40),
)


def check_schedule(text: str) -> None:
    """A schedule that is accepted is finite at every step."""
    made = schedule(text)
    for step in (0, 1, 2.5, 1000, 45_000, 10**9):
        assert math.isfinite(made(step)), step
    assert not is_zero(text) or made(7) == 0


@fuzz(100, _SCHEDULES)
def test_a_text_is_a_schedule_of_finite_numbers_or_refused(text):
    try:
        check_schedule(text)
    except UserError as error:
        check_refusal(error, "schedule")


# YAML: blocks and saved configurations.

_VALUES = st.one_of(
    st.sampled_from([word for word in NASTY if len(word) < 6000]),
    st.sampled_from(
        [
            *("[1, 2]", "{a: 1}", "[]", "[[1]]", "!!python/object/apply:os.system ['touch owned']"),
            *("!!python/name:os.system", "!!binary aGk=", "!!set {a}", "!!int x", "!!bool x"),
            *("!!timestamp 2001-99-99", "2001-99-99", "2001-01-01", "&a [1]", "*a", "&a [*a]"),
            *("|\n    a\n    b", ">\n    a", "'a\n\n  b'", '"\\0"', '"\\ud800"', "0x" + "f" * 5000),
            *("!!float x", "!!omap [a: 1]", "? a", "- a", "<<", "!<tag:x> a", "'", '"', "# x"),
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=12),
)
SAVED = (
    "task: dmc_walker_walk\nseed: 3\nmodel_lr: 0.0003\nsize: [64, 64]\nbeta_vae: true\n",
    "logdir: null\ngrad_heads:\n- image\n- reward\nkl_scale: '1.0'\nsteps: 1000000\n",
    "steps: 1e6\nopt_eps: 1e-5\nwandb: 'off'\ntest_camera: null\ndifficulty: easy\n",
    "seed: " + "[" * 30,
    "seed: " + "{a: " * 12,
)
PRESETS = (
    "defaults:\n\n"
    "  # ## First\n"
    "  count: 3 # how many\n"
    "  rate: 1e-4 # how fast\n"
    "  maybe: null # [float] {low|high|null} perhaps\n"
    "  name: a # {a|b} who\n\n"
    "  # ## Second\n"
    "  sides: [4, 4] # how large\n"
    "  words: [x, y] # which\n"
    "  yes: True # whether\n"
    "one:\n  count: 5\n  rate: 1\n"
    "two:\n  count: 7\n"
)


@st.composite
def documents(draw: st.DrawFn, seeds: tuple[str, ...]) -> bytes:
    """A YAML document with lines and bytes changed."""
    lines = draw(st.sampled_from(seeds)).split("\n")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key = lines[at].split(":")[0] if ":" in lines[at] else draw(st.sampled_from(list(KEYS)))
        tail = lines[at].rpartition(" # ")[2] if " # " in lines[at] else ""
        value = draw(_VALUES if draw(st.booleans()) or key not in KEYS else plain(KEYS[key]))
        line = f"{key}: {value}" + (f" # {tail}" if tail else "")
        lines[at : at + draw(st.integers(0, 1))] = [line]
    text = "\n".join(lines).encode("utf-8", "surrogateescape" if draw(st.booleans()) else "replace")
    return draw(damaged([text])) if draw(st.integers(0, 3)) == 0 else text


DEFAULTS = config.parse([])


@fuzz(40, documents(SAVED))
def test_a_saved_configuration_is_read_in_the_right_types_or_refused(text):
    with laid({"config.yaml": text}) as (there, made):
        path = there / "config.yaml"
        try:
            config.check_same(DEFAULTS, path)
        except UserError as error:
            check_refusal(error, str(there))
        try:
            found = config.load_saved(path)
        except UserError as error:
            return check_refusal(error, str(path))
        check_types(found)
        found.save(made / "config.yaml")
        assert dict(config.load_saved(made / "config.yaml")) == dict(found)
        config.check_same(found, made / "config.yaml")


@fuzz(40, documents((PRESETS,)))
def test_presets_give_a_configuration_or_are_refused(text):
    with laid({"configs.yaml": text}) as (there, _):
        path = there / "configs.yaml"
        for words in ("", "--configs defaults one", "--configs two --sides 1 2"):
            try:
                found = config.parse(words.split(), path)
            except UserError as error:
                check_refusal(error, "configs.yaml", "--")
                continue
            keys = config.load_keys(path)
            for name, value in found.items():
                assert keys[name].parse(value) == value, name


# Logs.

_LINES = (
    b'{"step": 0, "time": 0.1, "a": 1.5}',
    b'{"step": 10, "time": 3.25, "event": "start", "folder": "x"}',
    b'{"step": 20, "time": 4, "loss": null, "nonfinite": ["loss"]}',
)
_ODD = (
    *(b'{"step": "3"}', b'{"step": null}', b'{"step": [1]}', b'{"step": NaN}', b'{"step": true}'),
    *(b'{"step": 1e400, "time": 1}', b'{"resumed_from": "x"}', b'{"resumed_from": null}', b"[1]"),
    *(b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b'{"step": ' + b"9" * 5000 + b"}"),
    *(b'{"step": 1, "step": 2}', b'{"step": 3', b"\xff\xfe{\0}\0", b"null", b'"step"', b"{}", b" "),
    *(b'{"step": 1, "time": "x"}', b'{"step": 1, "time": null}', b"\r", b"\xef\xbb", b"\0" * 64),
)


@st.composite
def logs(draw: st.DrawFn) -> bytes:
    """Lines of logs, odd ones among them, with bytes changed."""
    line = st.sampled_from(_LINES)
    lines = draw(st.lists(st.one_of(line, line, st.sampled_from(_ODD)), max_size=6))
    content = b"\n".join(lines) + draw(st.sampled_from([b"\n", b""]))
    return draw(damaged([content, *_LINES])) if draw(st.integers(0, 2)) == 0 else content


def _read(path: Path) -> list[dict[str, Any]] | None:
    try:
        return read_metrics(path)
    except ValueError as error:
        check_refusal(error, f"{path}, line ")
        return None


@fuzz(60, logs())
def test_a_log_gives_rows_with_steps_or_names_the_line_that_is_none(content):
    """And a run goes on with it, and keeps what it cuts, or does not."""
    with laid({"metrics.jsonl": content}) as (there, made):
        rows = _read(there / "metrics.jsonl")
        path, beside = made / "metrics.jsonl", made / "metrics.discarded.jsonl"
        path.write_bytes(content)
        assert all(type(row["step"]) in (int, float) for row in rows or [])
        assert all(math.isfinite(row["step"]) for row in rows or [])
        sink = JSONLSink(path, len(content) * 2 // 3)
        try:
            sink.open()
        except ValueError as error:
            assert rows is None
            return check_refusal(error, str(path))
        sink.event(11, "on", {})
        sink.close()
        *before, last = path.read_bytes().splitlines(keepends=True)
        tail = beside.read_bytes() if beside.exists() else b""
        assert b"".join(before) + tail == content
        assert last.startswith(b'{"step": 11, ')
