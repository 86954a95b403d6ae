"""What ``--pretrain_datasets_path`` takes: whatever it names becomes one folder of episodes.

============================  =====================================================================
folder with ``.npz`` files    as it is; videos beside the episodes are left out, and named
``.tar.xz``, ``.zip`` …       unpacked once, beside the archive
``hf:<name>``                 downloaded once, then unpacked in the cache
a video, a folder of videos   decoded once, into the cache; a folder of images is a video, too
LeRobot's layout, HDF5        converted once, into the cache (`lerobot.py`, `hdf5.py`)
============================  =====================================================================

Several of them stand between commas, with weights (`sources.py`). A thing is known by its first
bytes; names count where those say nothing. The cache is ``--cache_dir``. The same source gives the
same folder with the same files, in every start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import Config
from data import archives, converting, frames, hdf5, hub, lerobot, sources, videos
from data.caching import cache_root
from data.errors import Unreadable, readable, reading, shortened
from logger.terminal import TerminalSink
from media.files import Found, find_films, is_video
from replay.files import check_episodes, episode_files, run_hint
from tools import UserError, expand_path, nearest

FLAG = "pretrain_datasets_path"
ACCEPTED = (
    f"give a folder of .npz episodes, a .tar.xz, .tar.gz or .zip of one, {hub.PREFIX}<name>, a "
    "video, a folder of videos or images, a folder of LeRobot's, or HDF5 files"
)
MEGABYTE = 1 << 20
LONGEST_STEM = 200  # bytes of an archive's name in the folder's, which gets more
FPS_RANGE = 0.001, 1000  # frames per second that a video may be resampled to


@dataclass
class Source:
    """A folder of episodes, and what was left out on the way to it.

    Attributes:
        folder: flat, of .npz files.
        skipped: (file name, reason).
        fields: more to say about it in the log.
        share: of the windows that are sampled; None for its part of the rest.
    """

    folder: Path
    skipped: list[tuple[str, str]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    share: float | None = None


def check(config: Config) -> None:
    """Checks that there is something to pretrain on; reads little, and writes nothing.

    Raises:
        UserError: there is not, or it is of no known kind, or a setting of videos makes no sense.
    """
    least, most = FPS_RANGE
    if config.video_fps != 0 and not least <= config.video_fps <= most:
        raise UserError(f"--video_fps must be 0, or from {least} to {most}, not {config.video_fps}")
    if config[FLAG]:
        for name in sources.names(config[FLAG], FLAG):
            kind_of(name)
        cache_root(config.cache_dir)
    elif config.offline_traindir:
        check_episodes(config.offline_traindir, "offline_traindir")
    else:
        raise UserError(
            "--beta_vae_pretrain needs --pretrain_datasets_path: a folder of .npz episodes such as "
            "the train_eps of a run with --configs defaults dmc2gym collect, an archive of one, "
            "hf:<name>, or videos"
        )
    check_episodes(config.offline_evaldir, "offline_evaldir")


def kind_of(given: str) -> str:
    """``episodes``, ``archive``, ``hub``, ``videos``, ``lerobot`` or ``hdf5``.

    Raises:
        UserError: it is not there, or none of these.
    """
    if given.startswith(hub.PREFIX):
        if "/" in hub.check_name(given):
            converting.needed("pyarrow", given)
        return "hub"
    path = expand_path(given, FLAG)
    try:
        with reading(path):
            if path.is_dir():
                return _kind_of_folder(path)
            if path.is_file():
                return _kind_of_file(path)
    except Unreadable as error:
        raise UserError(f"--{FLAG} {given}: {error}") from None
    raise UserError(f"--{FLAG} {path}: there is no such folder or file{_hint(path)}; {ACCEPTED}")


def _kind_of_folder(folder: Path) -> str:
    if lerobot.is_lerobot(folder):
        converting.needed("pyarrow", str(folder))
        return "lerobot"
    hint = run_hint(folder)
    if not hint and episode_files(folder):
        return "episodes"
    if not hint and hdf5.files_of(folder):
        converting.needed("h5py", str(folder))
        return "hdf5"
    if not hint and _films_in(folder).films:  # a run's folder has films of its evaluations
        return "videos"
    if not hint and (found := [path for path in _files_in(folder) if archives.is_archive(path)]):
        hint = f" (did you mean {found[0]}?)"
    raise UserError(f"--{FLAG} {folder} has no .npz episodes and no videos{hint}; {ACCEPTED}")


def _kind_of_file(path: Path) -> str:
    if path.suffix == ".npz":
        raise UserError(f"--{FLAG} {path} is a single episode: give its folder, {path.parent}")
    if archives.is_archive(path):
        return "archive"
    if hdf5.is_hdf5(path):
        converting.needed("h5py", str(path))
        return "hdf5"
    if is_video(path):
        return "videos"
    raise UserError(f"--{FLAG} {path} is neither an archive nor a video; {ACCEPTED}")


def _hint(path: Path) -> str:
    """What may have been meant by a path that is not there."""
    if path.name in hub.NAMES:
        return f" (did you mean '{hub.PREFIX}{path.name}'?)"
    if path.parent.is_dir():
        return nearest(path.name, (p.name for p in path.parent.iterdir() if _may_be_meant(p)))
    return ""


def _may_be_meant(path: Path) -> bool:
    """Whether a path may be a source: a folder, an archive, an HDF5 file or a video."""
    if path.name.startswith(".") or not os.access(path, os.R_OK):
        return False
    is_source = archives.is_archive, hdf5.is_hdf5, is_video
    return path.is_dir() or (path.is_file() and any(known(path) for known in is_source))


def _files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _films_in(folder: Path) -> Found:
    with reading(folder):
        return find_films(folder)


def _place(path: Path, folder: Path) -> str:
    """Where something lies in a folder that was given, in words for the log."""
    return readable(str(path.relative_to(folder)) if path != folder else folder.resolve().name)


def resolve_all(config: Config) -> list[Source]:
    """The folders of episodes that ``--pretrain_datasets_path`` comes to, and their shares.

    Raises:
        UserError: as :func:`resolve`.
    """
    named = sources.split(config[FLAG], FLAG)
    found = [resolve(config.replace(**{FLAG: each.given})) for each in named]
    for source, each in zip(found, named, strict=True):
        source.share = each.share
        if each.share is not None:
            source.fields |= {"source": each.given, "share": round(each.share, 4)}
    return found


def resolve(config: Config) -> Source:
    """The folder of episodes that a ``--pretrain_datasets_path`` of one source comes to.

    Downloads, unpacks and decodes where that has not been done yet, with a progress bar.

    Raises:
        UserError: there is nothing usable, or no place for it; one line.
    """
    given, cache = config[FLAG], cache_root(config.cache_dir)
    path = expand_path(given, FLAG)
    try:
        kind = kind_of(given)
        if kind == "episodes":
            films = _films_in(path).films
            beside = [(_place(film, path), "a video beside .npz episodes") for film in films]
            return Source(path, beside)
        if kind == "hub":
            return _downloaded(config, cache)
        if kind == "archive":
            # Beside the archive, or in the cache where that is a place only to read.
            home = path.parent if os.access(path.parent, os.W_OK) else cache / "datasets"
            name = shortened(archives.stem(path), LONGEST_STEM)
            return _unpacked(path, home / name, given)
        if kind in ("lerobot", "hdf5"):
            return _converted(path, lerobot if kind == "lerobot" else hdf5, config, cache)
        return _decoded(path, config, cache)
    except Unreadable as error:
        raise UserError(f"--{FLAG} {given}: {error}") from error
    except OSError as error:
        where = error.filename or path
        raise UserError(
            f"--{FLAG} {given}: {where}: {error.strerror or error}; make room there, or choose "
            "another --cache_dir"
        ) from error


def _downloaded(config: Config, cache: Path) -> Source:
    name = hub.check_name(config[FLAG])
    own = cache / "hub" if config.cache_dir else None
    if "/" in name:
        folder = hub.download_folder(name, cache / "datasets", own)
        if not lerobot.is_lerobot(folder):
            raise UserError(f"--{FLAG} {config[FLAG]} is not in LeRobot's layout; {ACCEPTED}")
        return _converted(folder, lerobot, config, cache)
    archive = hub.download(name, own)
    content = archive.resolve().name  # in the Hub's cache a file is named by what is in it
    target = cache / "datasets" / f"{name}-{content[:12]}"
    return _unpacked(archive, target, config[FLAG], {"etag": content})


def _unpacked(
    archive: Path, target: Path, given: str, identity: dict[str, Any] | None = None
) -> Source:
    with bar() as progress:
        folder, marker = archives.unpack(archive, target, identity, progress)
    return Source(folder, [], {"source": given, **_ignored(marker.get("ignored", 0), "episodes")})


def _ignored(number: int, taken: str) -> dict[str, str]:
    """What is said of so many files that are passed over, if there are any."""
    if not number:
        return {}
    return {"ignored": f"{number} other file{'s' * (number > 1)} (only {taken} are read)"}


def _settings(config: Config) -> frames.Settings:
    return frames.Settings(
        fps=config.video_fps,
        length=config.video_episode_length,
        size=config.size,
        grayscale=config.grayscale,
    )


def _converted(path: Path, reader: Any, config: Config, cache: Path) -> Source:
    settings = _settings(config)
    pieces = reader.pieces(path, config[FLAG], settings)
    chosen = [reader.__name__, list(settings.size), settings.grayscale, settings.length]
    name = path.resolve().name
    with bar() as progress:
        folder, skipped = converting.convert(pieces, name, cache / "converted", chosen, progress)
    return Source(folder, skipped, {"source": str(path)})


def _decoded(path: Path, config: Config, cache: Path) -> Source:
    settings = _settings(config)
    found = _films_in(path) if path.is_dir() else Found([path])
    with bar() as progress:
        folder, skipped = videos.decode(path, found.films, cache / "videos", settings, progress)
    fields = {"source": str(path), "videos": len(found.films) - len(skipped)}
    skipped += [(_place(beside, path), reason) for beside, reason in found.beside]
    return Source(folder, skipped, fields | _ignored(found.others, "videos and images"))


@contextmanager
def bar(unit: int = MEGABYTE) -> Iterator[Callable[[str, int, int], None]]:
    """Yields ``progress(what, done, total)``, which moves a bar on a terminal and is silent else.

    Args:
        unit: what the bar counts in; bytes are shown as megabytes.
    """
    terminal, name = TerminalSink(), ""

    def progress(what: str, done: int, total: int) -> None:
        nonlocal name
        if what != name:
            name = what
            terminal.bar(-(-total // unit), desc=f"{what} (MB)" if unit == MEGABYTE else what)
        terminal.progress(-(-done // unit))

    try:
        yield progress
    finally:
        terminal.close()
