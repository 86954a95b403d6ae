"""The explorer's server behind a real browser: speed, tabs, other sites, memory, its end."""

from __future__ import annotations

import functools
import http.server
import io
import os
import statistics
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from tests.explorer.browsed import first_slider, serving, settle, shown, tile

pytestmark = pytest.mark.browser


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


def test_two_tabs_do_not_disturb_each_other(opened):
    one, other = opened(), opened()
    one.locator("#row").fill("5")
    first_slider(other).fill("-4")
    settle(one)
    settle(other)
    assert other.locator("#row").input_value() == "0"
    assert first_slider(one).input_value() == "0"
    assert (shown(one, tile(1)) != shown(other, tile(1))).any()


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
