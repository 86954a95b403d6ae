"""What is a film: video files, animated pictures and folders of images, known by their beginnings.

Names count where the first bytes say nothing. Files and folders whose names begin with a dot, and
the `__MACOSX` that macOS puts into archives, are passed over.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".divx", ".flv"),
    *(".f4v", ".wmv", ".asf", ".ogv", ".ogm", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob"),
    *(".ts", ".m2ts", ".mts", ".gif", ".apng", ".mxf", ".ivf", ".y4m", ".dv", ".h264", ".hevc"),
    *(".nut", ".rm", ".rmvb"),
)
_HEAD = 512  # bytes that are looked at
_BEGINNINGS = (
    b"GIF8",
    b"\x1aE\xdf\xa3",  # Matroska and WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: wmv
    b"OggS",
    b"\0\0\1\xba",  # MPEG's program stream, and its video alone
    b"\0\0\1\xb3",
    b"DKIF",  # IVF
    b"YUV4MPEG2 ",
    b"nut/multimedia container",
    b".RMF",  # RealMedia
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02",  # MXF
)
_PNG = b"\x89PNG\r\n\x1a\n"
# A transport stream has one in every packet; Blu-ray's packets have four bytes before it.
_SYNC, _PACKETS = 0x47, ((0, 188), (4, 192))


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        films: Files and folders of images, sorted.
        beside: (folder or file, reason) of images and films that are left out because of others.
        others: Number of all other files.
    """

    films: list[Path] = field(default_factory=list)
    beside: list[tuple[Path, str]] = field(default_factory=list)
    others: int = 0


def is_video(path: Path) -> bool:
    """Whether a file begins as a video or an animated picture does, or is named like a video.

    Raises:
        OSError: it cannot be read.
    """
    start = _head(path)
    riff = start[:4] == b"RIFF" and start[8:12] == b"AVI "
    known = riff or start[4:8] in (b"ftyp", b"moov") or start.startswith(_BEGINNINGS)
    stream = any(
        start[first : first + 1] == start[first + size : first + size + 1] == bytes([_SYNC])
        for first, size in _PACKETS
    )
    return known or stream or _is_animated(start) or path.suffix.lower() in VIDEO_SUFFIXES


def is_animation(path: Path) -> bool:
    """Whether a file is a WebP or PNG that moves.

    Raises:
        OSError: it cannot be read.
    """
    return _is_animated(_head(path))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _is_animated(start: bytes) -> bool:
    if start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X":
        return bool(start[20] & 2) if len(start) > 20 else False
    return start.startswith(_PNG) and b"acTL" in start.partition(b"IDAT")[0]


def images_in(folder: Path) -> list[Path]:
    """The images of a folder by the endings of their names, sorted by name.

    Raises:
        OSError: it cannot be read.
    """
    return sorted(p for p in folder.iterdir() if _is_image_name(p.name) and p.is_file())


def _is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def find_films(folder: Path) -> Found:
    """Every film in a folder and the folders below it, each of which is entered once.

    A folder of images is a film if these are more than the films in it and below it, such as a
    preview or masks, which are left out then; else the images are covers and the like. In the
    folder itself they are that beside any film.

    Raises:
        OSError: something cannot be read.
    """
    found, images, entered = Found(), {}, set()
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(place)
        state = here.stat()
        if (state.st_dev, state.st_ino) in entered:
            folders.clear()
            continue
        entered.add((state.st_dev, state.st_ino))
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
        pictures = 0
        for name in files:
            path = here / name
            if name.startswith(".") or not path.is_file():
                continue
            if name.endswith(".npz"):
                found.others += 1
            elif is_video(path):
                found.films.append(path)
            elif _is_image_name(name):
                pictures += 1
            else:
                found.others += 1
        if pictures:
            images[here] = pictures
    _add_images(found, images, folder)
    return found


def _add_images(found: Found, images: dict[Path, int], top: Path) -> None:
    """Tells folders of images ({folder: how many}) that are films from covers and the like."""
    below = Counter(parent for film in found.films for parent in film.parents)
    sequences = set()
    for place in sorted(images, key=lambda path: len(path.parts), reverse=True):
        number = images[place]
        if below[place] and (place == top or number <= below[place]):
            reason = f"images beside videos ({number}): give them a folder of their own"
            found.beside.append((place, reason))
        else:
            sequences.add(place)
            below.update(place.parents)
    films, found.films = sorted([*found.films, *sequences]), []
    for film in films:
        if sequences.isdisjoint(film.parents):
            found.films.append(film)
        else:
            found.beside.append((film, "a video beside images that are one"))
    found.beside.sort()


def _raise(error: OSError) -> None:
    raise error
