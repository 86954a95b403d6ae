"""Finding background videos on disk and reading them as small square frames."""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from media.decoding import pictures
from media.files import find_films, images_in
from media.images import Unusable, ends_well, read_image

# Names of the sequences of DAVIS 2017 (https://davischallenge.org), its two published splits.
_DAVIS_TRAIN = """
    bear bmx-bumps boat boxing-fisheye breakdance-flare bus car-turn cat-girl classic-car color-run
    crossing dance-jump dancing disc-jockey dog-agility dog-gooses dogs-scale drift-turn drone
    elephant flamingo hike hockey horsejump-low kid-football kite-walk koala lady-running
    lindy-hop longboard lucia mallard-fly mallard-water miami-surf motocross-bumps motorbike
    night-race paragliding planes-water rallye rhino rollerblade schoolgirls scooter-board
    scooter-gray sheep skate-park snowboard soccerball stroller stunt surf swing tennis
    tractor-sand train tuk-tuk upside-down varanus-cage walking
"""
_DAVIS_VAL = """
    bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl
    dog dogs-jump drift-chicane drift-straight goat gold-fish horsejump-high india judo kite-surf
    lab-coat libby loading mbike-trick motocross-jump paragliding-launch parkour pigs
    scooter-black shooting soapbox
"""
KEPT = 24 << 20  # bytes of decoded frames that a process keeps
DAVIS = {"train": tuple(_DAVIS_TRAIN.split()), "val": tuple(_DAVIS_VAL.split())}


