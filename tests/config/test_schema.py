"""What a key is: read off a remark or a field, it takes its values and no others."""

import dataclasses
import math
import re

import pytest

from agents.registry import AGENTS, METHODS
from config.hints import other_names
from config.ranges import Range
from config.schema import CONFIGS, MARKS, Key, key, keys_of, load_keys, read_key, schema_for
from envs import EnvSettings
from tools import UserError

KEYS = load_keys()
EVERY = [*KEYS.values(), *(k for name in AGENTS for k in keys_of(METHODS[name], name).values())]
ABOVE_0 = Range(0, None, True)
OUTSIDE = {bool: "maybe", int: "2.5", float: "fast", str: "\0"}


def everyone(condition):
    return pytest.mark.parametrize("key", filter(condition, EVERY), ids=lambda key: key.name)


def test_every_key_is_described_once():
    lines = re.findall(r"^  (\w+): .* # ", CONFIGS.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines == list(KEYS)
    for name in AGENTS:
        assert not set(keys_of(METHODS[name], name)) & set(KEYS)
    names, retired, others = {key.name for key in EVERY}, *map(other_names, ("retired", "keys"))
    assert not names & set(retired)
    assert all(len(mend) > 10 for mend in retired.values())
    # A method's own keys may be called as elsewhere others are; then the refusal names both.
    assert not (set(KEYS) | set(retired)) & set(others)
    assert set(others.values()) <= set(KEYS)


@everyone(lambda key: True)
def test_every_key_has_help_a_group_and_a_fitting_default(key):
    assert re.search(r"\w{3}", key.help), "a remark that says something"
    assert not re.search(r"[#{}\[\]()]$", key.help)
    assert key.group
    assert key.parse(key.default) == key.default
    items = key.default if key.many else [key.default]
    assert all(type(item) is key.kind or key.nullable for item in items)
    assert key.nullable == (key.default is None or "null" in key.choices)
    assert key.marks <= set(MARKS)


@everyone(lambda key: key.kind is not str)
def test_a_value_of_another_type_is_refused(key):
    with pytest.raises(UserError, match=f"^--{key.name} takes .*, not '{OUTSIDE[key.kind]}'"):
        key.parse(OUTSIDE[key.kind])


@everyone(lambda key: key.choices)
def test_choices_take_themselves_and_name_the_nearest(key):
    for choice in key.choices:
        found = key.parse(choice)
        assert str(found[0] if key.many else found) == choice.replace("null", "None")
    with pytest.raises(UserError, match=f"--{key.name}.*{key.choices[0][0]}"):
        key.parse(key.choices[0] + "x")


@everyone(lambda key: key.range)
def test_a_range_takes_its_bounds_and_refuses_what_is_just_outside(key):
    step = {int: lambda x, up: int(x) + (1 if up else -1)}.get(
        key.kind, lambda x, up: math.nextafter(x, math.inf if up else -math.inf)
    )
    low, high = key.range.low, key.range.high
    inside, outside = [], []
    for bound, is_open, up in ((low, key.range.open_low, True), (high, key.range.open_high, False)):
        if bound is not None:
            inside.append(step(bound, up) if is_open else key.kind(bound))
            outside.append(key.kind(bound) if is_open else step(bound, not up))
    for value in inside:
        assert key.parse(value) == ((value,) if key.many else value)
    for value in outside:
        with pytest.raises(UserError, match=f"^--{key.name} must be .*, not "):
            key.parse(value)
    if key.nullable:
        assert key.parse("null") is None


@everyone(lambda key: key.is_schedule)
def test_schedules_take_schedules(key):
    assert key.parse("linear(0,1,100)") == "linear(0,1,100)"
    assert key.parse(2) == "2"
    with pytest.raises(UserError, match=f"^--{key.name}: 'much' is not a schedule"):
        key.parse("much")


def test_every_setting_of_an_environment_goes_with_an_evaluation():
    for field in dataclasses.fields(EnvSettings):
        assert "evaluate" in KEYS[field.name].marks


def test_ranges_are_read_written_and_told():
    told = {">0": "above 0", ">=0": "0 or more", ">=2": "at least 2", "<1": "below 1"}
    told |= {"<=-0.5": "up to -0.5", "0..1": "between 0 and 1", ">0..1": "above 0 and up to 1"}
    told |= {"0..<1": "0 or more and below 1"}
    found = {text: Range.read(text) for text in told}
    assert {str(one): one.describe() for one in found.values()} == told
    assert {Range.read(text) for text in ("a|b", "0...1", ">x", "0", "=>1", "x|0..1")} == {None}


@pytest.mark.parametrize(
    ("default", "remark", "described"),
    [
        (3, "how many (of them) there are", Key("x", "g", 3, int, "how many (of them) there are")),
        (1e6, "frames", Key("x", "g", 1_000_000, int, "frames")),
        (None, "[int] {>0} a", Key("x", "g", None, int, "a", nullable=True, range=ABOVE_0)),
        ("a", "{a|b} who", Key("x", "g", "a", str, "who", choices=("a", "b"))),
        ([4, 4], "{>0} a", Key("x", "g", (4, 4), int, "a", many=True, range=ABOVE_0)),
        (1, "{schedule} a (weighs y)", Key("x", "g", "1", str, "a", is_schedule=True, weighs="y")),
        (True, "a (resume, evaluate)", Key("x", "g", True, bool, "a", marks=frozenset(MARKS[:2]))),
    ],
)  # fmt: skip
def test_remarks_are_read(default, remark, described):
    assert read_key("x", "g", default, remark) == described


@pytest.mark.parametrize(
    ("default", "remark", "reason"),
    [
        (1, "a (resmue)", "no mark 'resmue' (did you mean 'resume'?)"),
        (1, "{>1} a", "--x must be above 1, not 1"),
        ("c", "{a|b} a", "--x takes a, b, not 'c'"),
        (None, "a", "its type is none of"),
    ],
)
def test_remarks_that_contradict_themselves_are_refused(default, remark, reason):
    with pytest.raises(UserError, match=re.escape(reason)):
        read_key("x", "g", default, remark)


# A method's own


@dataclasses.dataclass(frozen=True)
class Keys:
    depth: int = key(3, "how deep", above=0, marks=["resume"])
    share: float | None = key(None, "part", at_least=0, below=1)
    bonus_scale: str = key("0.5", "weight of the bonus", schedule=True)
    sides: tuple[int, ...] = key((4, 4), "how large")
    norm: str = key("none", "which one", choices=("none", "layer"))


def test_fields_are_keys():
    found = keys_of(Keys, "invented")
    group = "Method invented"
    assert list(found.values()) == [
        Key("depth", group, 3, int, "how deep", range=ABOVE_0, marks=frozenset(["resume"])),
        Key("share", group, None, float, "part", nullable=True, range=Range(0, 1, False, True)),
        Key("bonus_scale", group, "0.5", str, "weight of the bonus", is_schedule=True),
        Key("sides", group, (4, 4), int, "how large", many=True),
        Key("norm", group, "none", str, "which one", choices=("none", "layer")),
    ]  # fmt: skip
    assert found["bonus_scale"].term == "bonus"
    assert keys_of(None, "plain") == {}


def test_fields_that_are_no_keys_are_faults_of_the_code():
    for field in (
        ("a", int, 3),
        ("a", list, key((), "a list")),
        ("a", int | str, key(1, "either")),
    ):
        owner = dataclasses.make_dataclass("Keys", [field])
        with pytest.raises(TypeError, match=r"Keys\.a of the method x: write it as config\.key"):
            keys_of(owner, "x")
    owner = dataclasses.make_dataclass("Keys", [("seed", int, key(0, "another"))])
    with pytest.raises(ValueError, match="the method x has a key 'seed'"):
        schema_for(KEYS, "x", {"x": owner})
    owner = dataclasses.make_dataclass("Keys", [("a", int, key(0, "none", above=0))])
    with pytest.raises(UserError, match="--a must be above 0"):
        keys_of(owner, "x")
