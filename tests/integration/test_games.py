"""Games from the first stage to the last: pretrained on one, distilled to another."""

import numpy as np
import pytest

from tests.helpers.runs import events, metrics

GRID, PONG = "minigrid_MiniGrid-Empty-5x5-v0", "atari_pong"


@pytest.mark.slow
def test_diswm_learns_from_videos_of_one_game_to_play_another(tiny, tmp_path):
    collected = tiny.finish(
        tiny.episodes(tmp_path, task=GRID, method_name="dreamerv2", steps=0, prefill=30)
    )
    with np.load(next(collected.glob("train_eps/*.npz"))) as episode:
        assert set(np.unique(episode["action"])) == {0, 1}
        assert "vector" not in episode  # which only few environments have
    predictor = tiny.finish(
        tiny.pretrain(tmp_path, collected / "train_eps", task=GRID, pretrain_steps=150)
    )
    words = tiny.finetune(
        tmp_path,
        task=PONG,
        pretrain_checkpoint_path=predictor,
        pred_discount="auto",
        steps=80,
        eval_every=80,
        eval_episodes=1,
    )
    played = tiny.finish(words)
    rows = metrics(played)
    losses = {name for row in rows for name in row if name.endswith("_loss")}
    assert {"distillation_kl_loss", "discount_loss", "beta_vae_kl_loss"} <= losses
    looks = [event["colors"] for event in events(played, "random", "train")]
    assert looks[0] == "train"  # palettes, and the other set in the second half
    assert looks[-1] == "test"
    evaluated = tiny.run(["--evaluate", str(played), "--eval_colors", "original"])
    assert evaluated.code == 0, evaluated.err
