"""Configuration: presets of configs.yaml stack left to right, and every key is a flag.

What the keys are is read off that file: see `keys.py`.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import documents
from documents import shown
from keys import CONFIGS, Key, load_keys
from tools import UserError, atomic_write, nearest

# Flags of the authors' code that have no use here, and what to do instead.
RETIRED = {
    "fine_tune": "methods are named: use --method_name",
    "naive_fine_tune": "methods are named: use --method_name",
    "beta": "use --beta_vae_beta",
    "image_size": "use --size 64 64",
    "domain_name": "--task names the domain: --task dmc2gym_<domain>_<task>",
    "task_name": "--task names the task: --task dmc2gym_<domain>_<task>",
    "camera_kwargs": "each setting has a flag of its own, --camera_horizontal_delta and so on",
    "colour_kwargs": "each setting has a flag of its own: --max_delta --step_std --disjoint_sets",
    "background_kwargs": "each setting has a flag of its own, --background_num_videos and so on",
    "test_camera_kwargs": "each setting has a flag of its own: --test_camera",
    "test_colour_kwargs": "use --test_max_delta, --test_step_std, --test_disjoint_sets",
    "test_background_kwargs": "use --test_background_dataset_path",
    "reset_every": "the recurrent state is reset at episode starts; leave the flag out",
    "dyn_shared": "prior and posterior have layers of their own; leave the flag out",
    "dyn_rec_depth": "the recurrent cell runs once a step; leave the flag out",
    "actor_disc": "no actor discretises continuous actions; see --actor_dist",
    "episode_length": "use --time_limit, in control steps",
    "eval_eps": "use --eval_episodes",
    "actor_ent": "use --actor_entropy",
    "action_factor": "actions are in [-1, 1]; leave the flag out",
    "frame_stack": "the model remembers, it sees one frame at a time; leave the flag out",
    "exponential_moving_average": "it was not supported there either; leave the flag out",
    "moving_average_denoise": "images are not denoised; leave the flag out",
    "moving_average_denoise_factor": "images are not denoised; leave the flag out",
    "moving_average_denoise_alpha": "images are not denoised; leave the flag out",
    "prefetch": "on a GPU the next batch is always drawn while an update runs; leave the flag out",
    "expl_extr_scale": "it belongs to Plan2Explore, which is not part of DisWM",
    "expl_intr_scale": "it belongs to Plan2Explore, which is not part of DisWM",
}
_PLAN2EXPLORE = ("target", "log", "models", "offset", "layers", "units", "action_cond")
_APV = ("k", "intr_beta", "beta_type", "intr_seq_length", "intr_reward_norm", "queue_size")
RETIRED |= dict.fromkeys(
    [f"disag_{name}" for name in _PLAN2EXPLORE],
    "it belongs to Plan2Explore, which is not part of DisWM",
)
RETIRED |= dict.fromkeys(
    [*_APV, "queue_dim"], "it belongs to APV's intrinsic bonus, and APV is not among the methods"
)

# Blocks that published command lines spell another way.
MISSPELT = {"metawolrd": "metaworld"}


class Config(Mapping):
    """A parsed configuration: keys are attributes and items, and nothing can be changed.

    ``config.replace(key=value)`` gives a changed copy.

    Args:
        values: all keys.
        presets: what the blocks alone say.
        blocks: their names.
        given: the keys that were flags, whatever their values.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        presets: Mapping[str, Any] | None = None,
        blocks: Sequence[str] = ("defaults",),
        given: Iterable[str] = (),
    ):
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "_presets", dict(values if presets is None else presets))
        object.__setattr__(self, "blocks", tuple(blocks))
        object.__setattr__(self, "given", frozenset(given))

    def of_blocks(self, name: str) -> Any:
        """The value of a key before flags."""
        return self._presets[name]

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
        return Config({**self._values, **changes}, self._presets, self.blocks, self.given)

    def to_yaml(self) -> str:
        """The configuration as a flat YAML document."""
        stream = io.StringIO()
        yaml = YAML(typ="safe")
        yaml.default_flow_style = None
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in self._values.items()}
        yaml.dump(plain, stream)
        return stream.getvalue()

    def save(self, path: Path) -> None:
        """Writes the configuration beside a run, whole or not at all."""
        with atomic_write(path) as file:
            file.write(self.to_yaml().encode())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(message)


def _help(keys: Mapping[str, Key], blocks: Sequence[str]) -> str:
    lines = [
        "usage: python dreamer.py --configs defaults BLOCK … --task TASK [--KEY VALUE …]",
        "",
        f"blocks of configs.yaml: {' '.join(blocks)}",
        "The same command in the same --logdir resumes its run.",
    ]
    group = None
    for key in keys.values():
        if key.group != group:
            group = key.group
            lines += ["", f"{group}:"]
        default = " ".join(map(str, key.default)) if isinstance(key.default, tuple) else key.default
        text = ("{" + "|".join(key.choices) + "} " if key.choices else "") + key.help
        lines.append(f"  --{key.name:<32} {text} [{default}]")
    return "\n".join(lines)


