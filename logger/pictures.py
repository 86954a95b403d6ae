"""Pictures and videos: names on them, and their bytes as PNG, GIF and MP4."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TEXT = 12  # height of a letter, in pixels
GAP = 6  # pixels between tiles
RIM, RIM_COLOR = 3, (0, 160, 80)  # of a rim: pixels, and colour


def to_uint8(values: np.ndarray, name: str = "picture") -> np.ndarray:
    """A copy in uint8; floats are clipped to 0..1.

    Raises:
        ValueError: another dtype; the line names the picture.
    """
    if values.dtype == np.uint8:
        return values.copy()  # it is written later: the caller may reuse its buffer
    if values.dtype.kind != "f":
        raise ValueError(f"{name!r} is {values.dtype}, not uint8 or float in 0..1")
    # A model that diverged draws NaNs; that picture is black, and no reason to stop.
    return (np.nan_to_num(values).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def to_rgb(values: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of a picture or video [..., C]; one channel becomes three equal ones."""
    values = to_uint8(values)
    return np.repeat(values, 3, -1) if values.shape[-1] == 1 else values


def encode_gif(video: np.ndarray, fps: int) -> bytes:
    """An endless GIF of a video, uint8 [T, H, W, 3]; identical neighbours become one long frame."""
    # GIF counts time in 10 ms; viewers slow down what is shorter than 20.
    duration = max(20, 10 * round(100 / fps))
    # The default, median cut, takes 50 times as long for no smaller error.
    octree = Image.Quantize.FASTOCTREE
    first, *others = (
        Image.fromarray(frame).quantize(256, octree, dither=Image.Dither.NONE) for frame in video
    )
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return file.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """A PNG of an image, uint8 [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def encode_mp4(video: Iterable[np.ndarray], fps: int) -> bytes:
    """An H.264 video of images, uint8 [H, W, 3] with even sides, that browsers play."""
    import av  # loads a set of libraries that few commands need

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # crf 18: hardly to be told from the frames.
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(video):
            if not number:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """Images [..., H, W, C], every pixel a square of ``factor`` × ``factor``."""
    return images.repeat(factor, -3).repeat(factor, -2)


def write_text(text: str, width: int = 0, height: int = 0) -> np.ndarray:
    """Lines of black text on white: uint8 [H, W, 3], at least so large."""
    font, margin = ImageFont.load_default(TEXT), 4
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    right = measure.multiline_textbbox((margin, 0), text, font)[2]
    lines = "\n".join(["Ag"] * len(text.split("\n")))  # as high whatever the letters are
    bottom = measure.multiline_textbbox((margin, 0), lines, font)[3]
    size = max(width, int(right) + margin), max(height, int(bottom) + margin)
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).multiline_text((margin, 0), text, "black", font)
    return np.asarray(image)


def grid(
    tiles: np.ndarray,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    factor: int = 2,
    rims: np.ndarray | None = None,
) -> np.ndarray:
    """Pictures or videos in rows and columns, with names on them and gaps between them.

    Args:
        tiles: uint8 [..., R, C, H, W, 3].
        rows: names of the rows, to their left.
        columns: names of the columns, above them.
        title: a line above everything.
        factor: enlarges the tiles.
        rims: bool [..., R, C], the tiles that have a coloured rim.

    Returns:
        uint8 [..., H', W', 3]; `cut_grid` takes the tiles out again.
    """
    tiles = enlarge(tiles, factor)
    *lead, r, c, h, w, _ = tiles.shape
    blocks = [write_text(name, height=h) for name in rows]
    left = max([block.shape[1] for block in blocks], default=0) + GAP
    width = left + c * (w + GAP)
    parts = [write_text(title, width)[:, :width]] if title else []
    if columns:
        heads = [write_text(name, w + GAP)[:, : w + GAP] for name in columns]
        blank = np.full((heads[0].shape[0], left, 3), 255, np.uint8)
        parts.append(np.concatenate([blank, *heads], 1))
    top = sum(map(len, parts)) or GAP
    sheet = np.full((*lead, top + r * (h + GAP), width, 3), 255, np.uint8)
    if parts:
        sheet[..., :top, :, :] = np.concatenate(parts)
    for i in range(r):
        y = top + i * (h + GAP)
        if blocks:
            sheet[..., y : y + h, : blocks[i].shape[1], :] = blocks[i][:h]
        for j in range(c):
            x = left + j * (w + GAP)
            if rims is not None:
                around = sheet[..., y - RIM : y + h + RIM, x - RIM : x + w + RIM, :]
                around[rims[..., i, j]] = RIM_COLOR
            sheet[..., y : y + h, x : x + w, :] = tiles[..., i, j, :, :, :]
    return sheet


def cut_grid(sheet: np.ndarray, side: tuple[int, int], factor: int = 2) -> np.ndarray:
    """The tiles [..., R, C, H, W, 3] of a sheet that `grid` drew, ``side`` being H and W.

    They end at the sheet's lower right; names are narrower and lower than a tile.
    """
    h, w = (n * factor for n in side)
    r, c = sheet.shape[-3] // (h + GAP), sheet.shape[-2] // (w + GAP)
    top, left = sheet.shape[-3] - r * (h + GAP), sheet.shape[-2] - c * (w + GAP)
    rows = []
    for y in range(top, top + r * (h + GAP), h + GAP):
        row = [
            sheet[..., y : y + h : factor, x : x + w : factor, :]
            for x in range(left, left + c * (w + GAP), w + GAP)
        ]
        rows.append(np.stack(row, -4))
    return np.stack(rows, -5)


def caption(video: np.ndarray, captions: Sequence[str], factor: int = 2) -> np.ndarray:
    """A video uint8 [T, H, W, 3], enlarged, and above each frame a text of its own, [T, H', W', 3].

    The texts have as many lines as the first; what is wider than the frames is cut off.
    """
    frames = enlarge(video, factor)
    width = frames.shape[-2]
    height = len(write_text(captions[0]))
    texts = [write_text(text, width, height)[:height, :width] for text in captions]
    return np.concatenate([np.stack(texts), frames], 1)


def contact_sheet(
    videos: Sequence[np.ndarray],
    labels: Sequence[str],
    columns: int,
    factor: int = 2,
    title: str = "",
) -> np.ndarray:
    """A row for each video: its label, then frames evenly spaced from the first to the last.

    Args:
        videos: uint8 [T, H, W, 3] each, of one size; T may differ.
        labels: one a video; lines are parted by line breaks.
        columns: frames of each, at least 2.
        factor: enlarges the frames.
        title: a line above all of them.

    Returns:
        As `grid` draws it.
    """
    chosen = [np.linspace(0, len(v) - 1, columns).round().astype(int) for v in videos]
    tiles = np.stack([v[frames] for v, frames in zip(videos, chosen, strict=True)])
    return grid(tiles, labels, title=title, factor=factor)
