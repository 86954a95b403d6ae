"""Pictures with names on them: the tiles are untouched, the names are there."""

import numpy as np

from logger.pictures import GAP, RIM, RIM_COLOR, caption, contact_sheet, cut_grid, grid, write_text


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_tiles_come_out_of_a_grid_as_they_went_in():
    tiles = noise(2, 3, 4, 48, 64, 3)  # two frames of three rows and four columns
    for names in ({}, {"rows": "abc", "columns": "defg", "title": "h"}):
        for factor in (1, 2):
            sheet = grid(tiles, **names, factor=factor)
            np.testing.assert_array_equal(cut_grid(sheet, (48, 64), factor), tiles)


def test_names_stand_to_the_left_and_above():
    tiles = np.zeros((2, 2, 64, 64, 3), np.uint8)
    sheet = grid(tiles, ["truth", "model"], ["-9", "+9"], "title")
    left, top = sheet.shape[1] - 2 * (128 + GAP), len(sheet) - 2 * (128 + GAP)
    title, head = write_text("title"), write_text("+9")
    np.testing.assert_array_equal(sheet[: len(title), : title.shape[1]], title)
    beside = sheet[top - len(head) : top, left + 128 + GAP :]
    np.testing.assert_array_equal(beside[:, : head.shape[1]], head)
    for row, name in enumerate(("truth", "model")):
        label = write_text(name)
        y = top + row * (128 + GAP)
        np.testing.assert_array_equal(sheet[y : y + len(label), : label.shape[1]], label)


def test_rims_lie_around_the_chosen_tiles_of_the_chosen_frames():
    tiles = np.zeros((2, 1, 2, 64, 64, 3), np.uint8)
    sheet = grid(tiles, rims=np.array([[[False, True]], [[False, False]]]))
    green = (sheet == RIM_COLOR).all(-1)
    assert green[0].sum() == 4 * RIM * (128 + RIM)
    assert not green[0, :, : GAP + 128].any()
    assert not green[1].any()


def test_each_frame_has_a_caption_of_its_own():
    video = noise(3, 40, 64, 3)
    shown = caption(video, ["one\n1", "two\n2", "three\n3"], factor=2)
    np.testing.assert_array_equal(shown[:, -80::2, ::2], video)
    above = shown[:, :-80]
    for text, strip in zip(("one\n1", "two\n2", "three\n3"), above, strict=True):
        written = write_text(text)
        np.testing.assert_array_equal(strip[:, : written.shape[1]], written)


def test_a_sheet_has_evenly_spaced_frames_of_each_video():
    videos = [noise(9, 64, 64, 3), noise(5, 64, 64, 3)]
    sheet = contact_sheet(videos, ["first\nvideo", "second"], 3, title="both")
    tiles = cut_grid(sheet, (64, 64))
    np.testing.assert_array_equal(tiles[0], videos[0][[0, 4, 8]])
    np.testing.assert_array_equal(tiles[1], videos[1][[0, 2, 4]])