def parse(argv: Sequence[str], path: Path = CONFIGS) -> Config:
    """The configuration that a command line asks for.

    Raises:
        UserError: an unknown block or flag, or a value of the wrong type; one line.
        SystemExit: after ``--help``.
    """
    keys, document = load_keys(path), documents.load(path)
    parser = _Parser(prog="dreamer.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--configs", nargs="+", default=["defaults"])
    parser.add_argument("-h", "--help", action="store_true")
    for key in keys.values():
        many = {"nargs": "+"} if isinstance(key.default, tuple) else {}
        parser.add_argument(f"--{key.name}", default=argparse.SUPPRESS, **many)
    known, unknown = parser.parse_known_args(list(argv))
    if known.help:
        print(_help(keys, list(map(str, document))))
        sys.exit(0)
    if unknown:
        raise _unknown_argument(unknown[0], keys)
    values = {name: key.default for name, key in keys.items()}
    blocks = [_block_name(block) for block in known.configs]
    for block in blocks:
        if block not in document:
            raise UserError(
                f"configs.yaml has no block '{shown(block)}'{nearest(block, document)}; "
                f"it has {', '.join(map(shown, document))}"
            )
        if block != "defaults":
            values.update(_parse_block(document[block], keys, block))
    given = {k: v for k, v in vars(known).items() if k not in ("configs", "help")}
    flags = {name: keys[name].parse(value) for name, value in given.items()}
    return Config({**values, **flags}, values, blocks, flags)


def load_saved(path: Path) -> Config:
    """The configuration that :meth:`Config.save` wrote; keys newer than it have their defaults.

    Raises:
        UserError: the file is missing or no run's configuration, or has a key not known here.
    """
    saved, keys = documents.load(path), load_keys()
    if not isinstance(saved, dict):
        raise UserError(f"{path} is not a run's configuration")
    if unknown := sorted(map(str, set(saved) - set(keys))):
        raise UserError(
            f"{path} has a key '{shown(unknown[0])}' that this version of the code lacks"
        )
    try:
        return _defaults().replace(**{name: keys[name].parse(v) for name, v in saved.items()})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _block_name(given: str) -> str:
    """The block that a name means; a known misspelling is accepted under a warning."""
    if given not in MISSPELT:
        return given
    print(f"warning: the block '{given}' is called '{MISSPELT[given]}' here", file=sys.stderr)
    return MISSPELT[given]


def _parse_block(block: Any, keys: Mapping[str, Key], where: str) -> dict[str, Any]:
    values = {}
    if not isinstance(block, dict):
        raise UserError(f"configs.yaml, block {where}: it has no keys")
    for name, value in block.items():
        if name not in keys:
            raise UserError(
                f"configs.yaml, block {where}: unknown key '{shown(name)}'{nearest(name, keys)}"
            )
        values[name] = keys[name].parse(value)
    return values


def _unknown_argument(argument: str, keys: Mapping[str, Key]) -> UserError:
    name = argument.lstrip("-").split("=")[0]
    if not argument.startswith("--"):
        word = shown(argument)
        return UserError(f"'{word}' belongs to no flag; flags look like --task dmc_walker_walk")
    if name in RETIRED:
        return UserError(f"--{name} is not used here: {RETIRED[name]}")
    return UserError(f"unknown flag --{shown(name)}{nearest(name, keys)}; --help lists them all")


# What may change between two starts of one run: where it runs and how it is watched.
_RESUMABLE = (
    "logdir device num_threads keep_memory image_chunk compile cuda_graphs checkpoint_every "
    "keep_checkpoints max_bad_updates env_restarts env_timeout pretrain_checkpoint_path "
    "wandb wandb_project wandb_name debug async_env replay_storage replay_device "
    "cache_dir evaluate eval_colors export_checkpoint"
)
RESUMABLE = frozenset(_RESUMABLE.split())


def _defaults() -> Config:
    return Config({name: key.default for name, key in load_keys().items()})


def _as_parsed(key: Key | None, value: Any) -> Any:
    """A saved value in its key's type; one that is not of that type as it is."""
    try:
        return value if key is None else key.parse(value)
    except UserError:
        return value


def check_same(config: Config, saved: Path) -> None:
    """Checks that a run's folder was made by this configuration.

    A key that is newer than the run counts as its default there.

    Raises:
        UserError: another configuration made it; the line shows the difference.
    """
    try:
        before = documents.load(saved)
    except UserError as error:
        raise UserError(f"{error}; choose another --logdir") from None
    if not isinstance(before, dict):
        raise UserError(f"{saved} is not a run's configuration; choose another --logdir")
    keys = load_keys()
    before = {name: key.default for name, key in keys.items()} | {
        name: _as_parsed(keys.get(name), value) for name, value in before.items()
    }
    names = sorted((set(before) | set(config)) - RESUMABLE, key=str)
    changed = [n for n in names if before.get(n, "absent") != config.get(n, "absent")]
    if changed:
        listed = ", ".join(
            f"{shown(n)}: {shown(before.get(n))} there, {shown(config.get(n))} now"
            for n in changed[:4]
        )
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(
            f"{saved.parent} holds a run of another configuration ({listed}{more}): "
            "give the same flags to resume it, or another --logdir"
        )
