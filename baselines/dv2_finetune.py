"""DreamerV2 that begins as a video predictor: pretrained on videos, all of it trained on."""

from __future__ import annotations

from pathlib import Path

from accel.runtime import Runtime
from agents.base import Spaces
from agents.diswm import DisWM
from agents.pretrained import find_predictor
from baselines.from_videos import VideoPredictorLearner, check_plain, fill_rssm, load_videos
from config import Config
from tools import UserError


class DV2Finetune(DisWM):
    """DreamerV2 (arXiv 2010.02193) whose CNNs and RSSM begin as a predictor of videos.

    The first baseline of DisWM (arXiv 2503.08751, section 4.1, "DV2 finetune"). The arguments are
    those of every agent (`agents/base.py`). The RSSM's action input is as wide as the larger of the
    predictor's and the task's: ``--action_num_gap`` pads the actions of a smaller task, and what a
    narrower predictor lacks begins anew.
    """

    name = "dv2_finetune"
    sees_vectors = False  # its RSSM begins as one that saw images alone
    pretrainer = VideoPredictorLearner

    def __init__(
        self, config: Config, runtime: Runtime, spaces: Spaces, source: Path | None = None
    ):
        super().__init__(config, runtime, spaces)
        if source is None:
            return
        given, model = load_videos(config), self.world_model
        width, gap = given.rssm.action_size, config.action_num_gap
        if spaces.action_size + gap < width:
            raise UserError(
                f"--action_num_gap {gap}: the predictor in {source} has {width} actions and "
                f"{config.task} has {spaces.action_size}: give --action_num_gap "
                f"{width - spaces.action_size}"
            )
        model.encoder.load_state_dict(given.encoder.state_dict())
        model.decoder.load_state_dict(given.decoder.state_dict())
        fill_rssm(model.rssm, given.rssm)
        self.sync()

    @classmethod
    def check(cls, config: Config) -> None:
        """Checks that there is a predictor to begin as."""
        check_plain(config)
        load_videos(config)

    @classmethod
    def find_source(cls, config: Config) -> Path | None:
        """The predictor's folder."""
        return find_predictor(config.pretrain_checkpoint_path)
