"""Videos: containers and codecs with bytes changed."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

import config
import data
from replay.episodes import read_episode
from tests.data.samples import encode
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
    return tuple(found)


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
