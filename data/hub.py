"""Datasets of the Hugging Face Hub, downloaded once: ``hf:<name>`` and ``hf:<owner>/<name>``."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from fileio.atomic import atomic_write
from tools import UserError, nearest, reason_of, sha256

PREFIX = "hf:"
REPOSITORY = "MrSC320/DisWM-Pretrain-Datasets"
ATTEMPTS = 5
NAMES = ("cheetah_run", "finger_spin", "reacher_easy", "walker_walk")
_OWNED = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)


def check_name(given: str) -> str:
    """The dataset that ``hf:<name>`` names; one with an owner, ``<owner>/<name>``, is LeRobot's.

    Raises:
        UserError: there is none of that name.
    """
    name = given[len(PREFIX) :]
    if name not in NAMES and not _OWNED.fullmatch(name):
        raise UserError(
            f"--pretrain_datasets_path {given}: the published datasets are "
            f"{', '.join(PREFIX + n for n in NAMES)}{nearest(given, (PREFIX + n for n in NAMES))}; "
            f"{PREFIX}<owner>/<name> is a dataset of LeRobot's"
        )
    return name


def download(name: str, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """The archive of a published dataset, from the cache or, once, from the Hub.

    What is in the cache is taken without asking the Hub, so that a run that goes on reads what it
    began with. A download that breaks off goes on where it stopped: when the connection broke at
    once, up to five times, and when the process ended in the next start.

    Args:
        name: one of `NAMES`.
        cache: folder of the Hub's cache; None is its own (``HF_HOME``, ``HF_HUB_CACHE``).
        endpoint: address of the Hub; None is its own (``HF_ENDPOINT``).

    Returns:
        The file in the cache. Its ``resolve().name`` tells its content.

    Raises:
        UserError: it is not in the cache and cannot be downloaded.
        OSError: the cache cannot be written.
    """
    # It reads its environment when it is imported, and few runs need it.
    import huggingface_hub as hf
    from huggingface_hub import errors

    file = f"{name}.tar.xz"
    where = {"repo_type": "dataset", "endpoint": endpoint}
    try:
        found = hf.hf_hub_download(
            REPOSITORY, file, cache_dir=cache, local_files_only=True, **where
        )
        return Path(found)
    except errors.LocalEntryNotFoundError:
        pass  # it has to be downloaded
    url = hf.hf_hub_url(REPOSITORY, file, **where)
    try:
        # Asked once, without the patience of a download: no network shows at once.
        hf.get_hf_file_metadata(url, endpoint=endpoint)
        path = _with_patience(
            lambda: hf.hf_hub_download(REPOSITORY, file, cache_dir=cache, **where)
        )
        if not _is_what_was_promised(path):
            path.resolve().unlink()  # it came a moment ago, and is of no use
            raise _refusal(name, url, "what was downloaded does not have the Hub's checksum")
        return path
    except errors.RemoteEntryNotFoundError as error:
        raise _refusal(name, url, "the Hub has no such file") from error
    except errors.OfflineModeIsEnabled as error:
        reason = "HF_HUB_OFFLINE is set and it is not in the cache"
        raise _refusal(name, url, reason) from error
    except (OSError, errors.HTTPError, RuntimeError) as error:  # the last one is hf_xet's
        if getattr(error, "errno", None) is not None:
            raise  # the disk's, not the network's
        reason = f"it is not in the cache and the Hub cannot be reached ({reason_of(error)})"
        raise _refusal(name, url, reason) from error


def download_folder(name: str, records: Path, cache: Path | None = None) -> Path:
    """A whole dataset of LeRobot's, from the cache or, once, from the Hub.

    Args:
        name: ``<owner>/<name>``.
        records: folder for a note of where a whole one lies; the Hub's cache does not tell it from
            one that was begun.
        cache: folder of the Hub's cache; None is its own.

    Raises:
        UserError: it is not in the cache and cannot be downloaded.
        OSError: the cache cannot be written.
    """
    import huggingface_hub as hf
    from huggingface_hub import errors

    record = records / f"{name.replace('/', '--')}.json"
    try:
        folder = Path(json.loads(record.read_text(encoding="utf-8"))["folder"])
        if (folder / "meta").is_dir():
            return folder
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass  # it has to be downloaded
    try:
        folder = _with_patience(
            lambda: hf.snapshot_download(
                name,
                repo_type="dataset",
                cache_dir=cache,
                allow_patterns=["meta/*", "data/*", "videos/*"],
            )
        )
    except (OSError, errors.HTTPError, RuntimeError, ValueError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's, not the network's
        raise UserError(
            f"--pretrain_datasets_path {PREFIX}{name} cannot be downloaded ({reason_of(error)}); "
            "start again, which goes on where it stopped, or give the path of a copy"
        ) from error
    with atomic_write(record) as file:
        file.write(json.dumps({"folder": str(folder)}).encode())
    return folder


def _with_patience(download: Callable[[], str]) -> Path:
    """Tries again where a connection breaks; each time goes on where the last one stopped."""
    from huggingface_hub import errors

    for seconds in range(ATTEMPTS - 1):
        try:
            return Path(download())
        except (errors.HTTPError, RuntimeError):
            time.sleep(seconds)
    return Path(download())


def _is_what_was_promised(path: Path) -> bool:
    """Whether a file just downloaded has the SHA-256 that the Hub gave as its name in the cache.

    The Hub's library compares sizes alone. It names small files by another digest.
    """
    promised = path.resolve().name
    if not re.fullmatch(r"[0-9a-f]{64}", promised):
        return True
    with path.open("rb") as file:
        return sha256(file) == promised


def _refusal(name: str, url: str, reason: str) -> UserError:
    return UserError(
        f"--pretrain_datasets_path {PREFIX}{name}: {reason}; start again, which goes on where it "
        f"stopped, or download {url} by hand and give the path of that file"
    )
