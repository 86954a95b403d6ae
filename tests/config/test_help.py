"""``--help`` shows what a first run needs, at once; ``--help all`` shows every flag."""

import dataclasses
import re
import subprocess
import sys

import pytest

from agents.registry import AGENTS, METHODS
from config import CONFIGS, key, keys_of, load_keys, parse
from config.help import WIDTH, written
from fileio import yaml_files

KEYS = load_keys()


@dataclasses.dataclass(frozen=True)
class Keys:
    """Of an invented method."""

    memory_size: int = key(4096, "frames to look back on", above=0)


def shown(capsys, *words, methods=METHODS):
    """The lines of a help, which ends the command."""
    with pytest.raises(SystemExit) as stop:
        parse(["--configs", "defaults", *words], methods=methods)
    assert stop.value.code == 0
    return capsys.readouterr().out.splitlines()


def flags(lines):
    """{flag: (group, what is said of it)}; what takes several lines is put together."""
    group, name, found = "", None, {}
    for line in lines:
        if match := re.fullmatch(r"(\S.*):", line):
            group = match[1]
        elif match := re.match(r"  --(\w+) +(.*)", line):
            name = match[1]
            found[name] = group, match[2]
        elif name and line.startswith("      "):
            found[name] = group, f"{found[name][1]} {line.strip()}".replace("| ", "|")
    return found


@pytest.mark.parametrize("words", ["--help all", "-h all", "--help=all", "--seed 1 --help all --x"])
def test_help_all_has_every_key_once_under_its_group(capsys, words):
    lines = shown(capsys, *words.split(), methods={**METHODS, "invented": Keys})
    blocks = " ".join(lines[2 : lines.index("", 3)]).partition("They stack")[0]
    assert blocks.split()[3:] == list(yaml_files.load(CONFIGS))
    found = flags(lines)
    own = {name for owner in METHODS for name in keys_of(METHODS[owner], owner)}
    assert list(found)[: len(KEYS)] == [*KEYS]
    assert set(found) == {*KEYS, *own, "memory_size"}
    told = [line.split()[0] for line in lines if line.startswith("  --")]
    twice = {name for name in told if told.count(name) > 1}
    assert twice == {"--crop_pad"}  # whose default is another in TD-MPC2
    assert len(told) == len(found) + len(twice)
    for name, described in KEYS.items():
        chosen = "|".join([*AGENTS, "invented"])
        values = chosen if name == "method_name" else described.values
        said = f"{{{values}}} " * bool(values) + f"{described.help} [{written(described.default)}]"
        assert found[name] == (described.group, said)
    assert found["memory_size"] == ("Method invented", "{>0} frames to look back on [4096]")


@pytest.mark.parametrize("words", ["--help", "-h", "--help --seed 1"])
def test_help_is_short_and_says_where_the_rest_is(capsys, words):
    lines = shown(capsys, *words.split())
    assert list(flags(lines)) == [name for name, key in KEYS.items() if "basic" in key.marks]
    assert {"task", "logdir", "beta_vae_pretrain", "distillation"} <= set(flags(lines))
    assert len(lines) <= 70
    assert max(map(len, lines)) <= WIDTH
    assert "--help all" in lines[-1]


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_imports_no_pytorch(words):
    code = f"import sys, runpy; sys.argv = ['dreamer.py', *{words}]\n"
    code += "try: runpy.run_path('dreamer.py', run_name='__main__')\n"
    code += "except SystemExit: sys.exit('torch' in sys.modules or 'gymnasium' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True)
    assert done.returncode == 0
    assert b"--task" in done.stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "null"), ("", "''"), (True, "True"), ("auto", "auto"), ((64, 64), "64 64")),
        *((10_000_000, "1e7"), (1_010_000, "1.01e6"), (2500, "2500"), (12345, "12345"), (0, "0")),
        *((3e-4, "3e-4"), (0.015, "0.015"), (1.0, "1"), (0.0, "0"), (1e-5, "1e-5"), (-1, "-1")),
    ],
)
def test_defaults_are_written_as_one_writes_them(value, text):
    assert written(value) == text


def test_what_is_written_behind_a_flag_is_its_default():
    methods = [key for name in AGENTS for key in keys_of(METHODS[name], name).values()]
    for described in [*KEYS.values(), *methods]:
        text = written(described.default)
        assert described.parse("" if text == "''" else text) == described.default
