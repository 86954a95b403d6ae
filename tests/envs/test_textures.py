"""What DrawerWorld's frames show: the drawer in its place, on a table of the chosen texture."""

import gc
import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import envs
from envs.textures import TEXTURES, draw

OPEN, CLOSE = "metaworld_drawer-open-v1", "metaworld_drawer-close-v1"
LEFT, RIGHT = 3, 8  # seeds whose goals lie far apart in x; a test asserts it
PACKAGE = Path(importlib.util.find_spec("metaworld").origin).parent


def sawyer_of(env):
    """The package's environment within ours."""
    return env.unwrapped.inner.unwrapped.sawyer


def camera_of_the_facts():
    """The paper's camera of DrawerWorld."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.azimuth, camera.elevation, camera.distance = 180.0, -90.0, 0.96
    camera.lookat[:] = (0.0, 0.6, 0.0)
    return camera


def geoms_seen(model, data, side):
    """Which geom each pixel shows [side, side], −1 for none, by MuJoCo's own renderer."""
    import mujoco

    with mujoco.Renderer(model, side, side) as renderer:
        renderer.enable_segmentation_rendering()
        renderer.update_scene(data, camera_of_the_facts())
        ids, types = np.moveaxis(renderer.render(), -1, 0)
    return np.where(types == mujoco.mjtObj.mjOBJ_GEOM, ids, -1)


def test_first_frame_shows_the_drawer_at_its_goal(make):
    """Straight after another episode's, and where a fresh simulation of the chest has it."""
    import mujoco

    env, rows = make(OPEN), {}
    model = mujoco.MjModel.from_xml_path(sawyer_of(env).fullpath)
    for seed in (LEFT, RIGHT, LEFT):
        frame = env.reset(seed=seed, options={"variation": "black"})[0]["image"].astype(int)
        place = sawyer_of(env).model.body("drawer").pos
        green = (frame[..., 1] > frame[..., 0] + 40) & (frame[..., 1] > frame[..., 2] + 40)
        # The place alone, in a model and data that have nothing to do with ours.
        model.body("drawer").pos = place
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        seen = geoms_seen(model, data, 64)
        chest = model.body("drawercase_link").id, model.body("drawer_link").id
        bodies = np.where(seen >= 0, model.geom_bodyid[seen], -1)
        # The arm, elsewhere in that model, covers neither there nor here: columns to the right.
        ours, theirs = (np.nonzero(mask[:, 52:])[0] for mask in (green, np.isin(bodies, chest)))
        assert len(theirs) > 100
        assert abs(np.median(ours) - np.median(theirs)) <= 1
        rows.setdefault(seed, []).append(np.median(ours))
    # 0.1 m are 8 pixels or more, so a stale frame would be seen.
    assert abs(rows[LEFT][0] - rows[RIGHT][0]) > 10
    assert rows[LEFT][0] == rows[LEFT][1]


