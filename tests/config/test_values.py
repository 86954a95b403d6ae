"""A configuration does not change, and neither does a run's."""

import re

import pytest
from ruamel.yaml import YAML

from config import Config, check_same, load_keys, load_saved, parse
from tools import UserError

KEYS = load_keys()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The defaults, as a run saves them."""
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    parse([]).save(path)
    return path


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
    assert parsed.override({"seed": 3}).overrides == {"seed"}
    assert dict(parsed) == {name: key.default for name, key in KEYS.items()}


def test_saved_config_round_trips(tmp_path):
    parsed = parse(["--size", "32", "48", "--camera_id", "null", "--steps", "1.01e6"])
    parsed = parsed.replace(wandb_name="a: #b", seed=7, model_lr=1e-20, logdir="yes")
    parsed.save(tmp_path / "config.yaml")
    back = YAML(typ="safe", pure=True).load((tmp_path / "config.yaml").read_text())
    assert {name: KEYS[name].parse(value) for name, value in back.items()} == dict(parsed)
    assert dict(load_saved(tmp_path / "config.yaml")) == dict(parsed)
    check_same(parsed, tmp_path / "config.yaml")


@pytest.mark.parametrize("name", KEYS)
def test_change_of_any_key_is_noticed_or_harmless(saved, name):
    parsed = parse([])
    value = parsed[name]
    other = (*value, value[0]) if isinstance(value, tuple) else "other" if value != "other" else ""
    changed = parsed.replace(**{name: other})
    if "resume" in KEYS[name].marks:
        check_same(changed, saved)
    else:
        with pytest.raises(UserError, match=re.escape(name)) as refusal:
            check_same(changed, saved)
        assert "other" in str(refusal.value) or isinstance(value, tuple)
        assert "\n" not in str(refusal.value)


def test_key_that_came_later_had_its_default(tmp_path):
    parsed = parse(["--seed", "3"])
    older = Config({k: v for k, v in parsed.items() if k not in ("z_dim", "size")})
    older.save(tmp_path / "config.yaml")
    check_same(parsed, tmp_path / "config.yaml")
    with pytest.raises(UserError, match="z_dim: 20 there, 21 now"):
        check_same(parsed.replace(z_dim=21), tmp_path / "config.yaml")
    loaded = load_saved(tmp_path / "config.yaml")
    assert dict(loaded) == dict(parsed)
    assert loaded.size == (64, 64)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- a list", "not a run's configuration"),
        ("zdim: 3", "'zdim'"),
        ("z_dim: many", "--z_dim takes a whole number"),
        ("z_dim: 0", "--z_dim must be above 0"),
        ("a: [1", "cannot be read"),
    ],
)
def test_saved_config_that_is_none_is_refused(tmp_path, text, wanted):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=wanted) as refusal:
        load_saved(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
