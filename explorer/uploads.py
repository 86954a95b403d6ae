"""Files that were uploaded: an image, or an episode as an .npz archive. Read without trust."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np

from explorer.clips import Clip, make_clip
from explorer.subject import Subject
from fileio import npz
from media.images import Unusable, read_image
from replay.episodes import DTYPES, check_episode
from tools import UserError

LARGEST = 16 << 20  # bytes of a file
DECODED = 256 << 20  # bytes of its arrays
PIXELS = 4096 * 4096  # of an image


def read_upload(content: bytes, subject: Subject) -> Clip:
    """An uploaded file as a clip.

    Its name is not known here: whatever it was called, its content says what it is.

    Raises:
        UserError: it is neither, is damaged, or too large; one line.
    """
    with tempfile.TemporaryDirectory(prefix="explorer") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        try:
            if content[:2] == b"PK":
                columns = check_episode(npz.read(path, DTYPES, largest=DECODED))
                return make_clip("the uploaded episode", columns, subject)
            image = np.array(read_image(path, pixels=PIXELS))
            return make_clip("the uploaded image", {"image": image[None]}, subject)
        except Unusable as error:
            raise UserError(f"the upload cannot be used, {error}: give a PNG or JPEG") from None
        except (OSError, ValueError, MemoryError) as error:
            what = npz.reason(error)
            raise UserError(
                f"the upload cannot be used: {what}: give an image, or an .npz with image "
                "uint8 [T, H, W, C]"
            ) from None
        finally:
            gc.collect()  # FFmpeg's filters that scaled it hold each other, and its frames
