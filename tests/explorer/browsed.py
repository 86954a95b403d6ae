"""The explorer in a real browser: what tests of its page share."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
WIDE, NARROW = {"width": 1360, "height": 900}, {"width": 360, "height": 760}


@contextlib.contextmanager
def serving(run):
    """The command as one types it; its address and its process."""
    words = [sys.executable, "-m", "explorer", str(run), "--port", "0"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[0], process
        finally:
            process.terminate()


def settle(page):
    """Waits until all is drawn."""
    page.wait_for_selector("body[data-drawing=false]:not([aria-busy=true])")


def shown(page, selector):
    """What a canvas shows, uint8 [H, W, 3]."""
    side, values = page.eval_on_selector(
        selector,
        "c => [c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.width).data]]",
    )
    return np.array(values, np.uint8).reshape(side, side, 4)[..., :3]


def tile(number):
    return f"#tiles figure:nth-child({number}) canvas"


def shot(page, name):
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def first_slider(page):
    return page.locator("#sliders .slider").first
