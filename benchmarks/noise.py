"""What is learned from while time is taken: batches and episodes of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

EPISODES, STEPS = 8, 125  # of a replay of noise


def make_batch(
    sizes: Mapping[str, int], actions: int, image: Sequence[int] = (64, 64), seed: int = 0
) -> dict[str, np.ndarray]:
    """A batch of noise in the replay's format: [B, T, …], one episode a row.

    Args:
        sizes: ``batch_size`` and ``batch_length``.
        actions: A.
        image: height and width.
        seed: everything follows from it.
    """
    shape = (sizes["batch_size"], sizes["batch_length"])
    batch = _rows(shape, image, actions, np.random.default_rng(seed))
    batch["is_first"] = np.zeros(shape, bool)
    batch["is_first"][:, 0] = True
    return batch


def make_episodes(size: Sequence[int], actions: int) -> Iterator[dict[str, np.ndarray]]:
    """Episodes of noise as a replay holds them, of a row more than they have steps.

    Args:
        size: height and width of images.
        actions: A.
    """
    rng = np.random.default_rng(0)
    for _ in range(EPISODES):
        episode = _rows((STEPS + 1,), size, actions, rng)
        episode["action"][0] = episode["reward"][0] = 0
        yield episode


def stacks(episode: Mapping[str, np.ndarray], frames: int) -> np.ndarray:
    """What an agent sees that stacks frames, uint8 [T, S·C, H, W]: the oldest frame first.

    Args:
        episode: of T rows.
        frames: S; before the first one stands that one again.
    """
    image = episode["image"].transpose(0, 3, 1, 2)
    rows = np.arange(len(image))
    before = [image[np.maximum(rows - back, 0)] for back in reversed(range(frames))]
    return np.concatenate(before, 1)


def _rows(
    shape: tuple[int, ...], size: Sequence[int], actions: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    return {
        "image": rng.integers(0, 256, (*shape, *size, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (*shape, actions)).astype(np.float32),
        "reward": rng.random(shape, dtype=np.float32),
        "discount": np.ones(shape, np.float32),
    }
