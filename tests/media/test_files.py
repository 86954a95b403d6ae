"""What is a film in a folder: by its beginning, by its name, and by what lies around it."""

import os

import pytest
from PIL import Image

from media.files import find_films, images_in, is_video

BEGINNINGS = {
    "mp4": b"\0\0\0\x18ftypisom",
    "old mov": b"\0\0\1\0moov",
    "avi": b"RIFF\0\0\0\0AVI LIST",
    "mkv": b"\x1aE\xdf\xa3",
    "gif": b"GIF89a",
    "flv": b"FLV\x01\x01\0\0\0\x09",
    "wmv": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "ogv": b"OggS\0\x02",
    "mpg": b"\0\0\1\xba",
    "m2v": b"\0\0\1\xb3",
    "ts": (b"G" + b"\xff" * 187) * 3,
    "m2ts": (b"\0\0\0\0G" + b"\xff" * 187) * 3,
    "webp": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02",
    "apng": b"\x89PNG\r\n\x1a\n" + bytes(25) + b"\0\0\0\x08acTL" + bytes(12) + b"\0\0\0\0IDAT",
}
NO_FILMS = {
    "empty": b"",
    "text": b"Good morning. " * 100,
    "jpg": b"\xff\xd8\xff\xe0",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(25) + b"\0\0\0\0IDAT acTL",
    "still webp": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x10",
    "cut webp": b"RIFF\0\0\0\0WEBPVP8X",
    "wav": b"RIFF\0\0\0\0WAVEfmt ",
}


@pytest.mark.parametrize("start", BEGINNINGS.values(), ids=BEGINNINGS)
def test_films_are_known_by_their_beginnings(tmp_path, start):
    (tmp_path / "x").write_bytes(start)
    assert is_video(tmp_path / "x")


@pytest.mark.parametrize("start", NO_FILMS.values(), ids=NO_FILMS)
def test_what_begins_otherwise_is_known_by_its_name_alone(tmp_path, start):
    for name in ("x", "x.jpg", "x.txt"):
        (tmp_path / name).write_bytes(start)
        assert not is_video(tmp_path / name)
    for name in ("x.ts", "x.FLV", "x.wmv", "x.ogv", "x.mp4"):
        (tmp_path / name).write_bytes(start)
        assert is_video(tmp_path / name)


def laid(folder, names):
    """Files that are what their names say, in their folders."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BEGINNINGS["mp4"] if name.endswith("mp4") else b"")
    return folder


def names(folder):
    return [path.relative_to(folder).as_posix() for path in find_films(folder).films]


def test_folders_are_walked_and_hidden_things_passed_over(tmp_path):
    laid(tmp_path, ["b.mp4", "classA/a.mp4", "classB/deep/a.mp4", "classC/0.jpg", "classC/1.JPG"])
    laid(tmp_path, ["._b.mp4", "__MACOSX/b.mp4", ".cache/a.mp4", "classC/._0.jpg", "a.txt"])
    assert names(tmp_path) == ["b.mp4", "classA/a.mp4", "classB/deep/a.mp4", "classC"]
    found = find_films(tmp_path)
    assert (found.beside, found.others) == ([], 1)
    assert [path.name for path in images_in(tmp_path / "classC")] == ["0.jpg", "1.JPG"]


def left_out(folder):
    return {path.relative_to(folder).as_posix(): why for path, why in find_films(folder).beside}


def test_few_images_beside_films_or_above_them_are_covers(tmp_path):
    laid(tmp_path, ["a/x.mp4", "a/x.jpg", "b/bear/0.jpg", "b/bear/1.jpg", "b/all.png"])
    assert names(tmp_path) == ["a/x.mp4", "b/bear"]
    reason = "images beside videos (1): give them a folder of their own"
    assert left_out(tmp_path) == {"a": reason, "b": reason}
    assert names(tmp_path / "b" / "bear") == ["."]


def test_many_images_are_a_film_and_what_lies_beside_is_not(tmp_path):
    laid(tmp_path, [f"bear/{number}.jpg" for number in range(3)])
    laid(tmp_path, ["bear/preview.mp4", "bear/masks/0.png"])
    assert names(tmp_path) == ["bear"]
    reason = "a video beside images that are one"
    assert left_out(tmp_path) == {"bear/masks": reason, "bear/preview.mp4": reason}
    laid(tmp_path, ["0.jpg", "1.jpg"])  # of the folder that was given they are no film
    assert names(tmp_path) == ["bear"]


def test_an_animated_picture_among_images_is_a_film(tmp_path):
    for index in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.webp")
    assert names(tmp_path) == ["."]
    (tmp_path / "moves.webp").write_bytes(BEGINNINGS["webp"])
    assert names(tmp_path) == ["moves.webp"]


def test_links_are_followed_once(tmp_path):
    home = laid(tmp_path / "home", ["a/x.mp4"])
    laid(tmp_path / "other", ["y.mp4"])
    os.symlink(tmp_path / "other", home / "link")
    os.symlink(home, home / "a" / "round")
    os.symlink(tmp_path / "nothing.mp4", home / "dangling.mp4")
    os.mkfifo(home / "pipe.mp4")
    assert names(home) == ["a/x.mp4", "link/y.mp4"]


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        find_films(tmp_path / "gone")
