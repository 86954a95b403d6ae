"""The heat map of latents by factors: the order of its rows."""

import pytest

from figures.latents import figure_of


@pytest.mark.parametrize(
    ("kls", "stds", "rows"),
    [
        ([0.0, 0.5, 2.0], [9.0, 1.0, 1.0], ["z2  KL 2.00", "z1  KL 0.50", "z0  KL 0.00"]),
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], ["z0  KL 0.00", "z1  KL 0.00", "z2  KL 0.00"]),
        ([None, None, None], [1.0, 3.0, 2.0], ["z1", "z2", "z0"]),
    ],
    ids=["a dead one", "all dead", "without a variance"],
)
def test_rows_are_in_the_order_of_their_kl_or_where_there_is_none_of_their_spread(kls, stds, rows):
    latents = [
        {"index": i, "kl": kl, "std": std, "active": True}
        for i, (kl, std) in enumerate(zip(kls, stds, strict=True))
    ]
    figure = figure_of(
        {
            "task": "dmc2gym_walker_walk", "encoder": "encoder", "frames": 90, "latents": latents,
            "factors": [{"name": "knee", "group": "knee"}, {"name": "hip", "group": "hip"}],
            "r2": [[0.0, 0.1]] * 3, "r2_all": {"forest": [0.2, 0.3]},
        }
    )  # fmt: skip
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == rows
