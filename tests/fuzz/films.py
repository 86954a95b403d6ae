"""Videos: containers and codecs with bytes changed."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import av
import numpy as np
from hypothesis import strategies as st

import config
import sources
from replay.episodes import read_episode
from tests.fuzz.guard import Wrong
from tests.fuzz.harness import Case, Target
from tests.fuzz.mutate import mutated, pick
from tests.fuzz.words import refusal
from tools import UserError

_KINDS = (
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


def _encoded(name: str, codec: str, pixels: str) -> bytes:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height = stream.width = 32
            stream.pix_fmt = pixels
            for _ in range(6):
                picture = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture.repeat(8, 0).repeat(8, 1), "rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


@cache
def seeds() -> tuple[tuple[str, bytes], ...]:
    """(name, content) of one video of each kind."""
    return tuple((name, _encoded(name, codec, pixels)) for name, codec, pixels in _KINDS)


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
def films(draw: st.DrawFn) -> Case:
    """A video after a few changes, or one of the lists; perhaps beside a good one."""
    name, content = pick(draw, seeds())
    others = [data for _, data in seeds()]
    content = draw(mutated([content, content, content, *others, *_LISTS], 4))
    case = {name: content, "flags": pick(draw, _FLAGS).encode()}
    return case | ({"good.mp4": seeds()[0][1]} if draw(st.integers(0, 5)) == 0 else {})


def judge_video(given: Path, made: Path) -> None:
    """Videos become episodes of images, or are refused in one line."""
    flags = (given / "flags").read_text().split()
    (given / "flags").unlink()
    names = {"pretrain_datasets_path": str(given), "cache_dir": str(made)}
    chosen = config.parse([*flags, "--video_episode_length", "4"]).replace(**names)
    try:
        sources.check(chosen)
        source = sources.resolve(chosen)
    except UserError as error:
        return refusal(error, "--pretrain_datasets_path")
    for _, reason in source.skipped:
        if len(reason.splitlines()) != 1:
            raise Wrong(f"a reason of several lines: {reason!r}")
    paths = list(source.folder.glob("*.npz"))
    for path in paths:
        images = read_episode(path)["image"]
        if images.shape[1:] != (64, 64, 1 if chosen.grayscale else 3) or len(images) < 2:
            raise Wrong(f"images of shape {images.shape}")
    if not paths:
        raise Wrong("a folder without an episode")


TARGETS = (Target("videos", 4, films(), judge_video, silent=True),)
