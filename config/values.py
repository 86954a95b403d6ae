"""A configuration, and the config.yaml that it is saved in beside a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from config.schema import Key, Methods, load_keys, schema_for
from fileio import FORMAT, yaml_files
from fileio.atomic import atomic_write
from fileio.yaml_files import printable
from tools import UserError

HEAD = f"# DisWM run, format {FORMAT}\n"  # how a config.yaml begins


class Config(Mapping):
    """A parsed configuration: keys are attributes and items, and nothing can be changed.

    ``config.replace(key=value)`` gives a changed copy.

    Args:
        values: all keys.
        presets: what the blocks alone say.
        blocks: their names.
        overrides: the keys that were flags, whatever their values.
        schema: what is true of each key; None for the common ones'.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        presets: Mapping[str, Any] | None = None,
        blocks: Sequence[str] = ("defaults",),
        overrides: Iterable[str] = (),
        schema: Mapping[str, Key] | None = None,
    ):
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "_presets", dict(values if presets is None else presets))
        object.__setattr__(self, "blocks", tuple(blocks))
        object.__setattr__(self, "overrides", frozenset(overrides))
        object.__setattr__(self, "schema", dict(load_keys() if schema is None else schema))

    def preset_value(self, name: str) -> Any:
        """The value of a key before flags."""
        return self._presets[name]

    def choices(self) -> list[str]:
        """The keys whose values are no defaults."""
        return [name for name, value in self.items() if value != self.schema[name].default]

    def marked(self, mark: str) -> frozenset[str]:
        """The keys with a mark: 'resume', 'evaluate' or 'predictor'; see `schema.Key`."""
        return frozenset(name for name, key in self.schema.items() if mark in key.marks)

    def schedules(self) -> dict[str, str]:
        """The keys that are schedules, by the names that their values have inside a loss.

        Those by a share are in no loss.
        """
        found = {key.term: name for name, key in self.schema.items() if key.is_schedule}
        by_share = self.marked("share")
        return {term: name for term, name in found.items() if name not in by_share}

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no config key '{name}'") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"the config is frozen: '{name}' cannot be set")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def replace(self, **changes: Any) -> Config:
        """A copy with some values changed; their keys must exist."""
        unknown = set(changes) - set(self._values)
        if unknown:
            raise KeyError(f"no config keys {sorted(unknown)}")
        values = {**self._values, **changes}
        return Config(values, self._presets, self.blocks, self.overrides, self.schema)

    def override(self, flags: Mapping[str, Any]) -> Config:
        """A copy in which these, and no others, are the keys that were flags."""
        changed = self.replace(**flags)
        return Config(changed, self._presets, self.blocks, flags, self.schema)

    def to_yaml(self) -> str:
        """The configuration as a flat YAML document.

        It begins with the format of the run, and the blocks that the values come from.
        """
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in self._values.items()}
        blocks = " ".join(map(printable, self.blocks))
        return f"{HEAD}# --configs {blocks}\n{yaml_files.dump(plain)}"

    def save(self, path: Path) -> None:
        """Writes the configuration beside a run, whole or not at all."""
        with atomic_write(path) as file:
            file.write(self.to_yaml().encode())


def load_saved(path: Path, methods: Methods | None = None) -> Config:
    """The configuration that :meth:`Config.save` wrote; keys newer than it have their defaults.

    Args:
        path: the file.
        methods: as for `parse`.

    Raises:
        UserError: the file is missing or no run's configuration, or has a key not known here.
    """
    saved = yaml_files.load(path)
    if not isinstance(saved, dict):
        raise UserError(f"{path} is not a run's configuration")
    method = saved.get("method_name")
    schema = schema_for(load_keys(), method if isinstance(method, str) else None, methods)
    if unknown := sorted(map(str, set(saved) - set(schema))):
        raise UserError(
            f"{path} has a key '{printable(unknown[0])}' that this version of the code lacks"
        )
    values = {name: key.default for name, key in schema.items()}
    try:
        values |= {name: schema[name].parse(value) for name, value in saved.items()}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Config(values, schema=schema)


def _as_parsed(key: Key | None, value: Any) -> Any:
    """A saved value in its key's type; one that is not of that type as it is."""
    try:
        return value if key is None else key.parse(value)
    except UserError:
        return value


def _plain(value: Any) -> Any:
    """A value without the slashes that end paths in it."""
    return re.sub(r"(?<=[^/])/+(?=$|[,:])", "", value) if isinstance(value, str) else value


def check_same(config: Config, saved: Path) -> None:
    """Checks that a run's folder was made by this configuration.

    A key that is newer than the run counts as its default there.

    Raises:
        UserError: another configuration made it; the line shows the difference.
    """
    try:
        before = yaml_files.load(saved)
    except UserError as error:
        raise UserError(f"{error}; choose another --logdir") from None
    if not isinstance(before, dict):
        raise UserError(f"{saved} is not a run's configuration; choose another --logdir")
    keys = config.schema
    before = {name: key.default for name, key in keys.items()} | {
        name: _as_parsed(keys.get(name), value) for name, value in before.items()
    }
    names = sorted((set(before) | set(config)) - config.marked("resume"), key=str)
    changed = [
        n for n in names if _plain(before.get(n, "absent")) != _plain(config.get(n, "absent"))
    ]
    if changed:
        listed = ", ".join(
            f"{printable(n)}: {printable(before.get(n))} there, {printable(config.get(n))} now"
            for n in changed[:4]
        )
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(
            f"{saved.parent} holds a run of another configuration ({listed}{more}): "
            "give the same flags to resume it, or another --logdir"
        )
