"""Single images: damaged ones say why, turned ones are turned back."""

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media import images
from media.images import Unusable, ends_well, read_image

KINDS = ("jpg", "png", "webp", "bmp")


def saved(path, size=(64, 48), **options):
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_was_cut_off_is_told_and_its_end_shows_it(tmp_path, kind):
    path = saved(tmp_path / f"a.{kind}")
    assert ends_well(path)
    assert read_image(path).size == (64, 48)
    content = path.read_bytes()
    for length in (len(content) // 2, 20, 0):
        path.write_bytes(content[:length])
        assert not ends_well(path)
        for size in (None, 16):
            with pytest.raises(Unusable, match=r"^damaged: ") as error:
                read_image(path, size)
            assert str(tmp_path) not in str(error.value)


def test_a_whole_image_with_more_behind_it_is_read(tmp_path):
    path = saved(tmp_path / "a.jpg")
    before = np.asarray(read_image(path))
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert not ends_well(path)
    np.testing.assert_array_equal(read_image(path), before)


def test_what_a_camera_says_of_its_turn_is_undone(tmp_path):
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :12] = (250, 0, 0)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = {  # what is stored where that orientation shows the picture upright
            1: picture,
            2: picture[:, ::-1],
            3: picture[::-1, ::-1],
            4: picture[::-1],
            5: picture.swapaxes(0, 1),
            6: np.rot90(picture),
            7: picture[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(picture, -1),
        }[orientation]
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif)
        np.testing.assert_array_equal(read_image(path), picture)


def test_grey_of_sixteen_bits_is_not_cut_off(tmp_path):
    levels = np.arange(0, 1 << 16, 1 << 8, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png"))[..., 0], levels >> 8)


def test_what_would_fill_the_memory_is_left_out(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(Unusable, match="64×48 pixels, and 3071 at most"):
        read_image(path)


def test_no_program_is_called_for_an_image(tmp_path):
    """Pillow hands PostScript to Ghostscript."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "EPS")
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    with pytest.raises(Unusable, match="no image"):
        read_image(tmp_path / "a.jpg")


def test_what_the_system_fails_to_read_is_not_damaged(tmp_path, monkeypatch):
    def failing(*args, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = saved(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", failing)
    with pytest.raises(OSError, match="Input/output error"):
        read_image(path)
    with pytest.raises(FileNotFoundError):
        ends_well(Path(tmp_path / "gone.png"))
