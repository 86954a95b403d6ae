"""Finding background videos on disk and reading them as small square frames."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
ANIMATION_SUFFIXES = {".gif", ".apng"}
MOVIE_SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}

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
DAVIS = {"train": tuple(_DAVIS_TRAIN.split()), "val": tuple(_DAVIS_VAL.split())}


class Video:
    """Frames of an image sequence or a movie, squeezed to size × size RGB, decoded on demand."""

    def __init__(self, path: Path, size: int, max_frames: int) -> None:
        """Opens a video.

        Args:
            path: Folder of images, shown in the order of their names, or a movie file.
            size: Side of a frame in pixels.
            max_frames: Later frames are not read.

        Raises:
            ValueError: If there is no frame.
        """
        self._size = size
        if path.is_dir():
            self._images = _images(path)[:max_frames]
            self._frames: list[np.ndarray | None] = [None] * len(self._images)
        else:
            self._images = []
            self._frames = [self._square(frame) for frame in _decode(path, max_frames)]
        if not self._frames:
            raise ValueError(f"{path} holds no frames")

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame uint8 [size, size, 3]; not to be written to."""
        frame = self._frames[index]
        if frame is None:
            with Image.open(self._images[index]) as image:
                # Lets the JPEG decoder shrink large images itself, which is several times faster.
                image.draft("RGB", (self._size, self._size))
                frame = self._frames[index] = self._square(image)
        return frame

    def _square(self, image: Image.Image) -> np.ndarray:
        resized = image.convert("RGB").resize((self._size, self._size), Image.Resampling.BILINEAR)
        return np.asarray(resized)


@functools.lru_cache(maxsize=8)
def open_video(path: Path, size: int, max_frames: int) -> Video:
    """A `Video`, shared by all envs of this process; the eight used last stay decoded."""
    return Video(path, size, max_frames)


def find_videos(root: str | os.PathLike, names: str | Sequence[str] | None) -> list[Path]:
    """Lists the videos of a folder: sub-folders of images, and movie files.

    Args:
        root: The folder, e.g. DAVIS or its `JPEGImages/480p`; `~` and `$VARIABLES` are expanded.
        names: `'train'` or `'val'`: the videos in the sub-folder of that name; without one, the
            videos that DAVIS 2017 counts to that split; without any of those, all. `None`: all.
            A sequence of names: these, in this order.

    Returns:
        Paths, sorted by name if none were named.

    Raises:
        FileNotFoundError: If the folder, a named video, or any video at all is missing.
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
        videos = _videos(folder)
    elif isinstance(names, str):
        videos = _split(folder, names)
    else:
        by_name = {path.name: path for path in _videos(folder)}
        by_name.update({path.stem: path for path in by_name.values() if path.is_file()})
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
    if (folder / name).is_dir() and not _images(folder / name):
        return _videos(folder / name)
    videos = _videos(folder)
    listed = [path for path in videos if path.stem in DAVIS[name]]
    from_davis = listed or any(path.stem in split for split in DAVIS.values() for path in videos)
    return listed if from_davis else videos


def _videos(folder: Path) -> list[Path]:
    movies = MOVIE_SUFFIXES | ANIMATION_SUFFIXES
    return sorted(
        path
        for path in folder.iterdir()
        if (path.suffix.lower() in movies if path.is_file() else _images(path))
    )


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _decode(path: Path, max_frames: int) -> list[Image.Image]:
    """The first frames of a movie file."""
    if path.suffix.lower() in ANIMATION_SUFFIXES:
        with Image.open(path) as animation:
            frames = zip(range(max_frames), ImageSequence.Iterator(animation), strict=False)
            return [frame.convert("RGB") for _, frame in frames]
    import imageio.v3 as iio

    frames = zip(range(max_frames), iio.imiter(path, plugin="pyav"), strict=False)
    return [Image.fromarray(frame) for _, frame in frames]
