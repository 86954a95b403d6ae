"""Uploads: images and episodes of any size, and whatever else somebody may send."""

import asyncio
import functools
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from explorer.app import UPLOADS
from explorer.clips import KEPT, MOST, ROWS, Clip, Clips
from explorer.uploads import LARGEST, PIXELS
from tests.explorer.served import archive, make_episode
from tests.helpers.runs import refusal


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def send(client, content):
    response = client.ask("POST", "/api/upload", content=content)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_image_is_cropped_scaled_and_seen(finetuned):
    wide = np.zeros((128, 256, 3), np.uint8)
    wide[:, 64:192] = (10, 200, 90)  # its middle
    clip = send(finetuned, encoded(wide))
    assert (clip["rows"], clip["actions"], clip["playing"]) == (1, False, False)
    latents = {name: rows[0] for name, rows in clip["latents"].items()}
    sheet = finetuned.tell("pictures", id=clip["id"], row=0, latents=latents)
    np.testing.assert_allclose(sheet[:, :64], np.broadcast_to((10, 200, 90), (64, 64, 3)), atol=3)
    found = finetuned.tell(
        "imagine", id=clip["id"], row=0, model="student", latent=latents["student"],
        action="policy", horizon=3,
    )  # fmt: skip
    assert found["frames"] == 4


def test_an_episode_is_seen_with_its_actions(finetuned):
    given = make_episode(7, rows=5)
    clip = send(finetuned, archive(**given))
    assert (clip["rows"], clip["actions"]) == (5, True)
    np.testing.assert_allclose(clip["reward"], given["reward"], atol=1e-4)
    other = {**given, "action": np.zeros((5, 7), np.float32)}
    assert send(finetuned, archive(**other))["actions"] is False  # of another task
    assert send(finetuned, archive(image=given["image"][..., :1]))["rows"] == 5  # in grey


def test_an_upload_is_known_by_a_name_that_nobody_guesses(finetuned):
    content = encoded(np.zeros((64, 64, 3), np.uint8))
    one, other = send(finetuned, content)["id"], send(finetuned, content)["id"]
    assert one != other
    assert len(one) > 20


def bomb():
    """Two gigabytes of zeros in two megabytes."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("image.npy", "w", force_zip64=True) as member,
    ):
        shape = (175_000, 64, 64, 3)
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for _ in range(40):  # what is claimed is told by the directory, which is written below
            member.write(bytes(1 << 20))
    content = bytearray(file.getvalue())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 2_150_400_000)
    return bytes(content)


def huge():
    """A PNG that claims to be 30,000 pixels wide and high."""

    def chunk(kind, data):
        length, checksum = (struct.pack(">I", n) for n in (len(data), zlib.crc32(kind + data)))
        return length + kind + data + checksum

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "damaged: no image"),
        (b"\x00" * 5000, "damaged: no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "damaged: no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "damaged: no image"),
        (encoded(PICTURE)[:2000], "damaged"),
        (huge(), "pixels"),
        (b"PK\x03\x04 and no archive", "BadZipFile"),
        (archive(image=np.array([{"an": "object"}], object)), "Python objects"),
        (archive(image=PICTURE), "not uint8 [T, H, W, C]"),
        (archive(image=PICTURE[None].astype(np.float32)), "not uint8 [T, H, W, C]"),
        (archive(picture=PICTURE[None]), "no image among its keys"),
        (archive(image=PICTURE[None], reward=np.full(1, np.nan, np.float32)), "not finite"),
        (archive(image=PICTURE[None][..., :2]), "2 channels"),
        (archive(image=np.zeros((ROWS + 1, 1, 1, 3), np.uint8)), f"{ROWS} at most are taken"),
        (bomb(), "0.3 at most are read"),
    ],
    ids=[
        "empty", "zeros", "svg", "postscript", "cut", "huge", "zip", "pickle", "one", "float",
        "none", "nan", "channels", "long", "bomb",
    ],
)  # fmt: skip
def test_what_is_no_image_and_no_episode_is_refused_in_a_line(content, line, finetuned):
    assert line in finetuned.refused("upload", content=content)


def test_large_uploads_are_refused_before_they_are_read(finetuned):
    class Counted:
        sent = 0

        async def __aiter__(self):
            while self.sent < 10 * LARGEST:
                self.sent += 1 << 20
                yield bytes(1 << 20)

    counted = Counted()
    assert "larger than 16 MiB" in finetuned.refused("upload", 413, content=counted)
    assert counted.sent <= LARGEST + (1 << 20)
    assert PIXELS * 3 < 1 << 26  # bytes of the largest image


def test_so_many_uploads_are_taken_at_once(finetuned):
    content = encoded(PICTURE)

    async def send():
        begun, goes_on = asyncio.Semaphore(0), asyncio.Event()

        async def slow():
            begun.release()
            yield content[:100]
            await goes_on.wait()
            yield content[100:]

        async with finetuned.connect() as client:
            post = functools.partial(client.post, "/api/upload")
            taken = [asyncio.create_task(post(content=slow())) for _ in range(UPLOADS)]
            for _ in taken:
                await begun.acquire()
            refused = await post(content=content)
            goes_on.set()
            return refused, [*await asyncio.gather(*taken), await post(content=content)]

    refused, answered = asyncio.run(send())
    assert refused.status_code == 503
    assert refused.headers["connection"] == "close"
    line = "4 uploads are at work already: try again when one has ended"
    assert refused.json() == {"error": line}
    assert [response.status_code for response in answered] == [200] * (UPLOADS + 1)
    for _ in range(UPLOADS + 1):  # what cannot be used makes room, too
        assert "damaged" in finetuned.refused("upload", content=b"")


def test_an_upload_that_is_broken_off_is_dropped_without_a_traceback(finetuned):
    parts = [{"type": "http.request", "body": b"PK", "more_body": True}]
    sent = []

    async def receive():
        return parts.pop() if parts else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/upload", "query_string": b""}
    scope["headers"] = [(b"host", b"127.0.0.1:8765")]
    asyncio.run(finetuned.transport.app(scope, receive, send))  # which would raise here
    assert [message.get("body", b"") for message in sent] == [b"", b""]


def test_no_more_is_kept_than_may_be(finetuned):
    clips = Clips(finetuned.session.subject)
    names = [clips.add("upload", Clip("small", {"image": PICTURE[None]})) for _ in range(MOST + 3)]
    assert "is not kept any more" in refusal(clips.get, names[2])
    assert clips.get(names[3]).name == "small"
    for _ in range(3):
        big = Clip("big", {"image": np.broadcast_to(PICTURE, (KEPT // 12288 // 2, 64, 64, 3))})
        clips.add("upload", big)
    assert "is not kept any more" in refusal(clips.get, names[-1])
