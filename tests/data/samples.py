"""Small episodes, archives and videos to be read."""

import io
import struct
import tarfile
from fractions import Fraction

import av
import numpy as np
from PIL import Image

TOLERANCE = 6  # levels of 255 that a codec may be off in a plain area


def episode(seed=0, rows=6):
    """The bytes of an episode with the keys of the published ones."""
    rng, file = np.random.default_rng(seed), io.BytesIO()
    np.savez_compressed(
        file,
        # Long runs of one value, so that it is packed fast.
        image=np.repeat(rng.integers(0, 256, (rows, 64, 1, 3), dtype=np.uint8), 64, axis=2),
        action=rng.uniform(-1, 1, (rows, 6)).astype(np.float32),
        logprob=np.zeros(rows, np.float32),
        reward=rng.uniform(0, 1, rows).astype(np.float32),
        discount=np.ones(rows, np.float32),
        is_terminal=np.zeros(rows, bool),
    )
    return file.getvalue()


def episodes(name, number=3, rows=6):
    """{path: bytes} of episodes in a folder of that name."""
    return {f"{name}/{seed}.npz": episode(seed, rows) for seed in range(number)}


def write_tar(path, files, more=()):
    """An archive of {name: bytes} and of members made by hand, compressed as its name says."""
    kind = {".xz": "w:xz", ".txz": "w:xz", ".gz": "w:gz", ".tgz": "w:gz"}.get(path.suffix, "w:")
    fast = {"w:xz": {"preset": 0}, "w:gz": {"compresslevel": 1}}.get(kind, {})
    with tarfile.open(path, kind, **fast) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    return path


def encode(
    path, pictures, rate=30, codec="libx264", pixels="yuv420p", times=None, aspect=1, **options
):
    """A video of RGB pictures; `times` are the frames' beginnings in milliseconds."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.sample_aspect_ratio = aspect  # of a pixel's width to its height
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "ultrafast"}
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path, matrix):
    """Writes a matrix into the track header, as a telephone held upright does."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    assert struct.unpack_from(">9i", content, at)[:5] == (1 << 16, 0, 0, 0, 1 << 16)
    a, b, c, d = (n << 16 for n in matrix)
    struct.pack_into(">9i", content, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def turned(path, matrix):
    """A short video of a picture that looks different from all sides, turned; and that picture."""
    picture = np.full((96, 96, 3), 30, np.uint8)
    picture[:48, :48], picture[:48, 48:] = (220, 220, 220), (120, 120, 120)
    encode(path, [picture] * 2)
    turn(path, matrix)
    return picture, path


TURNS = {  # the matrix's a, b, c, d: x' = ax + cy, y' = bx + dy; and the same done to a picture
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "head over": ((1, 0, 0, -1), lambda p: p[::-1]),
    "half": ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "counter": ((0, -1, 1, 0), lambda p: np.rot90(p)),
    "clockwise, mirrored": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "counter, mirrored": ((0, -1, -1, 0), lambda p: p[::-1, ::-1].swapaxes(0, 1)),
}


def moving(path, pictures, times):
    """An animated picture of RGB pictures, each of which lasts so many milliseconds."""
    first, *rest = (Image.fromarray(picture) for picture in pictures)
    kind = "PNG" if path.suffix == ".apng" else None
    how = {"save_all": True, "append_images": rest, "duration": times}
    first.save(path, kind, **how, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


def level(index):
    """The grey of a frame, far from its neighbours'."""
    return 20 + (index * 37) % 210


def plain(count, height=64, width=64):
    """Pictures of one grey each, which tells which one it is."""
    return [np.full((height, width, 3), level(index), np.uint8) for index in range(count)]


def assert_shows(images, numbers):
    """Asserts that the images are the plain pictures of these numbers."""
    assert len(images) == len(numbers)
    for image, number in zip(images, numbers, strict=True):
        assert np.abs(image.astype(int) - level(number)).max() < TOLERANCE


def everything(folder):
    """{path: content} of all below a folder."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
