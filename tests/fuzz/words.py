"""Command lines, schedules, YAML and logs."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import checks
import config
from agent import SCHEDULES
from config import Config
from logger import read_metrics
from logger.jsonl import JSONLSink
from tests.fuzz.guard import Wrong
from tests.fuzz.harness import Case, Target
from tests.fuzz.mutate import changed, one_line, pick
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


def typed(found: Config) -> None:
    """Every value of a configuration is one that its key takes."""
    for name, value in found.items():
        if KEYS[name].parse(value) != value:
            raise Wrong(f"{name} is {value!r}")
        if not isinstance(value, (KEYS[name].kind, tuple, type(None))):
            raise Wrong(f"{name} is a {type(value)}")


def refusal(error: Exception, *names: str) -> None:
    """A refusal is one line, not too long, and names the thing."""
    text = str(error)
    if not one_line(text) or len(text) > 10_000:
        raise Wrong(f"a refusal of {len(text.splitlines())} lines: {text[:300]!r}")
    if names and not any(name in text for name in names):
        raise Wrong(f"a refusal that names nothing: {text[:300]!r}")


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
    st.sampled_from([f"--{name}" for name in config.RETIRED]),
    st.sampled_from(["-h", "--help", "--configs", "--", "---", "--x", "--seed=3", "--seed="]),
    st.builds("--{}={}".format, st.sampled_from(list(KEYS)), _WORDS),
)
_PLAIN = {
    bool: st.sampled_from(["True", "False", "true"]),
    int: st.one_of(st.integers(0, 300).map(str), st.integers().map(str)),
    float: st.one_of(st.floats(0, 1).map(str), st.floats().map(str)),
    str: st.sampled_from(["", "x", "ELU", "cpu", "linear(1,0,9)", "0.5", *SCHEDULES]),
    tuple: st.sampled_from(["image", "3", "64", "4"]),
}


@st.composite
def _fitting(draw: st.DrawFn) -> list[str]:
    """A flag with a value of its type, or one of its choices."""
    key = pick(draw, tuple(KEYS.values()))
    value = pick(draw, key.choices) if key.choices else draw(_PLAIN[key.kind])
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
def command_lines(draw: st.DrawFn) -> Case:
    """A command line with words put in, taken out and changed."""
    words = pick(draw, ("", *COMMANDS)).split()
    for piece in draw(st.lists(_PIECES, min_size=1, max_size=4)):
        at = len(words) if draw(st.booleans()) else draw(st.integers(0, len(words)))
        words[at : at + draw(st.integers(0, 1))] = piece
    return {"argv.json": json.dumps(words).encode()}


def judge_flags(given: Path, made: Path) -> None:
    """A command line is a configuration of the right types, or is refused in one line."""
    argv = json.loads((given / "argv.json").read_bytes())
    try:
        found = config.parse(argv)
    except SystemExit as stop:
        if stop.code != 0 or not any("h" in word for word in argv):
            raise Wrong(f"exit with {stop.code!r}") from None
        return
    except UserError as error:
        return refusal(error)
    typed(found)
    try:
        checks.check_values(found)
    except UserError as error:
        return refusal(error, "--")
    for key in SCHEDULES.values():
        if found[key] != "auto":
            evaluate(found[key])


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


def evaluate(text: str) -> None:
    """A schedule that is accepted is finite at every step."""
    made = schedule(text)
    for step in (0, 1, 2.5, 1000, 45_000, 10**9):
        if not math.isfinite(made(step)):
            raise Wrong(f"{text!r} is {made(step)} at step {step}")
    if is_zero(text) and made(7) != 0:
        raise Wrong(f"{text!r} is not zero")


def judge_schedule(given: Path, made: Path) -> None:
    """A text is a schedule of finite numbers, or is refused in one line."""
    text = json.loads((given / "schedule.json").read_bytes())
    try:
        evaluate(text)
    except UserError as error:
        refusal(error, "schedule")


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
def documents(draw: st.DrawFn, name: str, seeds: tuple[str, ...]) -> Case:
    """A YAML document with lines and bytes changed."""
    lines = pick(draw, seeds).split("\n")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        key = lines[at].split(":")[0] if ":" in lines[at] else pick(draw, list(KEYS))
        tail = lines[at].rpartition(" # ")[2] if " # " in lines[at] else ""
        value = draw(_VALUES if draw(st.booleans()) or key not in KEYS else _PLAIN[KEYS[key].kind])
        line = f"{key}: {value}" + (f" # {tail}" if tail else "")
        lines[at : at + draw(st.integers(0, 1))] = [line]
    text = "\n".join(lines).encode("utf-8", "surrogateescape" if draw(st.booleans()) else "replace")
    if draw(st.integers(0, 3)) == 0:
        text = draw(changed(text, [seed.encode() for seed in seeds]))
    return {name: text}


def judge_saved(given: Path, made: Path) -> None:
    """A saved configuration is read in the right types, and written it is read the same."""
    path = given / "config.yaml"
    try:
        config.check_same(DEFAULTS, path)
    except UserError as error:
        refusal(error, str(given))
    try:
        found = config.load_saved(path)
    except UserError as error:
        return refusal(error, str(path))
    typed(found)
    if zlib.crc32(path.read_bytes()) % 8:
        return  # writing takes longer than all else
    found.save(made / "config.yaml")
    if dict(config.load_saved(made / "config.yaml")) != dict(found):
        raise Wrong("another configuration once it is saved and read")
    config.check_same(found, made / "config.yaml")


DEFAULTS = config.parse([])


def judge_presets(given: Path, made: Path) -> None:
    """Presets give a configuration, or are refused in one line."""
    for argv in ([], ["--configs", "defaults", "one"], ["--configs", "two", "--sides", "1", "2"]):
        try:
            found = config.parse(argv, given / "configs.yaml")
        except UserError as error:
            refusal(error, "configs.yaml", "--")
            continue
        keys = config.load_keys(given / "configs.yaml")
        for name, value in found.items():
            if keys[name].parse(value) != value:
                raise Wrong(f"{name} is {value!r}")


# Logs.

_LINES = (
    b'{"step": 0, "time": 0.1, "a": 1.5}',
    b'{"step": 10, "time": 3.25, "event": "start", "folder": "x"}',
    b'{"step": 20, "time": 4, "loss": null, "nonfinite": ["loss"]}',
)
_ODD = (
    *(b'{"step": "3"}', b'{"step": null}', b'{"step": [1]}', b'{"step": NaN}', b'{"step": true}'),
    *(b'{"step": 1e400, "time": 1}', b"[1]"),
    *(
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"9" * 5000,
        b'{"step": ' + b"9" * 5000 + b"}",
        b"\0" * 64,
    ),
    *(b'{"step": 1, "step": 2}', b'{"step": 3', b"\xff\xfe{\0}\0", b"null", b'"step"', b"{}", b" "),
    *(
        b'{"step": 1, "time": "x"}',
        b'{"step": 1, "time": null}',
        b'{"step": 2}',
        b"\r",
        b"\xef\xbb",
    ),
)


@st.composite
def logs(draw: st.DrawFn) -> Case:
    """Lines of logs, odd ones among them, with bytes changed."""
    line = st.sampled_from(_LINES)
    lines = draw(st.lists(st.one_of(line, line, st.sampled_from(_ODD)), max_size=6))
    content = b"\n".join(lines) + pick(draw, [b"\n", b""])
    if draw(st.integers(0, 2)) == 0:
        content = draw(changed(content, _LINES))
    return {"metrics.jsonl": content}


def _read(path: Path) -> list[dict[str, Any]] | None:
    try:
        return read_metrics(path)
    except ValueError as error:
        refusal(error, f"{path}, line ")
        return None


def judge_log(given: Path, made: Path) -> None:
    """A log gives rows with steps, or the line that is none; a run goes on with it, or does not."""
    rows = _read(given / "metrics.jsonl")
    path = made / "metrics.jsonl"
    path.write_bytes((given / "metrics.jsonl").read_bytes())
    for row in rows or []:
        if type(row["step"]) not in (int, float) or not math.isfinite(row["step"]):
            raise Wrong(f"a row of step {row['step']!r}")
    content = path.read_bytes()
    kept = len(content) * 2 // 3
    sink = JSONLSink(path, kept)
    try:
        sink.open()
    except ValueError as error:
        if rows is not None:
            raise Wrong(f"read, and then refused: {error}") from None
        return refusal(error, str(path))
    sink.event(11, "on", {})
    sink.close()
    *before, last = path.read_bytes().splitlines(keepends=True)
    beside = path.with_name("metrics.discarded.jsonl")
    tail = beside.read_bytes() if beside.exists() else b""
    if b"".join(before) + tail != content or not last.startswith(b'{"step": 11, '):
        raise Wrong("another log once a run has gone on")
    if rows is not None and _read(path)[:-1] != rows[: len(_read(path)) - 1]:
        raise Wrong("other rows once a run has gone on")


_TEXTS = _SCHEDULES.map(lambda text: {"schedule.json": json.dumps(text).encode()})
TARGETS = (
    Target("flags", 16, command_lines(), judge_flags),
    Target("schedules", 26, _TEXTS, judge_schedule),
    Target("saved", 7, documents("config.yaml", SAVED), judge_saved),
    Target("presets", 7, documents("configs.yaml", (PRESETS,)), judge_presets),
    Target("logs", 16, logs(), judge_log),
)
