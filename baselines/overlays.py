"""Pictures to lay over observations: out of a folder of images, or textures drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from media.images import Unusable, read_image
from replay.files import files_below
from tools import UserError, expand_path, print_safe

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".JPG", ".JPEG", ".PNG")
COUNT = 1024  # pictures that are drawn from
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a crop: share of the image, width to height
OCTAVES = (2, 4, 8, 16)  # cells along a texture's side, each with half the weight of the last


class Overlays:
    """Pictures that follow from a seed, made when the first ones are asked for.

    From a folder they are random crops of its images, a part of each image's area, enlarged; as
    many of the one as of the other, in turns.

    Args:
        folder: of images; empty for textures.
        size: height and width of the pictures.
        channels: 1 or 3.
        seed: everything follows from it.
    """

    def __init__(self, folder: str, size: Sequence[int], channels: int, seed: int):
        self._folder, self._size = folder, (size[0], size[1])
        self._channels, self._seed = channels, seed
        self._pictures: Tensor | None = None

    def draw(self, batch: int, device: torch.device) -> Tensor:
        """Pictures, each one or its mirror image, uint8 [B, C, H, W].

        Raises:
            UserError: the folder has no image that can be read.
        """
        if self._pictures is None:
            self._pictures = torch.from_numpy(self._make()).to(device)
        number = torch.randint(len(self._pictures), (batch,), device=device)
        mirrored = torch.rand(batch, device=device) < 0.5
        found = self._pictures[number]
        return torch.where(mirrored[:, None, None, None], found.flip(-1), found)

    def _make(self) -> np.ndarray:
        rng = np.random.default_rng(self._seed)
        made = cropped(self._folder, self._size, rng) if self._folder else textures(self._size, rng)
        if self._channels == 1:
            made = np.rint(made.astype(np.float32) @ (0.299, 0.587, 0.114))[..., None]
        return np.ascontiguousarray(made.transpose(0, 3, 1, 2), dtype=np.uint8)


def check_folder(folder: str) -> None:
    """Checks that ``--overlay_path`` has images, if it is given.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if folder:
        _images(folder)


def _images(folder: str) -> list[Path]:
    path = expand_path(folder, "overlay_path")
    mend = f"give one with images ({', '.join(SUFFIXES[:5])}), or leave it out for textures"
    if not path.is_dir():
        raise UserError(f"--overlay_path {folder}: there is no such folder; {mend}")
    found = [image for image in files_below(path, SUFFIXES) if image.is_file()]
    if not found:
        raise UserError(f"--overlay_path {folder} has no image: {mend}")
    return found


def cropped(folder: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Crops of a folder's images, uint8 [N, H, W, 3]; images that are damaged are passed over.

    Raises:
        UserError: none can be read.
    """
    paths, made, reason = _images(folder), [], ""
    order = [paths[i] for i in rng.permutation(len(paths))[:COUNT]]
    for number, path in enumerate(order):
        try:
            image = read_image(path)
        except Unusable as error:
            reason = f" ({path.name}: {error})"
            continue
        copies = len(range(number, COUNT, len(order)))
        made += [_crop(image, size, rng) for _ in range(copies)]
    if not made:
        raise UserError(f"--overlay_path {folder} has no image that can be read{reason}")
    if reason:
        print_safe(f"note: --overlay_path {folder}: some images cannot be read{reason}")
    return np.stack(made)


def _crop(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random part of an image, uint8 [H, W, 3]."""
    area = image.width * image.height * rng.uniform(*AREA)
    aspect = np.exp(rng.uniform(*np.log(ASPECT)))
    width = int(np.clip(np.sqrt(area * aspect), 1, image.width))
    height = int(np.clip(np.sqrt(area / aspect), 1, image.height))
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box))


def textures(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of several scales and colours, half of it in stripes: uint8 [N, H, W, 3]."""
    made = np.empty((COUNT, *size, 3), np.uint8)
    ys, xs = np.mgrid[: size[0], : size[1]] / max(size)
    for picture in made:
        noise = np.zeros((*size, 3), np.float32)
        for octave, cells in enumerate(OCTAVES):
            grid = rng.random((cells, cells, 3), np.float32) - 0.5
            noise += _enlarged(grid, size) * 0.5**octave
        if rng.random() < 0.5:  # stripes that the noise bends
            angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 10)
            along = np.cos(angle) * xs + np.sin(angle) * ys
            bent = 2 * np.pi * (waves * along + 2 * noise[..., 0])
            noise += 0.4 * np.sin(bent)[..., None] * (rng.random(3) - 0.5)
        middle, contrast = rng.uniform(0.2, 0.8, 3), rng.uniform(0.5, 1.5)
        picture[:] = np.clip((middle + contrast * noise) * 255, 0, 255)
    return made


def _enlarged(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grid [h, w, 3] as float32 [H, W, 3], smooth between its points."""
    planes = [Image.fromarray(plane) for plane in grid.transpose(2, 0, 1)]
    resized = [plane.resize(size[::-1], Image.Resampling.BICUBIC) for plane in planes]
    return np.stack([np.asarray(plane) for plane in resized], -1)
