"""Who is answered, what answers say of themselves, and that nothing is fetched from elsewhere."""

import re
import shutil

import pytest

from explorer import app
from explorer.app import PAGE, WORDS
from explorer.guard import HEADERS
from tests.explorer.served import Client

HOST = "127.0.0.1:8765"
LINK = re.compile(r"""(?:src|href|from) ?=?["' ]+(/?\.?/?[\w.]+\.\w+)["']""")
OURS = {"host": HOST, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        (OURS, 200),
        ({"host": "localhost:9000"}, 200),  # through a tunnel of SSH
        ({"host": "[::1]:8765"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "evil.example:8765"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost.evil.example:8765"}, 403),
        ({"host": "192.168.0.7:8765"}, 403),
        ({"host": ""}, 403),
        ({"host": "127.0.0.1:8765@evil.example"}, 403),
        ({"host": "[evil.example]"}, 403),
        ({"host": "[::1].evil.example:8765"}, 403),
        ({**OURS, "origin": "http://evil.example"}, 403),
        ({**OURS, "origin": "http://127.0.0.1:3000"}, 403),
        ({**OURS, "origin": f"https://{HOST}"}, 403),
        ({**OURS, "origin": "null"}, 403),
        ({"host": HOST, "sec-fetch-site": "cross-site"}, 403),
        ({"host": HOST, "sec-fetch-site": "same-site"}, 403),
        ({"host": HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(headers, status, finetuned):
    assert finetuned.ask("GET", "/api/subject", headers=headers).status_code == status
    posted = finetuned.ask("POST", "/api/begin", headers=headers, json={"look": ""})
    assert posted.status_code == (400 if status == 200 else 403)


def test_a_link_on_another_page_leads_here(finetuned):
    headers = {"host": HOST, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert finetuned.ask("GET", "/", headers=headers).status_code == 200
    assert finetuned.ask("GET", "/explorer.js", headers=headers).status_code == 403


@pytest.mark.parametrize("url", ["/", "/style.css", "/api/subject", "/api/clip", "/nothing"])
def test_every_answer_says_what_a_page_may_do(url, finetuned):
    response = finetuned.ask("GET", url)
    assert HEADERS.items() <= dict(response.headers).items()
    assert "access-control-allow-origin" not in response.headers


def test_an_answer_to_what_has_failed_says_so_too(finetuned, monkeypatch):
    monkeypatch.setattr(finetuned.session, "describe", lambda: 1 / 0)
    monkeypatch.setattr(finetuned.transport, "raise_app_exceptions", False)
    response = finetuned.ask("GET", "/api/subject")
    assert response.status_code == 500
    assert HEADERS.items() <= dict(response.headers).items()


def test_the_page_and_what_it_is_made_of_come_from_here(finetuned):
    asked, seen = ["/"], set()
    while asked:
        url = asked.pop()
        seen.add(url)
        response = finetuned.ask("GET", url)
        assert response.status_code == 200, url
        linked = LINK.findall(response.text)
        asked += [link for name in linked if (link := "/" + name.lstrip("./")) not in seen]
    assert seen == {"/", *(f"/{path.name}" for path in PAGE.iterdir())} - {"/index.html"}
    texts = [path.read_text().replace("http://www.w3.org/2000/svg", "") for path in PAGE.iterdir()]
    assert not re.findall(r"(?:https?:)?//[\w-]+\.\w+|@import|url\(", " ".join(texts))


def test_a_file_that_a_file_manager_left_beside_the_page_is_not_served(
    finetuned, monkeypatch, tmp_path
):
    page = shutil.copytree(PAGE, tmp_path / "page")
    (page / ".DS_Store").write_bytes(b"\x00")
    monkeypatch.setattr(app, "PAGE", page)
    client = Client(finetuned.session)
    assert client.ask("GET", "/").status_code == 200
    assert client.ask("GET", "/.DS_Store").status_code == 404


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(content, finetuned):
    line = finetuned.refused("pictures", content=content)
    assert line == "the request is no JSON object"


def test_long_requests_are_refused_unread(finetuned):
    assert "larger than 0.25 MiB" in finetuned.refused("strip", 413, content=b" " * (WORDS + 1))

    async def endless():
        while True:
            yield b" " * 1024

    assert "larger than 0.25 MiB" in finetuned.refused("strip", 413, content=endless())


def test_other_methods_and_addresses_are_not_there(finetuned):
    assert finetuned.ask("GET", "/api/pictures").status_code == 405
    assert finetuned.ask("GET", "/../README.md").status_code == 404
    assert finetuned.ask("GET", "/%2e%2e/README.md").status_code == 404
