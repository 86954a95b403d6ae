"""Configuration: presets of configs.yaml stack left to right, and every key is a flag.

A key is described once: by the remark behind its default in configs.yaml or, if it is one method's
own, by :func:`key` in a dataclass beside the method.
"""

from config.blocks import labelled_keys
from config.distractors import distractor_settings
from config.help import show_help
from config.parser import parse
from config.schema import CONFIGS, Key, key, keys_of, load_keys
from config.values import HEAD, Config, check_same, load_saved

__all__ = [
    "CONFIGS",
    "HEAD",
    "Config",
    "Key",
    "check_same",
    "distractor_settings",
    "key",
    "keys_of",
    "labelled_keys",
    "load_keys",
    "load_saved",
    "parse",
    "show_help",
]
