"""The explorer's page in a real browser: `make test-browser`.

EXPLORED=<run> explores that run in the place of one that has learned nothing, SHOTS=<folder> keeps
pictures of the page, AXE=<file> is axe-core's script.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replay.episodes import read_episode
from tests.explorer.browsed import NARROW, WIDE, first_slider, settle, shot, shown, tile

pytestmark = pytest.mark.browser

SERIOUS = ("serious", "critical")


def test_the_page_shows_frame_teacher_and_student_and_sorts_latents_by_kl(opened):
    page = opened()
    assert page.locator("#tiles figcaption").all_inner_texts() == ["Frame", "Teacher", "Student"]
    names = page.locator("#sliders .slider").evaluate_all("all => all.map(s => s.ariaLabel)")
    sizes = [float(re.search(r"KL ([\d.]+) nats", name)[1]) for name in names]
    assert len(sizes) == 20
    assert sizes == sorted(sizes, reverse=True)
    assert all(shown(page, tile(i)).std() > 1 for i in (1, 2, 3))
    shot(page, "page")


def test_after_a_fast_drag_the_last_value_is_shown_and_one_request_flies_at_a_time(opened, server):
    page, flying, most, count = opened(), set(), [0], [0]

    def begun(request):
        if request.url.endswith(("/pictures", "/strip")):
            flying.add(request)
            count[0] += 1
            most[0] = max(most[0], len(flying))

    page.on("request", begun)
    page.on("requestfinished", lambda request: flying.discard(request))
    sent = []
    page.on("request", lambda r: r.url.endswith("/pictures") and sent.append(r.post_data_json))
    before = shown(page, tile(3))
    box = first_slider(page).bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    for step in range(120):
        share = 0.5 + 0.48 * np.sin(step / 7) if step < 119 else 0.9
        page.mouse.move(box["x"] + box["width"] * share, y)
    page.mouse.up()
    settle(page)
    assert most[0] == 1
    assert 2 <= count[0] < 120  # what was overtaken was not asked for
    value = float(first_slider(page).input_value())
    assert 6 < value < 8.5
    index = int(first_slider(page).get_attribute("id")[1:])
    clip = page.request.get(f"{server[0]}/api/clip", params={"id": sent[-1]["id"]}).json()
    latents = {name: list(rows[0]) for name, rows in clip["latents"].items()}
    for values in latents.values():
        values[index] += value
    words = {"id": clip["id"], "row": 0, "latents": latents}
    answer = page.request.post(f"{server[0]}/api/pictures", data=words)
    last = np.split(np.asarray(Image.open(io.BytesIO(answer.body()))), 3, 1)[2]
    np.testing.assert_array_equal(shown(page, tile(3)), last)
    assert (last != before).any()


def test_the_strip_has_seven_pictures_that_set_the_slider(opened):
    page = opened()
    strip = [shown(page, f"#seven button:nth-child({i}) canvas") for i in range(1, 8)]
    assert any((strip[0] != other).any() for other in strip[1:])
    texts = page.locator("#seven figcaption").all_inner_texts()
    assert texts == ["−9", "−6", "−3", "mean", "+3", "+6", "+9"]
    page.locator("#seven button").nth(5).click()
    settle(page)
    assert first_slider(page).input_value() == "6"
    np.testing.assert_allclose(shown(page, tile(3)).astype(int), strip[5], atol=1)
    page.get_by_role("button", name="Reset all").click()
    settle(page)
    assert first_slider(page).input_value() == "0"
    np.testing.assert_allclose(shown(page, tile(3)).astype(int), strip[3], atol=1)
    page.get_by_text("±3").click()
    settle(page)
    assert page.locator("#seven figcaption").first.inner_text() == "−3"


def test_scrubbing_shows_the_episodes_frames_and_keeps_what_was_moved(opened, run):
    page = opened()
    name = page.locator("#episodes").input_value()
    episode = read_episode(run / name)
    first_slider(page).fill("2.5")
    for row in (7, len(episode["image"]) - 1, 3):
        page.locator("#row").fill(str(row))
        settle(page)
        np.testing.assert_array_equal(shown(page, tile(1)), episode["image"][row])
    assert first_slider(page).input_value() == "2.5"
    page.locator("#lines").click(position={"x": 1, "y": 20})
    assert page.locator("#row").input_value() == "0"
    other = page.locator("#episodes optgroup option").nth(1).get_attribute("value")
    page.locator("#episodes").select_option(other)
    settle(page)
    np.testing.assert_array_equal(shown(page, tile(1)), read_episode(run / other)["image"][0])
    assert first_slider(page).input_value() == "0"


def test_imagination_under_the_policy_recorded_and_chosen_actions(opened):
    page = opened()
    page.locator("#horizon").fill("12")
    first_slider(page).fill("3")
    films = {}
    for kind in ("policy", "recorded", "chosen"):
        page.locator("#imagine-action").select_option(kind)
        if kind == "chosen":
            page.get_by_label("Action 0").fill("1")
        with page.expect_response("**/api/imagine"):
            page.locator("#go").click()
        page.wait_for_selector("#imagined:not([hidden])")
        settle(page)
        films[kind] = page.locator("#film canvas").count()
        page.locator("#imagined-row").fill("12")
        assert page.locator("#imagined-text").inner_text().startswith("+12 of 12")
        shot(page, f"imagined_{kind}")
    assert films == {"policy": 8, "recorded": 16, "chosen": 8}
    page.locator("#imagine-model").select_option("teacher")
    assert page.locator("#imagine-action").is_disabled()
    assert "learned without actions" in page.locator("#imagine-reason").inner_text()


def test_uploads_good_and_bad(opened):
    page = opened()
    before = shown(page, tile(1))
    bad = {"name": "bad.png", "mimeType": "image/png", "buffer": b"this is no picture"}
    with page.expect_response("**/api/upload") as answer:
        page.locator("#upload").set_input_files(bad)
    assert answer.value.status == 400
    page.get_by_role("alert").wait_for()
    told = page.get_by_role("alert").inner_text()
    assert told == "The upload cannot be used, damaged: no image: give a PNG or JPEG."
    np.testing.assert_array_equal(shown(page, tile(1)), before)
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 60)).save(file, "PNG")
    good = {"name": "good.png", "mimeType": "image/png", "buffer": file.getvalue()}
    page.locator("#upload").set_input_files(good)
    page.get_by_role("alert").wait_for(state="hidden")
    settle(page)
    assert (shown(page, tile(1)) == (200, 30, 60)).all()
    assert page.locator("#run").is_disabled()
    assert page.locator("#episodes option:checked").inner_text() == "the uploaded image"
    # The browser tells of the answer 400 by itself.
    [line] = opened.wrong
    assert "400 (Bad Request)" in line
    opened.wrong.clear()


def test_what_is_seen_can_be_kept(opened, tmp_path):
    page = opened()
    first_slider(page).fill("4")
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename.endswith("_0.png")
    download.value.save_as(tmp_path / "kept.png")
    kept = np.asarray(Image.open(tmp_path / "kept.png"))[..., :3]
    truth = kept[80 : 80 + 192, 24 : 24 + 192][1::3, 1::3]
    np.testing.assert_array_equal(truth, shown(page, tile(1)))
    if folder := os.environ.get("SHOTS"):
        shutil.copy(tmp_path / "kept.png", Path(folder) / "kept.png")


def test_a_live_environment_is_played(opened):
    page = opened()
    page.locator("#begin").click()
    page.locator("#playing").wait_for(timeout=120_000)
    settle(page)
    first = shown(page, tile(1))
    with page.expect_response("**/api/play"):
        page.locator("#steps").click()
    page.locator("#player").select_option("random")
    with page.expect_response("**/api/play"):
        page.locator("#step").click()
    settle(page)
    assert page.locator("#row-text").inner_text() == "11 / 11"
    assert (shown(page, tile(1)) != first).any()
    shot(page, "live")


def test_everything_can_be_done_from_the_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    for _ in range(9):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('slider')"):
            break
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    settle(page)
    slider = first_slider(page)
    assert float(slider.input_value()) == pytest.approx(0.2)
    assert slider.get_attribute("aria-valuetext").startswith("moved by +0.20, value ")
    page.keyboard.press("Delete")
    assert slider.input_value() == "0"
    page.locator("#row").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator("#row-text").inner_text().startswith("1 / ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nobody_is_shut_out(size, scheme, opened):
    page = opened(size, scheme)
    first_slider(page).fill("4")
    page.locator("#imagine-action").select_option("recorded")
    page.locator("#go").click()
    page.wait_for_selector("#imagined:not([hidden])")
    page.locator("#imagine-action").select_option("chosen")
    settle(page)
    page.evaluate(Path(os.environ["AXE"]).read_text())
    found = page.evaluate("axe.run()")
    wrong = [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found["violations"]]
    assert [each for each in wrong if each[1] in SERIOUS] == []
    assert len(found["passes"]) > 20
    shot(page, f"{'narrow' if size is NARROW else 'wide'}_{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
