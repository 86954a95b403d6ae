"""What the page can ask for, of one subject: everything here blocks, and knows no HTTP."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from explorer import drawing
from explorer.clips import Clip, Clips, encode, read_clip
from explorer.labels import FOLDER, Label, read_labels
from explorer.live import POLICY, RANDOM, Live
from explorer.subject import STUDENT, TAUGHT_BY, Subject, as_text
from explorer.uploads import LARGEST, read_upload
from figures.style import task_name
from logger.pictures import encode_png
from models import WorldModel
from tools import UserError

HORIZON = 100  # most steps of an imagination, and of one request to play
SAMPLE, ROWS = 8, 32  # episodes that sort the latents, and frames of each
REACHES = (3, 9)  # how far latents are moved; 9 in the paper's traversals
NO_AGENT = "there is no agent here"
BLIND = "without decoder.pt and rssm.pt an encoder draws nothing"


class Session:
    """A subject, and what is being looked at of it.

    Args:
        subject: what is explored.

    Raises:
        UserError: what was measured of it is damaged.
    """

    def __init__(self, subject: Subject):
        self.subject, self.clips, self.live = subject, Clips(subject), Live(subject)
        self.labels = {name: self._labels(name) for name in subject.models}

    def _labels(self, name: str) -> list[Label]:
        """The labels [Z] of a model: as measured, else the KL of some of its episodes' frames."""
        model = self.subject.models[name]
        folder = self.subject.folder / FOLDER
        size = model.encoder.embed_size
        measured = None
        if self.subject.newest:
            measured = read_labels(folder / TAUGHT_BY if name == TAUGHT_BY else folder, size)
        frames = None if measured else self._sample()
        if measured or frames is None:
            return measured or [Label()] * size
        return [Label(float(kl)) for kl in encode(model, frames).kl.mean(0)]

    def _sample(self) -> np.ndarray | None:
        """Frames of a few episodes; None where there are none that can be read."""
        found: list[np.ndarray] = []
        for path in self.subject.episodes().values():
            try:
                clip = read_clip(path, self.subject)
            except UserError:
                continue  # whoever chooses it is told
            rows = np.linspace(0, len(clip) - 1, min(ROWS, len(clip))).astype(int)
            found.append(clip.image[rows])
            if len(found) == SAMPLE:
                break
        return np.concatenate(found) if found else None

    def describe(self) -> dict[str, Any]:
        """What there is to explore, and why what is not there is not."""
        agent, config = self.subject.agent, self.subject.config
        models = [
            {
                "name": name,
                "draws": None if model.complete else BLIND,
                "labels": [label._asdict() for label in self.labels[name]],
                "actions": isinstance(model, WorldModel),
            }
            for name, model in self.subject.models.items()
        ]
        return {
            "title": self._title(),
            "folder": as_text(str(self.subject.folder)),
            "models": models,
            "side": self.subject.image_shape[0],
            "main": STUDENT if STUDENT in self.subject.models else models[0]["name"],
            "actions": agent and {"size": agent.policy.actions, "discrete": self._is_discrete()},
            "missing": {
                "policy": None if agent else self._no_agent(),
                "live": self.live.missing,
            },
            "looks": self.live.looks,
            "task": config and task_name(config.task),
            "episodes": [*self.subject.episodes()],
            "limits": {"upload": LARGEST, "horizon": HORIZON},
            "reaches": REACHES,
        }

    def _title(self) -> str:
        config = self.subject.config
        if config is None:
            return "A predictor"
        if self.subject.agent is None:
            return "A pretrained predictor"
        return f"{config.method_name} · {task_name(config.task)}"

    def _no_agent(self) -> str:
        return "a predictor has no policy: open a finetuning that learned from it"

    def _is_discrete(self) -> bool:
        agent = self.subject.agent
        return agent is not None and agent.behavior.actor.dist in agent.behavior.actor.DISCRETE

    def open(self, name: str, since: int = 0) -> dict[str, Any]:
        """A clip's rows, from one on, as every model sees them."""
        clip = self.clips.get(name)
        rows, columns = len(clip), clip.columns  # a live episode may grow meanwhile
        latents = {key: clip.latents_of(key, model) for key, model in self.subject.models.items()}
        reward = columns.get("reward")
        return {
            "id": name,
            "title": clip.name,
            "rows": rows,
            "since": since,
            "latents": {key: _rounded(value.mean[since:rows]) for key, value in latents.items()},
            "kl": {key: _rounded(value.kl[:rows].mean(0)) for key, value in latents.items()},
            "reward": None if reward is None else _rounded(reward[since:rows]),
            "actions": "action" in columns,
            "playing": self.live.is_open(clip),
        }

    def upload(self, content: bytes) -> dict[str, Any]:
        """Takes up a file."""
        return self.open(self.clips.add("upload", read_upload(content, self.subject)))

    def begin(self, look: str) -> str:
        """Begins an episode in the live environment; returns its name."""
        return self.clips.add("live", self.live.begin(look))

    def play(self, name: str, action: str | list[float], steps: int) -> int:
        """Plays the live episode on; returns the first row that is new."""
        clip = self.clips.get(name)
        since = len(clip)
        if isinstance(action, str):
            if action == POLICY and self.subject.agent is None:
                raise UserError(self._no_agent())
            if action not in (POLICY, RANDOM):
                raise UserError(f"an action is {POLICY}, {RANDOM}, or numbers")
            self.live.play(clip, action, steps)
        else:
            self.live.play(clip, self.action(action), steps)
        return since

    def action(self, given: list[float]) -> np.ndarray:
        """An action [A] as it was given.

        Raises:
            UserError: there is no agent, or it has another number of them.
        """
        agent = self.subject.agent
        if agent is None:
            raise UserError(NO_AGENT)
        if len(given) != agent.policy.actions:
            raise UserError(f"an action has {agent.policy.actions} numbers, not {len(given)}")
        return np.clip(np.array(given, np.float32), -1, 1)

    def pictures(self, name: str, row: int, latents: dict[str, list[float]]) -> bytes:
        """The true frame and, to its right, what each model draws of its latent: a PNG."""
        clip = self._at(name, row)
        tiles = [drawing.to_rgb(clip.image[row])]
        for key, values in latents.items():
            model, latent = self._latent(key, values)
            tiles.append(drawing.decode(model, latent[None], clip, row)[0])
        return encode_png(np.concatenate(tiles, 1))

    def strip(
        self, name: str, row: int, key: str, values: list[float], index: int, reach: float
    ) -> bytes:
        """Seven pictures along one number of a model's latent: a PNG."""
        clip = self._at(name, row)
        model, latent = self._latent(key, values)
        if not 0 <= index < len(latent):
            raise UserError(f"there is no latent {index}")
        return encode_png(np.concatenate(drawing.strip(model, latent, index, reach, clip, row), 1))

    def imagine(
        self,
        name: str,
        row: int,
        key: str,
        values: list[float],
        action: str | list[float],
        horizon: int,
    ) -> dict[str, Any]:
        """What a model imagines from a row on; ``png`` has true frames in a row below, if any."""
        clip = self._at(name, row)
        model, latent = self._latent(key, values)
        choose, ahead = None, clip.image[row : row + horizon + 1]
        if isinstance(model, WorldModel):
            choose = self._choose(clip, row, action)
            if action == "recorded":
                horizon = len(ahead) - 1
            else:
                ahead = ahead[:0]  # what followed, followed other actions
        state = drawing.posterior(model, latent, clip, row)
        found = drawing.imagine(model, state, horizon, choose)
        sheet = [np.concatenate([*found.images], 1)]
        if len(ahead) > 1:
            truth = np.zeros_like(found.images)
            truth[: len(ahead)] = drawing.to_rgb(ahead)
            sheet.append(np.concatenate([*truth], 1))
        return {
            "frames": len(found.images),
            "truth": len(ahead) if len(ahead) > 1 else 0,
            "reward": None if found.reward is None else _rounded(found.reward),
            "action": None if found.action is None else _rounded(found.action),
            "png": base64.b64encode(encode_png(np.concatenate(sheet, 0))).decode(),
        }

    def _choose(self, clip: Clip, row: int, action: str | list[float]) -> drawing.Choose:
        agent = self.subject.agent
        if agent is None:
            raise UserError(NO_AGENT)
        if action == POLICY:
            return drawing.of_policy(agent)
        if action == "recorded":
            if "action" not in clip.columns or row + 1 >= len(clip):
                raise UserError("no recorded action follows this frame: choose another one")
            return drawing.recorded(clip, row)
        if isinstance(action, str):
            raise UserError(f"an action is {POLICY}, recorded, or numbers")
        return drawing.constant(self.action(action))

    def _at(self, name: str, row: int) -> Clip:
        clip = self.clips.get(name)
        if not 0 <= row < len(clip):
            raise UserError(f"there is no frame {row}: the sequence has {len(clip)}")
        return clip

    def _latent(self, key: str, values: list[float]) -> tuple[Any, np.ndarray]:
        """A model that draws, and numbers of its latent [Z]."""
        model = self.subject.models.get(key)
        if model is None:
            raise UserError(f"there is no model of that name: {', '.join(self.subject.models)}")
        if not model.complete:
            raise UserError(BLIND)
        if len(values) != model.encoder.embed_size:
            raise UserError(f"a latent has {model.encoder.embed_size} numbers, not {len(values)}")
        return model, np.array(values, np.float32)

    def close(self) -> None:
        """Ends the live environment."""
        self.live.close()


def _rounded(values: np.ndarray) -> list[Any]:
    """Numbers for JSON: what a screen shows of them, and nothing that is not finite."""
    return np.nan_to_num(values.astype(np.float64), posinf=1e6, neginf=-1e6).round(4).tolist()
