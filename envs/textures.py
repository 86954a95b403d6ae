"""Textures of a table top: of Meta-World's own files, or drawn here."""

import numpy as np

# Files that the metaworld package ships among its assets.
FILES = {"wood": "wood.png", "metal": "metal.png", "marble": "marble.png"}
TEXTURES = ("grid", "black", "wood", "metal", "marble", "fabric", "blanket")

SIDE = 256  # pixels of a drawn texture
TILE = 0.4  # metres of the table that one texture covers


def draw(name: str) -> np.ndarray:
    """A texture that tiles without seams, uint8 [256, 256, 3].

    Args:
        name: 'grid', 'black', 'fabric' or 'blanket'.

    Raises:
        KeyError: If it is none of these.
    """
    return {"grid": _grid, "black": _black, "fabric": _fabric, "blanket": _blanket}[name]()


def _grid() -> np.ndarray:
    """DrawerWorld's checker, of two dark blues and four squares a side."""
    rows, columns = np.indices((SIDE, SIDE)) * 4 // SIDE
    dark, light = np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.3, 0.4])
    return _to_uint8(np.where(((rows + columns) % 2 == 0)[..., None], dark, light))


def _black() -> np.ndarray:
    return np.zeros((SIDE, SIDE, 3), np.uint8)


def _fabric() -> np.ndarray:
    """A plain weave: warp and weft go over and under each other, in two beiges."""
    threads = SIDE // 8
    y, x = np.indices((SIDE, SIDE))
    over = ((x * threads // SIDE) + (y * threads // SIDE)) % 2 == 0
    along = np.where(over, x, y) * threads % SIDE / SIDE  # across the thread on top, in [0, 1)
    shade = 0.7 + 0.3 * np.sin(np.pi * along)
    warp, weft = np.array([0.78, 0.68, 0.55]), np.array([0.62, 0.50, 0.40])
    return _to_uint8(shade[..., None] * np.where(over[..., None], warp, weft))


def _blanket() -> np.ndarray:
    """A tartan of wide red, navy and cream bands, woven both ways."""
    red, navy, cream = (0.65, 0.12, 0.15), (0.12, 0.16, 0.38), (0.9, 0.85, 0.7)
    bands = [(red, 96), (navy, 32), (red, 32), (cream, 16), (red, 32), (navy, 48)]
    line = np.concatenate([np.tile(np.array(color), (width, 1)) for color, width in bands])
    return _to_uint8(0.5 * line[:, None] + 0.5 * line[None, :])


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