def stamps():
    """Size and time of the last change of every file of the package, but for compiled ones."""
    files = {p: p.stat() for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    return {p: (stat.st_size, stat.st_mtime_ns) for p, stat in files.items()}


@pytest.fixture(scope="module")
def shown():
    """Every variation's frame of one state, the geoms in it, and the files before and after."""
    before = stamps()
    env = envs.make_env(CLOSE, size=(128, 128), time_limit=200)
    frames = {}
    for variation in (*TEXTURES, "train", "switch", "test", "original"):
        observation, _ = env.reset(seed=RIGHT, options={"variation": variation})
        frames[variation] = observation["image"].astype(int)
    sawyer = sawyer_of(env)
    seen = geoms_seen(sawyer.model, sawyer.data, 128)
    # Of the two geoms of the table, the box is its top.
    model = sawyer.model
    (top,) = (g for g in range(model.ngeom) if _is_table_top(model, g))
    env.close()
    return frames, seen == top, seen, before, stamps()


def _is_table_top(model, geom):
    body = model.body(model.geom_bodyid[geom]).name
    return body == "tablelink" and model.geom_type[geom] == 6 and model.geom_group[geom] == 1


def grown(mask, by):
    """The mask and all pixels within ``by`` of it."""
    mask = np.pad(mask, by)
    n = 2 * by + 1
    windows = np.lib.stride_tricks.sliding_window_view(mask, (n, n))
    return windows.any(axis=(2, 3))


def test_textures_change_the_table_and_nothing_else(shown):
    frames, table, seen, *_ = shown
    assert 0.3 < table.mean() < 0.8
    inside, outside = ~grown(~table, 1), ~grown(table, 1)
    assert len(np.unique(seen[outside])) > 5  # of arm, drawer and wall
    for one, other in combinations((*TEXTURES, "original"), 2):
        change = np.abs(frames[one] - frames[other]).max(axis=-1)
        assert (change[inside] > 3).mean() > 0.9, (one, other)
        assert change[inside].mean() > 15, (one, other)
        # The arm's meshes have cracks narrower than a pixel, through which the table is seen.
        assert (change[outside] <= 3).mean() > 0.99, (one, other)
        assert np.median(change[outside]) == 0, (one, other)


def test_variations_name_textures(shown):
    frames = shown[0]
    for variation, texture in (("train", "grid"), ("switch", "wood"), ("test", "metal")):
        np.testing.assert_array_equal(frames[variation], frames[texture])


def test_no_file_of_the_package_changes(shown):
    *_, before, after = shown
    assert len(before) > 300
    assert before == after


def texture_of(env):
    """The table's texture in the model [height, width, 3]."""
    model = sawyer_of(env).model
    texture = model.texture("T_table")
    height, width = int(texture.height[0]), int(texture.width[0])
    start = int(texture.adr[0])
    return model.tex_data[start : start + 3 * height * width].reshape(height, width, 3)


def test_settings_choose_the_textures(make):
    chosen = {"train_texture": "blanket", "switch_texture": "marble", "texture": "grid"}
    env = make(CLOSE, **chosen)
    np.testing.assert_array_equal(texture_of(env), draw("blanket"))
    env.reset(seed=0, options={"variation": "test"})
    grid = texture_of(env)
    colors, counts = np.unique(grid.reshape(-1, 3), axis=0, return_counts=True)
    np.testing.assert_allclose(colors / 255, [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4]], atol=0.5 / 255)
    assert counts[0] == counts[1]
    env.reset(seed=0, options={"variation": "switch"})
    file = Image.open(PACKAGE / "assets" / "textures" / "marble.png").convert("RGB")
    np.testing.assert_array_equal(texture_of(env), np.asarray(file))


@pytest.mark.parametrize("name", ["grid", "black", "fabric", "blanket"])
def test_drawn_textures_tile(name):
    image = draw(name).astype(int)
    assert (image.shape, draw(name).dtype) == ((256, 256, 3), np.uint8)
    for axis in (0, 1):
        # A seam is no sharper than the edges within.
        edges = np.abs(image - np.roll(image, 1, axis)).mean(axis=(1 - axis, 2))
        assert edges[0] <= edges[1:].max()
    if name == "grid":  # four squares a side, whose colours alternate across the seam too
        for axis in (0, 1):
            changed = (image != np.roll(image, 64, axis)).all(axis=-1)
            assert changed.all()
    if name == "fabric":  # a weave of 32 threads repeats every two of them
        np.testing.assert_array_equal(image, np.roll(image, (16, 16), (0, 1)))
        assert (image != np.roll(image, 8, 0)).any()


def test_environments_of_one_process_keep_their_own_textures(make):
    """Training and evaluation may share a process, and one of them may be closed."""
    kept = [make(CLOSE, variation=name) for name in ("grid", "original")]
    other = envs.make_env(CLOSE, variation="marble")

    def frames(*of):
        return [env.reset(seed=0)[0]["image"].astype(int) for env in of]

    first = frames(*kept, other)
    for image in first[:2]:
        assert np.abs(image - first[2]).mean() > 10
    np.testing.assert_array_equal(frames(*kept, other), first)
    other.close()
    np.testing.assert_array_equal(frames(*kept), first[:2])
    del other
    gc.collect()
    np.testing.assert_array_equal(frames(*kept), first[:2])