class Video:
    """Frames of an image sequence or a movie, squeezed to size × size RGB, decoded on demand.

    In the place of a frame that cannot be decoded stands the nearest one that can.

    Attributes:
        size: Side of a frame in pixels.
    """

    def __init__(self, path: Path, size: int, max_frames: int) -> None:
        """Opens a video.

        Args:
            path: Folder of images, shown in the order of their names, or a movie file.
            size: Side of a frame in pixels.
            max_frames: Later frames are not read.

        Raises:
            ValueError: If there is no frame.
            OSError: If the system fails to read it.
        """
        self._path, self.size = path, size
        self._frames: list[np.ndarray | None]
        self._damaged: set[int] = set()
        if path.is_dir():
            self._images = images_in(path)[:max_frames]
            self._frames = [None] * len(self._images)
        else:
            self._images = []
            self._frames = list(self._decoded(max_frames))
        if not self._frames:
            raise ValueError(f"the background video {path} holds no frames")

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame uint8 [size, size, 3]; not to be written to.

        Raises:
            ValueError: If no frame at all can be decoded.
            OSError: If the system fails to read it.
        """
        if (frame := self._frame(index)) is not None:
            return frame
        # What stands in depends on the files alone, not on what was asked for before.
        for near in sorted(range(len(self)), key=lambda other: abs(other - index)):
            if (frame := self._frame(near)) is not None:
                return frame
        raise ValueError(f"the background video {self._path} holds no whole frame")

    def _frame(self, index: int) -> np.ndarray | None:
        """A frame, None where it cannot be decoded."""
        if self._frames[index] is None and index not in self._damaged:
            path = self._images[index]
            try:
                self._frames[index] = _square(read_image(path, self.size), self.size)
            except Unusable as error:
                self._damaged.add(index)
                _tell(self._path, f"{path.name} is left out: {error}")
        return self._frames[index]

    def _decoded(self, max_frames: int) -> Iterator[np.ndarray]:
        """The frames of a movie, up to where it is damaged."""
        count = 0
        try:
            for picture in itertools.islice(pictures(self._path), max_frames):
                yield _square(Image.fromarray(picture), self.size)
                count += 1
        except Unusable as error:
            _tell(self._path, f"only its first {count} frames are shown: {error}")


def _square(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@functools.cache
def check_video(path: Path, size: int, max_frames: int) -> None:
    """Checks that a video can be shown, without decoding it all; names what is damaged in it.

    Raises:
        ValueError: If none of its frames can be decoded; one line that names it.
        OSError: If the system fails to read it.
    """
    try:
        if path.is_dir():
            _check_images(path, images_in(path)[:max_frames], size)
        elif next(pictures(path), None) is None:
            raise Unusable("it holds no frames")
    except Unusable as error:
        raise ValueError(
            f"the background video {path} cannot be shown ({error}): mend it, or take it out of "
            "its folder"
        ) from error


def usable(
    paths: Sequence[Path], most: int | None, size: int, max_frames: int, until: float = math.inf
) -> list[Path]:
    """The first videos that can be shown; those between them that cannot are left out, and named.

    Args:
        paths: The videos.
        most: How many are wanted; None for all.
        size: Side of a frame in pixels.
        max_frames: Later frames do not count.
        until: When to look at no more of them, by `time.monotonic`: the others are taken unseen.

    Raises:
        ValueError: If none of them can be shown; one line that names the first.
        OSError: If the system fails to read one.
    """
    shown: list[Path] = []
    errors: dict[Path, ValueError] = {}
    for path in paths:
        if len(shown) == most:
            break
        try:
            if time.monotonic() < until:
                check_video(path, size, max_frames)
            shown.append(path)
        except ValueError as error:
            errors[path] = error
    if errors and not shown:
        raise next(iter(errors.values()))
    for path, error in errors.items():
        _tell_first(path, f"left out, it cannot be shown ({error.__cause__})")
    return shown


def _check_images(video: Path, paths: Sequence[Path], size: int) -> None:
    whole, damaged = False, []
    for path in paths:
        if whole and ends_well(path):
            continue
        try:
            read_image(path, size)
            whole = True
        except Unusable as error:
            damaged.append(f"{path.name}: {error}")
    if not whole:
        raise Unusable(damaged[0] if damaged else "it holds no frames")
    if damaged:
        _tell_first(video, f"{len(damaged)} of its {len(paths)} images are left out ({damaged[0]})")


_told: set[Path] = set()


def _tell_first(video: Path, text: str) -> None:
    """Says in the first process what every process finds that builds an environment."""
    if multiprocessing.parent_process() is None:
        _tell(video, text)
    else:
        _told.add(video)


def _tell(video: Path, text: str) -> None:
    """Says once what is damaged in a video."""
    if video not in _told:
        _told.add(video)
        print(f"note: background video {video}: {text}", file=sys.stderr)


_opened: OrderedDict[tuple[Path, int, int], Video] = OrderedDict()


def open_video(path: Path, size: int, max_frames: int) -> Video:
    """A `Video`, shared by all envs of this process.

    Those used last stay decoded, as many as fit `KEPT` bytes, and the newest in any case.
    """
    key = (path, size, max_frames)
    if key not in _opened:
        _opened[key] = Video(path, size, max_frames)
    _opened.move_to_end(key)
    while len(_opened) > 1 and sum(len(v) * 3 * v.size**2 for v in _opened.values()) > KEPT:
        _opened.popitem(last=False)
    return _opened[key]


def find_videos(root: str | os.PathLike, names: str | Sequence[str] | None) -> list[Path]:
    """Lists the videos of a folder, and of the folders in it: of images, and movie files.

    Args:
        root: The folder, e.g. DAVIS or its `JPEGImages/480p`; `~` and `$VARIABLES` are expanded.
        names: `'train'` or `'val'`: the videos in the sub-folder of that name; without one, the
            videos that DAVIS 2017 counts to that split; without any of those, all. `None`: all.
            A sequence of names: these, in this order, with or without their folder and ending.

    Returns:
        Paths, sorted by name if none were named.

    Raises:
        FileNotFoundError: If the folder, a named video, or any video at all is missing.
        OSError: If the system fails to read something.
        ValueError: If `names` is another string.
    """
    folder = Path(os.path.expandvars(root)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder of background videos at {folder}: give one that holds image sequences "
            "(such as DAVIS 2017's JPEGImages/480p) or movie files"
        )
    if (folder / "JPEGImages" / "480p").is_dir():
        folder = folder / "JPEGImages" / "480p"
    if names is None:
        videos = find_films(folder).films
    elif isinstance(names, str):
        videos = _split(folder, names)
    else:
        films = find_films(folder).films
        by_name = {path.relative_to(folder).as_posix(): path for path in films}
        for path in films:
            by_name.setdefault(path.name, path)
        for path in films:
            by_name.setdefault(path.stem if path.is_file() else path.name, path)
        missing = [name for name in names if name not in by_name]
        if missing:
            raise FileNotFoundError(f"{folder} holds no video named {missing[0]!r}")
        videos = [by_name[name] for name in names]
    if not videos:
        raise FileNotFoundError(f"{folder} holds neither image sequences nor movie files")
    return videos


def _split(folder: Path, name: str) -> list[Path]:
    if name not in DAVIS:
        raise ValueError(f"background videos must be 'train', 'val', None or names, not {name!r}")
    # DAVIS has a video called `train`: a sub-folder that holds images is that, not a split.
    splits = [folder / split for split in DAVIS if (folder / split).is_dir()]
    splits = [split for split in splits if not images_in(split)]
    if folder / name in splits:
        return find_films(folder / name).films
    found = find_films(folder).films
    videos = [path for path in found if not any(split in path.parents for split in splits)]
    listed = [path for path in videos if path.stem in DAVIS[name]]
    from_davis = listed or any(path.stem in split for split in DAVIS.values() for path in videos)
    return listed if from_davis else videos
