"""How films and clips are chosen and played."""

import numpy as np
import pytest
from PIL import Image

from distracting_control import videos
from distracting_control.sources import Families, Films, Player, find_source
from distracting_control.videos import open_video


class Numbered:
    """A source of one film of four frames, which show their number."""

    def draw(self, random):
        frames = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
        return "numbered", frames, {"background": 0}


def shown(player, steps):
    """The numbers that are shown at first and after each step."""
    seen = [int(player.frame[0, 0, 0])]
    for _ in range(steps):
        before = player.index
        assert player.advance() == (player.index != before)
        seen.append(int(player.frame[0, 0, 0]))
    return seen


def test_there_and_back_again():
    begun = set()
    for seed in range(60):
        player = Player(Numbered())
        player.begin(np.random.default_rng(seed))
        numbers = shown(player, 12)
        assert (np.abs(np.diff(numbers)) == 1).all()
        assert numbers[:6] == numbers[6:12]  # there and back take six steps
        begun.add((numbers[0], numbers[1]))
    assert begun >= {(0, 1), (1, 2), (1, 0), (2, 1), (2, 3), (3, 2)}


def test_round_and_round_from_the_first_frame():
    player = Player(Numbered(), loops=True, from_start=True)
    player.begin(np.random.default_rng(0))
    assert shown(player, 9) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_round_and_round_from_any_frame():
    player, begun = Player(Numbered(), loops=True), set()
    for seed in range(20):
        player.begin(np.random.default_rng(seed))
        first, *others = shown(player, 4)
        assert others == [(first + k) % 4 for k in (1, 2, 3, 4)]
        begun.add(first)
    assert begun == {0, 1, 2, 3}


def test_a_frame_stays_for_several_steps_or_for_good():
    player = Player(Numbered(), every=2, loops=True, from_start=True)
    player.begin(np.random.default_rng(0))
    assert shown(player, 6) == [0, 0, 1, 1, 2, 2, 3]
    still = Player(Numbered(), dynamic=False, from_start=True)
    still.begin(np.random.default_rng(0))
    assert shown(still, 3) == [0, 0, 0, 0]


def test_a_number_of_clips_is_the_same_few_in_every_run():
    found = [
        {Families(("flow", "life"), 4, 16).draw(np.random.default_rng(seed))[0] for seed in seeds}
        for seeds in (range(40), range(40, 80))
    ]
    assert found[0] == found[1] == {"flow-0", "life-1", "flow-2", "life-3"}
    without = {
        Families(("flow",), None, 16).draw(np.random.default_rng(seed))[0] for seed in range(40)
    }
    assert len(without) == 40


def test_factors_are_those_of_the_clip_and_its_frame():
    player = Player(find_source("procedural:plasma", "train", None, 16, 10))
    player.begin(np.random.default_rng(1))
    names = {"background", *(f"background_{n}" for n in ("hue", "speed", "angle", "scale"))}
    assert player.factors.keys() == names | {"background_frame"}
    assert player.factors["background"] == 1  # the second family
    player.advance()
    assert player.factors["background_frame"] == player.index


def test_films_are_found_as_before(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    source = find_source(tmp_path, "train", None, 8, 5)
    assert isinstance(source, Films)
    assert [path.name for path in source.paths] == ["a", "b"]
    with pytest.raises(ValueError, match="3 background videos asked for, 2 found"):
        find_source(tmp_path, "train", 3, 8, 5)


def test_decoded_films_are_kept_within_a_limit(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    monkeypatch.setattr(videos, "_opened", type(videos._opened)())
    monkeypatch.setattr(videos, "KEPT", 2 * 3 * 8**2)  # bytes of two such films
    opened = {name: open_video(tmp_path / name, 8, 5) for name in "abc"}
    assert open_video(tmp_path / "b", 8, 5) is opened["b"]
    assert open_video(tmp_path / "a", 8, 5) is not opened["a"]
    assert [path.name for path, *_ in videos._opened] == ["b", "a"]
