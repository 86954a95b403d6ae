"""Films of other kinds and orientations: turned, animated, folders of images, nested folders."""

import numpy as np
import pytest
from PIL import Image

from data import videos
from data.frames import Settings, read_frames
from media.files import is_video
from media.images import Unusable
from tests.data.samples import TOLERANCE, TURNS, assert_shows, encode, moving, plain, turned


@pytest.mark.parametrize(("matrix", "same"), TURNS.values(), ids=TURNS)
def test_turned_and_mirrored_videos_are_seen_upright(tmp_path, matrix, same):
    picture, path = turned(tmp_path / "a.mp4", matrix)
    expected = same(picture)[12::24, 12::24].astype(int)
    for size in ((64, 64), (32, 64)):
        image = next(read_frames(path, Settings(size=size)))
        assert image.shape == (*size, 3)
        middle = expected if size[0] == 64 else expected[1:3]
        seen = image[8::16, 8::16].astype(int)
        assert np.abs(seen - middle).max() < TOLERANCE


@pytest.mark.parametrize("suffix", ["webp", "apng"])
def test_animated_pictures_go_by_their_own_times(tmp_path, suffix):
    path = moving(tmp_path / f"a.{suffix}", plain(4), [100, 50, 250, 100])
    assert is_video(path)
    assert_shows(list(read_frames(path, Settings())), range(4))
    assert_shows(list(read_frames(path, Settings(fps=10))), [0, 1, 2, 2, 3])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(Unusable, match="damaged"):
        list(read_frames(path, Settings()))


def test_a_folder_of_images_is_a_video_of_25_frames_a_second(tmp_path):
    for index, picture in enumerate(plain(5, 48, 96)):
        Image.fromarray(picture).save(tmp_path / f"{index:02d}.{('jpg', 'png')[index % 2]}")
    (tmp_path / "._00.jpg").write_bytes(b"")
    images = list(read_frames(tmp_path, Settings()))
    assert images[0].shape == (64, 64, 3)
    assert_shows(images, range(5))
    assert_shows(list(read_frames(tmp_path, Settings(fps=12.5))), [0, 2, 4])
    (tmp_path / "03.png").write_bytes(b"")
    with pytest.raises(Unusable, match=r"^03\.png: damaged: no image$"):
        list(read_frames(tmp_path, Settings()))


def test_films_of_one_name_in_several_folders_stay_apart(tmp_path):
    clips = tmp_path / "clips"
    names = ["x.mp4", "a/x.mp4", "b/x.mp4", "a__x.mp4"]
    for number, name in enumerate(names):
        (clips / name).parent.mkdir(parents=True, exist_ok=True)
        encode(clips / name, plain(3 + number))
    (clips / "b" / "y.mp4").write_text("no video")
    paths = [path for path in clips.rglob("*") if path.is_file()]
    place, [(name, _)] = videos.decode(clips, paths, tmp_path / "cache", Settings(length=20))
    assert name == "b/y.mp4"
    made = sorted(path.name for path in place.glob("*.npz"))
    assert {int(path.removesuffix(".npz").rpartition("-")[2]) for path in made} == {3, 4, 5, 6}
    # A name that two would have is neither's.
    assert [path for path in made if "x.mp4" in path] == [
        "b__x.mp4-00000-5.npz",
        "x.mp4-00000-3.npz",
    ]
