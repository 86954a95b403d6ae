"""The explorer in a real browser: `make test-browser`.

EXPLORED=<run> explores that run in the place of one that has learned nothing, SHOTS=<folder> keeps
pictures of the page, AXE=<file> is axe-core's script.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agents.pretrained import save_predictor
from replay.episodes import read_episode
from tests.explorer.served import make_finetuning, measured
from tests.helpers.models import make_config, make_predictor

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium-headless-shell", "chromium")
# The paper's sizes: what takes time in a response.
PAPER = {"z_dim": 20, "dyn_deter": 200, "dyn_hidden": 200, "dyn_stoch": 50, "units": 200}
SERIOUS = ("serious", "critical")
WIDE, NARROW = {"width": 1360, "height": 900}, {"width": 360, "height": 760}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finetuning of the paper's sizes."""
    if given := os.environ.get("EXPLORED"):
        return Path(given)
    root = tmp_path_factory.mktemp("browser")
    first, second = root / "t" / "pretrain" / "seed_0", root / "t" / "diswm" / "seed_0"
    save_predictor(first, make_predictor(2, **PAPER))
    make_config(beta_vae_pretrain=True, **PAPER).save(first / "config.yaml")
    make_finetuning(second, first, rows=60, task="dmc2gym_point_mass_easy", **PAPER)
    (second / "disentanglement").mkdir()
    (second / "disentanglement" / "metrics.json").write_text(json.dumps(measured(20)))
    return second


@contextlib.contextmanager
def serving(run):
    """The command as one types it; its address and its process."""
    words = [sys.executable, "-m", "explorer", str(run), "--port", "0"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[0], process
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server(run):
    with serving(run) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)))
    words = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=words)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser, server):
    """Opens tabs; in the end nothing may have gone wrong there, nor been asked elsewhere."""
    url, _ = server
    wrong, contexts = [], []

    def open_tab(size=WIDE, scheme="light"):
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        local = (url, "blob:", "data:")
        page.on("request", lambda r: r.url.startswith(local) or wrong.append(r.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        settle(page)
        return page

    open_tab.wrong = wrong
    yield open_tab
    for context in contexts:
        context.close()
    assert wrong == []


def settle(page):
    """Waits until all is drawn."""
    page.wait_for_selector("body[data-drawing=false]:not([aria-busy=true])")


def shown(page, selector):
    """What a canvas shows, uint8 [64, 64, 3]."""
    values = page.eval_on_selector(
        selector, "c => Array.from(c.getContext('2d').getImageData(0, 0, 64, 64).data)"
    )
    return np.array(values, np.uint8).reshape(64, 64, 4)[..., :3]


def tile(number):
    return f"#tiles figure:nth-child({number}) canvas"


def shot(page, name):
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def first_slider(page):
    return page.locator("#sliders .slider").first


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


def test_latency_of_a_drag(opened, capsys):
    """Told, not judged: it is the machine's. From the input event to the drawn picture."""
    page = opened()
    found = page.evaluate(
        """async () => {
          const slider = document.querySelector('#sliders .slider'), found = [];
          const canvas = document.querySelector('#tiles figure:last-child canvas');
          const context = canvas.getContext('2d'), draw = context.drawImage;
          for (let i = 0; i < 100; i++) {
            const begun = performance.now();
            const drawn = new Promise((done) => {
              context.drawImage = (...words) => {
                draw.apply(context, words);
                done(performance.now() - begun);
              };
            });
            slider.value = 6 * Math.sin(i);
            slider.dispatchEvent(new Event('input'));
            found.push(await drawn);
            await new Promise((next) => setTimeout(next, 60));
          }
          return found;
        }"""
    )
    found = sorted(found)
    assert len(found) == 100
    with capsys.disabled():
        told = f"median {statistics.median(found):.0f}, nine of ten below {found[89]:.0f} ms"
        print(f"\nfrom input to picture: {told}; load {os.getloadavg()[0]:.1f}")


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


def test_two_tabs_do_not_disturb_each_other(opened):
    one, other = opened(), opened()
    one.locator("#row").fill("5")
    first_slider(other).fill("-4")
    settle(one)
    settle(other)
    assert other.locator("#row").input_value() == "0"
    assert first_slider(one).input_value() == "0"
    assert (shown(one, tile(1)) != shown(other, tile(1))).any()


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


def test_another_host_or_origin_is_refused(opened, server, tmp_path):
    url, page = server[0], opened()
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        for body in (None, b"{}"):
            asked = urllib.request.Request(f"{url}/api/subject", body, headers)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(asked)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *words: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        other = page.context.new_page()
        other.goto(f"http://127.0.0.1:{evil.server_port}/")
        read = f"fetch('{url}/api/subject').then(() => 'read', () => 'refused')"
        assert other.evaluate(read) == "refused"
        blind = f"fetch('{url}/api/begin', {{method: 'POST', mode: 'no-cors', body: '{{}}'}})"
        assert other.evaluate(f"{blind}.then(() => 'sent', () => 'refused')") == "refused"
        evil.shutdown()


def resident(process):
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat_over_a_thousand_requests(opened, server, capsys):
    url, process = server
    page = opened()
    first = page.request.get(f"{url}/api/subject").json()["episodes"][0]
    clip = page.request.get(f"{url}/api/clip", params={"id": first}).json()
    sizes = []
    for count in range(1200):
        row = count % clip["rows"]
        latents = {name: rows[row] for name, rows in clip["latents"].items()}
        words = {"id": first, "row": row, "latents": latents}
        assert page.request.post(f"{url}/api/pictures", data=words).ok
        if count % 10 == 0:
            words = {"id": first, "row": row, "model": "student", "latent": latents["student"]}
            strip = {**words, "index": 1, "reach": 9}
            assert page.request.post(f"{url}/api/strip", data=strip).ok
            upload = page.request.post(f"{url}/api/upload", data=PNG)
            assert upload.ok
        if count % 100 == 99:
            sizes.append(resident(process) / (1 << 20))
    with capsys.disabled():
        print(f"\nMiB after each hundred requests: {' '.join(f'{size:.0f}' for size in sizes)}")
    assert sizes[-1] - sizes[2] < 8


def _png():
    file = io.BytesIO()
    Image.new("RGB", (640, 480), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


PNG = _png()


def test_it_ends_with_the_command(run):
    with serving(run) as (url, process):
        assert urllib.request.urlopen(url).status == 200
        process.terminate()
        assert process.wait(60) in (0, -15)
