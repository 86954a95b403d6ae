"""Videos and images: containers and codecs with bytes changed."""

from __future__ import annotations

import io
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

import config
import data
from distracting_control.videos import Video, check_video, find_videos
from replay.episodes import read_episode
from tests.data.samples import encode, moving
from tests.fuzz.inputs import check_refusal, damaged, fuzz, laid
from tools import UserError

KINDS = (
    ("a.mp4", "mpeg4", "yuv420p"),
    ("a.mp4", "libx264", "yuv420p"),
    ("a.avi", "mpeg4", "yuv420p"),
    ("a.avi", "mjpeg", "yuvj420p"),
    ("a.gif", "gif", "rgb8"),
    ("a.webm", "libvpx", "yuv420p"),
    ("a.mkv", "ffv1", "yuv420p"),
    ("a.mov", "png", "rgb24"),
    ("a.mpg", "mpeg1video", "yuv420p"),
    ("a.ts", "mpeg2video", "yuv420p"),
)


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """(name, content) of one video of each kind, of six frames."""
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    pictures = pictures.repeat(8, 1).repeat(8, 2)
    found = []
    for name, codec, pixels in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            path = encode(Path(folder, name), list(pictures), 25, codec, pixels)
            found.append((name, path.read_bytes()))
    for name in ("a.webp", "a.apng"):
        with tempfile.TemporaryDirectory() as folder:
            path = moving(Path(folder, name), list(pictures), [40] * 6)
            found.append((name, path.read_bytes()))
    return tuple(found)


@cache
def stills() -> dict[str, bytes]:
    """{suffix: content} of an image of each kind."""
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found = {}
    for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("bmp", "BMP")):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, kind)
        found[suffix] = file.getvalue()
    return found


# Lists that name other files and addresses, under names of videos.
_LISTS = (
    b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    b"RIFF\xff\xff\xff\xffAVI LIST",
    b"\0\0\0\1ftypisom\0\0\0\0\0\0\0\0",
    b"GIF89a\xff\xff\xff\xff\xf7\0\0",
    b"\x1aE\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff",
    b"",
)
_FLAGS = ("", "", "--video_fps 30", "--video_fps 0.001", "--grayscale True")


@st.composite
def films(draw: st.DrawFn) -> dict[str, bytes]:
    """A video after a few changes, or one of the lists; perhaps beside a good one."""
    name, content = draw(st.sampled_from(seeds()))
    others = [other for _, other in seeds()]
    case = {name: draw(damaged([content, content, content, *others, *_LISTS]))}
    return case | ({"good.mp4": seeds()[0][1]} if draw(st.integers(0, 5)) == 0 else {})


@fuzz(15, st.tuples(films(), st.sampled_from(_FLAGS)))
def test_videos_become_episodes_of_images_or_are_refused(capfd, case):
    files, flags = case
    with laid(files) as (there, made):
        names = {"pretrain_datasets_path": str(there), "cache_dir": str(made)}
        chosen = config.parse([*flags.split(), "--video_episode_length", "4"]).replace(**names)
        try:
            data.check(chosen)
            source = data.resolve(chosen)
        except UserError as error:
            return check_refusal(error, "--pretrain_datasets_path")
        assert capfd.readouterr().err == ""
        for _, reason in source.skipped:
            check_refusal(reason)
        paths = list(source.folder.glob("*.npz"))
        assert paths
        for path in paths:
            images = read_episode(path)["image"]
            assert images.shape[1:] == (64, 64, 1 if chosen.grayscale else 3)
            assert len(images) >= 2


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """Images, one of them after a few changes, or a film likewise."""
    if draw(st.booleans()):
        return draw(films())
    suffix, seeds = draw(st.sampled_from([*stills()])), stills()
    content = draw(damaged([seeds[suffix], seeds[suffix], *seeds.values()]))
    good = {f"{number}.{suffix}": seeds[suffix] for number in range(draw(st.integers(0, 2)))}
    return good | {f"9.{suffix}": content}


@fuzz(25, folders())
def test_images_and_films_are_shown_in_the_sky_or_refused(case):
    with laid(case) as (there, _):
        try:
            [path, *_] = find_videos(there, None)
            check_video(path, 8, 5)
        except (FileNotFoundError, ValueError) as error:
            return check_refusal(error, str(there))
        video = Video(path, 8, 5)
        for index in range(len(video)):
            assert video[index].shape == (8, 8, 3)
            assert video[index].dtype == np.uint8


@fuzz(15, folders())
def test_folders_of_images_become_episodes_or_are_refused(case):
    with laid(case) as (there, made):
        names = {"pretrain_datasets_path": str(there), "cache_dir": str(made)}
        try:
            source = data.resolve(config.parse([]).replace(**names))
        except UserError as error:
            return check_refusal(error, "--pretrain_datasets_path")
        for _, reason in source.skipped:
            check_refusal(reason)
        for path in source.folder.glob("*.npz"):
            assert read_episode(path)["image"].shape[1:] == (64, 64, 3)
