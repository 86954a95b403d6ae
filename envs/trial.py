"""A look at each variation of a run before it begins: what would fail hours later fails now."""

import time
from collections.abc import Sequence
from pathlib import Path

from distracting_control.background import MAX_FRAMES, TEXTURE_SIZE, BackgroundSettings
from distracting_control.base import Strength
from distracting_control.palette import read_colors
from distracting_control.procedural import is_procedural
from distracting_control.videos import find_videos, usable
from envs import worlds
from envs.checks import as_flags
from envs.settings import EnvSettings
from envs.suites import COMMON, VARIATIONS
from envs.tasks import SUITES, factories_of, parse_task
from tools import UserError, print_safe

SECONDS = 10  # that looking at videos may take; what has not been looked at by then is not
_SETS = {"train": "", "test": "test_"}  # which settings hold in a variation, by their prefix


def try_variations(task: str, names: Sequence[str], settings: EnvSettings) -> None:
    """Looks at the videos of all variations, and draws a frame of each but the first.

    Where everything that could tell variations apart has its default, only other looks than the
    usual ones are drawn.

    Args:
        task: Name of the task.
        names: The variations; the first is the one that the caller draws next anyway.
        settings: The settings.

    Raises:
        UserError: One cannot be drawn; a line names it, or the flags that are wrong.
    """
    check_backgrounds(task, names, settings)
    suite, identity = parse_task(task)
    own = SUITES[suite].read_by(identity) - COMMON
    if all(getattr(settings, name) == getattr(EnvSettings, name) for name in own):
        names = [names[0], *(name for name in names[1:] if name not in (*VARIATIONS, "switch"))]
    factories = factories_of(task, settings)
    drawn = [factories[names[0]]]
    for name in names[1:]:
        if factories[name] in drawn:
            continue
        drawn.append(factories[name])
        try:
            env = factories[name]()
            try:
                env.reset(seed=0)
                env.render()
            finally:
                env.close()
        except (ValueError, OSError, ImportError) as error:
            reason = as_flags(str(error).strip().splitlines()[-1])
            raise UserError(f"{task} cannot be drawn as '{name}': {reason}") from error


def check_backgrounds(task: str, names: Sequence[str], settings: EnvSettings) -> None:
    """Reads a frame of each video that can be the background in one of the variations.

    One that cannot be shown is noted; so are a folder whose videos serve as train and as val,
    backgrounds that stand still, and pictures that are computed as no folder was given.

    Raises:
        UserError: There are no such videos or too few, or none can be shown; a line names the
            flags and a file.
    """
    suite, identity = parse_task(task)
    domain = identity[0]
    _check_worlds(task, names, settings)
    if "background_dataset_path" not in SUITES[suite].read_by(identity) or suite == "dmc":
        return
    until, found, still = time.monotonic() + SECONDS, dict[str, list[Path]](), []
    has_backdrop, computed = SUITES[suite].has_backdrop, False
    for prefix in (_SETS[name] for name in names if name in _SETS):
        background = BackgroundSettings.of(vars(settings), prefix)
        if background.background_dataset_path is None:
            computed |= has_backdrop
            continue
        if not has_backdrop and not getattr(settings, f"{prefix}dynamic"):
            still.append(f"--{prefix}dynamic True")
        if is_procedural(background.background_dataset_path):
            continue
        flags = _flags(settings, background)
        videos = _listed(background, flags)
        count = _count(domain, len(videos), settings, background, flags)
        try:
            usable(videos, count, TEXTURE_SIZE, MAX_FRAMES, until)
        except (ValueError, OSError) as error:
            raise UserError(f"{flags}: {error}") from error
        if videos in found.values() and background.background_dataset_videos not in found:
            folder = background.background_dataset_path
            print_safe(f"note: {folder} does not tell train from val: both sets show all of it")
        found[background.background_dataset_videos] = videos
    if computed:
        print_safe(
            f"note: {task}: computed pictures are behind the robot, as no folder of videos or "
            "pictures is given (--background_dataset_path)"
        )
    if still:
        print_safe(f"note: backgrounds stand still; {' '.join(still)} plays the videos")


def _check_worlds(task: str, names: Sequence[str], settings: EnvSettings) -> None:
    """Looks at the files of the worlds among variations, and says which show computed pictures.

    Raises:
        UserError: A file is missing, or nothing in a folder can be shown.
    """
    _, (_, *rest) = parse_task(task)
    own = [(rest[1], _SETS[name]) for name in names if len(rest) > 1 and name in _SETS]
    shown = [*own, *((name, "test_") for name in names if name in worlds.WORLDS)]
    computed = []
    for world, prefix in dict.fromkeys(shown):
        try:
            if world in worlds.COLORS and settings.dmcgb_path is not None:
                read_colors(settings.dmcgb_path, worlds.COLORS[world])
            if not worlds.moves(world):
                continue
            films = worlds.film_settings(world, settings, prefix)
            if not is_procedural(films.background_dataset_path):
                paths = find_videos(
                    films.background_dataset_path or "", films.background_dataset_videos
                )
                count = worlds.film_count(world, films)
                if count is not None and not 1 <= count <= len(paths):
                    raise ValueError(
                        f"{len(paths)} videos are in {films.background_dataset_path} and {count} "
                        f"are to be shown: give --background_num_videos {len(paths)}, or another "
                        "folder"
                    )
                until = time.monotonic() + SECONDS / 4
                usable(paths, count, TEXTURE_SIZE, MAX_FRAMES, until)
            elif worlds.has_no_films(world, settings, prefix):
                computed.append(world)
        except (ValueError, OSError) as error:
            raise UserError(f"the world {world} cannot be shown: {error}") from error
    if computed:
        listed = ", ".join(dict.fromkeys(computed))
        print_safe(
            f"note: {listed}: computed pictures move there, as no folder of videos is given "
            "(--background_dataset_path, or --dmcgb_path for video_easy and video_hard)"
        )


def _flags(settings: EnvSettings, background: BackgroundSettings) -> str:
    """The flags that choose the videos of a set, and what they say."""
    own = background.prefix if settings.test_background_dataset_path is not None else ""
    return (
        f"--{own}background_dataset_path {background.background_dataset_path} "
        f"--{background.prefix}background_dataset_videos {background.background_dataset_videos}"
    )


def _listed(background: BackgroundSettings, flags: str) -> list[Path]:
    """The videos of a set."""
    folder, split = background.background_dataset_path, background.background_dataset_videos
    try:
        return find_videos(folder, split)
    except (OSError, ValueError) as error:
        reason = str(error)
    try:
        others = len(find_videos(folder, None))
    except (OSError, ValueError):
        raise UserError(f"{flags}: {reason}") from None
    raise UserError(
        f"{flags}: none of the {others} videos there is of that split: give another one, or a "
        f"folder with a sub-folder {split}"
    )


def _count(
    domain: str, there: int, settings: EnvSettings, background: BackgroundSettings, flags: str
) -> int | None:
    """How many of its videos a set uses, None for all."""
    strength = Strength.of(vars(settings), background.prefix)
    arguments = background.kwargs(domain, strength)
    count = arguments and arguments["num_videos"]
    if count is None or 1 <= count <= there:
        return count
    if background.background_num_videos is not None:
        asks = f"--background_num_videos {count}"
    else:
        own = background.prefix if settings.test_difficulty is not None else ""
        asks = f"--{own}difficulty {strength.difficulty}"
    raise UserError(
        f"{flags}: {there} videos are there, and {asks} shows {count}: give "
        f"--background_num_videos {there}, or another folder"
    )
