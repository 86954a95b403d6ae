"""A tiny finetuning with its episodes, and a client that asks as a browser would."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from PIL import Image

from explorer.app import make_app
from explorer.session import Session
from fileio import checkpoints
from replay.episodes import save_episode
from tests.helpers.models import A, make_agent

HOST = "127.0.0.1:8765"
Z, ROWS = 4, 12


class Runs(NamedTuple):
    """Folders of a pretraining and of the finetuning that it taught."""

    first: Path
    second: Path


def make_episode(seed: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Noise, with actions and rewards."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (rows, A)).astype(np.float32)
    action[0] = 0
    return {
        "image": rng.integers(0, 256, (rows, 64, 64, 3), np.uint8),
        "action": action,
        "reward": rng.normal(size=rows).astype(np.float32),
        "discount": np.ones(rows, np.float32),
    }


def make_finetuning(folder: Path, teacher: Path, rows: int = ROWS, **changes: Any) -> Path:
    """A finetuning of no updates, with two episodes."""
    agent = make_agent(seed=1, teacher=teacher, **changes)
    folder.mkdir(parents=True)
    agent.config.save(folder / "config.yaml")
    checkpoints.save_newest(folder, 60, {"learner": agent.save_state()}, keep=1)
    for index in range(2):
        name = f"{index:06d}-s0-{rows}.npz"
        (folder / "train_eps").mkdir(exist_ok=True)
        save_episode(folder / "train_eps" / name, make_episode(index, rows))
    return folder


def measured(size: int = Z) -> dict[str, Any]:
    """What a measurement writes, as far as the explorer reads it."""
    names = ["elbow", None, "grid.r", "self.b"]
    rows = [
        {"index": i, "kl": 0.5 + i, "best_factor": names[i % 4], "r2": 0.04 * i}
        for i in range(size)
    ]
    return {"version": 1, "latents": rows}


class Client:
    """Asks an application as a browser on this machine would."""

    def __init__(self, session: Session):
        self.session, self.transport = session, httpx.ASGITransport(make_app(session))

    def connect(self) -> httpx.AsyncClient:
        """For requests of one's own, several at once."""
        return httpx.AsyncClient(transport=self.transport, base_url=f"http://{HOST}")

    def ask(self, method: str, url: str, **given: Any) -> httpx.Response:
        """One request."""

        async def send() -> httpx.Response:
            async with self.connect() as client:
                return await client.request(method, url, **given)

        return asyncio.run(send())

    def read(self, name: str, **query: Any) -> Any:
        """What a GET answers, which has to be JSON."""
        response = self.ask("GET", f"/api/{name}", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def tell(self, name: str, **words: Any) -> Any:
        """What a POST answers: JSON, or pixels [H, W, 3] of a PNG."""
        response = self.ask("POST", f"/api/{name}", json=words)
        assert response.status_code == 200, response.text
        if response.headers["content-type"] == "image/png":
            return pixels(response.content)
        return response.json()

    def refused(self, name: str, status: int = 400, **given: Any) -> str:
        """Why a POST is refused."""
        response = self.ask("POST", f"/api/{name}", **given)
        assert response.status_code == status, response.text
        (line,) = response.json()["error"].splitlines()
        return line


def archive(**arrays: np.ndarray) -> bytes:
    """An .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """The picture of a PNG, uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(content)))
