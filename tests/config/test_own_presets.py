"""Files of keys of one's own: they stack like blocks, and each mistake is told with its place."""

import dataclasses
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from config import key, parse
from fileio.yaml_files import printable
from tests.helpers.runs import refusal


@dataclasses.dataclass(frozen=True)
class Keys:
    """Of an invented method."""

    queue_size: int = key(4096, "frames to look back on", above=0)


METHODS = {"plain": None, "invented": Keys}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Parses command lines in a folder with a small configs.yaml and two files of keys."""
    monkeypatch.chdir(tmp_path)
    Path("configs.yaml").write_text(
        "defaults:\n\n"
        "  # ## First\n"
        "  method_name: plain # who\n"
        "  count: 3 # {>0} how many\n"
        "  rate: 1e-4 # how fast\n"
        "one:\n  count: 5\n"
    )
    Path("mine.yaml").write_text("count: 20\none: {count: 21}\n")
    Path("sub").mkdir()
    Path("sub/other.yml").write_text("method_name: invented\nqueue_size: 30\n")
    return lambda words: parse(words.split(), Path("configs.yaml"), METHODS)


@pytest.mark.parametrize(
    ("words", "count", "queue"),
    [
        ("--configs defaults mine.yaml", 20, None),
        ("--configs mine.yaml sub/other.yml", 20, 30),
        ("--configs one ./mine.yaml", 21, None),
        ("--configs one mine.yaml", 21, None),  # what it says for where both are
        ("--configs mine.yaml one", 21, None),
        ("--configs sub/other.yml one", 5, 30),
        ("--configs mine.yaml sub/other.yml --count 2 --queue_size 3", 2, 3),
    ],
)
def test_a_file_stacks_like_a_block_and_is_named_beside_the_run(own, words, count, queue):
    parsed = own(words)
    assert (parsed.count, parsed.get("queue_size")) == (count, queue)
    assert parsed.to_yaml().splitlines()[1] == "# " + words.split(" --count")[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cuont: 3", "mine.yaml: unknown key 'cuont' (did you mean 'count'?)"),
        ("Count: 3", "mine.yaml: unknown key 'Count' (did you mean 'count'?)"),
        ("1: 3", "mine.yaml: unknown key '1'"),
        ("count: many", "mine.yaml: --count takes a whole number, not 'many'"),
        ("count: 0", "mine.yaml: --count must be above 0, not 0"),
        ("count:", "mine.yaml: --count takes a whole number, not 'None'"),
        ("count: 3\ncount: 4", 'mine.yaml cannot be read: line 2, found duplicate key "count"'),
        ("count: [3\nrate: 4", "mine.yaml cannot be read: line 2, "),
        ("queue_size: 3", "mine.yaml: queue_size belongs to --method_name invented, and the me"),
        ("fine_tune: 3", "mine.yaml: fine_tune is not used here: methods are named"),
        ("mine: {count: 3}", "mine.yaml: the block 'mine' within it is called like none"),
        ("one: {cuont: 3}", "mine.yaml, one: unknown key 'cuont' (did you mean 'count'?)"),
        ("defaults: {count: 3}", "mine.yaml: its keys stand at its top, not below 'defaults'"),
        ("- count", "mine.yaml has no keys: write one a line, such as"),
        ("", "mine.yaml has no keys"),
        ("rate: !!python/name:os.system", "mine.yaml cannot be read: line 1, could not determine"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(own, text, line):
    Path("mine.yaml").write_text(text)
    assert refusal(own, "--configs defaults one mine.yaml").startswith(line)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mien.yaml", "--configs mien.yaml: there is no such file (did you mean 'mine.yaml'?)"),
        ("sub/mine", "--configs sub/mine: there is no such file"),
        ("mine", "configs.yaml has no block 'mine' (did you mean 'mine.yaml'?); it has"),
        ("./sub", "sub cannot be read: it is no file"),
        ("~nobody-here/x.yml", "--configs ~nobody-here/x.yml: its home is not known"),
    ],
)
def test_a_file_that_is_none_is_refused(own, name, line):
    assert refusal(own, f"--configs defaults {name}").startswith(line)


def test_a_file_that_is_too_large_is_not_read(own):
    with Path("mine.yaml").open("wb") as file:
        file.truncate((1 << 18) + 1)
    line = "--configs mine.yaml is no file of keys: it is too large for that"
    assert refusal(own, "--configs mine.yaml") == line


def test_the_configuration_of_a_run_is_a_file_of_keys(own):
    run = own("--configs sub/other.yml --count 8 --queue_size 3")
    run.save(Path("config.yaml"))
    assert dict(own("--configs defaults config.yaml")) == dict(run)


def test_a_value_that_nests_without_end_is_refused_at_once(own):
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    text = "\n".join(["a0: &a0 x", *lines, "count: *a29"])
    Path("mine.yaml").write_text(text)
    assert refusal(own, "--configs mine.yaml").startswith("mine.yaml: unknown key 'a0'")
    value = YAML(typ="safe", pure=True).load(text)["count"]
    assert len(printable(value)) < 100
