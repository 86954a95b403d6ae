"""What fuzzing found, each thing once."""

import io
import json
import lzma
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest

import config
import data
from data import archives, caching, frames, videos
from fileio import npz, yaml_files
from media import images
from replay.episodes import check_episode, read_episode
from replay.files import count_rows
from tests.fuzz.test_episodes import fields
from tests.fuzz.test_episodes import npz as npz_of
from tests.fuzz.test_videos import seeds
from tools import UserError, is_zero, schedule

# Flags and schedules.


@pytest.mark.parametrize(
    "argv",
    [
        ["--logdir", "a\0b"],
        ["--task", "a\nb"],
        ["a\nb"],
        ["--x\n"],
        ["--configs", "a\nb"],
        ["--wandb_name", "\udcff"],
        ["--seed", "9" * 5000],
        ["--seed", "9223372036854775808"],
        ["--steps", "1e400"],
        ["--logdir", "x" * 5000],
        ["--encoder_kernels", *["4"] * 20_000],
    ],
    ids=lambda argv: ascii(argv)[:30],
)
def test_odd_words_are_refused_in_one_short_line(argv):
    with pytest.raises(UserError) as refusal:
        config.parse(argv)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 700


def test_every_digit_of_a_whole_number_counts():
    assert config.parse(["--seed", "9007199254740993"]).seed == 9007199254740993
    assert config.parse(["--steps", "1.01e6"]).steps == 1_010_000


@pytest.mark.parametrize(
    "text", ["delay(1," * 900 + "2" + ")" * 900, "1" * 100_000 + "x", "exp(1e308,-1e308,5)", "a\nb"]
)
def test_schedules_too_deep_too_long_or_too_large_are_refused(text):
    with pytest.raises(UserError, match="not a schedule") as refusal:
        schedule(text)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 400


def test_a_long_word_is_looked_through_once():
    assert not is_zero("0" * 200_000 + "x")  # and not once for each digit


# Documents.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: &a [1]\nz_dim: *a", "whole number"),
        ("seed: " + "[" * 1000, "cannot be read"),
        ("seed: 2001-99-99", "month"),
        ("seed: !!bool x", "cannot be read"),
        ("seed: !!int x", "invalid literal"),
        ("seed: " + "9" * 5000, "digits"),
        ("seed: 0x" + "f" * 5000, "not 'a number of many digits'"),
        ("shadow_size: 0x" + "f" * 5000, "not 'a number of many digits'"),
        ("seed: {a: 1}", "whole number"),
        ("seed: true", "whole number"),
        ("task: [a]", "--task takes"),
        ("task: null", "--task takes"),
        ("3: 4", "a key '3'"),
    ],
    ids=lambda text: text[:20],
)
def test_saved_configurations_that_no_run_wrote_are_refused(tmp_path, text, reason):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as refusal:
        config.load_saved(path)
    assert str(path) in str(refusal.value)
    with pytest.raises(UserError, match="another --logdir"):
        config.check_same(config.parse([]), path)


def test_yaml_files_are_files(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="it is no file"):
        yaml_files.load(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="No such file"):
        yaml_files.load(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a: null # nothing", "its type"),
        ("a: null # [many] nothing", "its type"),
        ("a: [] # nothing", "its type"),
        ("a: {b: 1} # nothing", "its type"),
        ("a: .inf # nothing", "finite"),
        ("a: 2001-01-01 # nothing", "its type"),
    ],
)
def test_keys_of_no_type_are_refused(tmp_path, line, reason):
    path = tmp_path / "configs.yaml"
    path.write_text(f"defaults:\n  {line}\n")
    with pytest.raises(UserError, match=rf"configs\.yaml: .*{reason}"):
        config.load_keys(path)


def test_a_block_without_keys_is_refused(tmp_path):
    path = tmp_path / "configs.yaml"
    path.write_text("defaults:\n  a: 1 # one\none: 3\n")
    with pytest.raises(UserError, match="block one: it has no keys"):
        config.parse(["--configs", "one"], path)


# Episodes.


def _member(header, payload=b""):
    head = header.encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + payload


def _write(path, content, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("image.npy", content)


def _header(shape, kind="'|u1'"):
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_member(_header("(1000000000000, 64, 64, 3)")), "which is not uint8"),
        (_member(_header("(9223372036854775807, 2)")), "which is not uint8"),
        (_member(_header("(99999999999999999999, 2)")), "which is not uint8"),
        (_member(_header("(-1, -2, 1, 1)"), bytes(2)), "not that of an array"),
        (_member(_header("(1, 1, 1, 1)"), bytes(2)), "which is not uint8"),
        (_member(_header("(1,)", "'|O'"), bytes(8)), "Python objects"),
        (_member("{{{{"), "not that of an array"),
        (_member("(" * 5000), "not that of an array"),
        (_member(_header("(1,)")[:-2]), "not that of an array"),
    ],
)
def test_headers_that_lie_are_refused_before_anything_is_decoded(tmp_path, content, reason):
    _write(tmp_path / "a.npz", content)
    with pytest.raises(ValueError, match=reason) as refusal:
        read_episode(tmp_path / "a.npz")
    assert len(str(refusal.value)) <= npz.LONGEST + 1
    assert count_rows(tmp_path) == 0


def test_an_archive_that_claims_more_than_an_episode_may_have_is_not_decoded(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("image", "action"):
            archive.writestr(f"{key}.npy", _member(_header("(3000000000,)")))
    data = path.read_bytes()
    for at in (found for found in range(len(data)) if data[found:].startswith(b"PK\1\2")):
        data = data[: at + 24] + struct.pack("<I", 3_000_000_000) + data[at + 28 :]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"its arrays have 6\.0 GB"):
        read_episode(path)


def test_a_damaged_lzma_member_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    _write(path, _member(_header("(5, 2, 2, 3)"), bytes(60)), zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"LZMAError|BadZipFile"):
        read_episode(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="no file"):
        read_episode(tmp_path / "a.npz")
    assert count_rows(tmp_path) == 0


def test_numbers_too_large_for_their_dtype_are_not_finite():
    with pytest.raises(ValueError, match="reward holds a number that is not finite"):
        check_episode(fields(3) | {"reward": np.array([0, 1e300, 0])})


def test_rows_are_counted_of_any_version_and_order(tmp_path):
    image = np.asfortranarray(fields(5)["image"])
    file = io.BytesIO()
    np.lib.format.write_array(file, image, version=(3, 0))
    _write(tmp_path / "a.npz", file.getvalue())
    (tmp_path / "b.npz").write_bytes(npz_of(fields(7)))
    assert count_rows(tmp_path) == 12
    np.testing.assert_array_equal(read_episode(tmp_path / "a.npz")["image"], image)


# Archives.


def _tar(path, *members, kind=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=kind) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def _named(name, **changes):
    member = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(member, key, value)
    return member


def _resized(path, size):
    """Gives the first member another size, under a right checksum."""
    data = bytearray(path.read_bytes())
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([(_named("a\0b.npz", pax_headers={"path": "a\0b.npz"}), b"x")], r"no \.npz episode"),
        ([(_named("a.npz", pax_headers={"size": "-512"}), b"x" * 512)], "damaged"),
        ([(_named("a.npz", pax_headers={"uid": "9" * 5000}), b"x")], None),
        (
            [
                (
                    _named("a.npz", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}),
                    b"x",
                )
            ],
            "sparse",
        ),
    ],
    ids=["zero", "negative", "digits", "sparse"],
)
def test_headers_of_archives_that_lie(tmp_path, members, reason):
    path = _tar(tmp_path / "a.tar", *members)
    if reason is None:
        assert archives.unpack(path, tmp_path / "a")[1]["episodes"] == 1
        return
    with pytest.raises(UserError, match=reason):
        archives.unpack(path, tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [-512, -1024, 8 << 30], ids=["one", "two", "huge"])
def test_a_size_that_leads_back_or_into_all_memory_is_refused(tmp_path, kind, size):
    path = _tar(
        tmp_path / "a.tar", (_named("a.npz", type=kind), b"x" * 600), (_named("b.npz"), b"")
    )
    _resized(path, (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True))
    reason = (
        "negative size|unexpected end" if kind == tarfile.REGTYPE else f"header of {size} bytes"
    )
    reason += "|invalid offset"  # newer patch releases see it themselves
    with pytest.raises(UserError, match=rf"damaged or cut short \(.*({reason})"):
        archives.unpack(path, tmp_path / "a")


def test_an_episode_of_a_long_name_gets_a_short_one(tmp_path):
    path = _tar(tmp_path / "a.tar", (_named("z" * 300 + ".npz"), b"1"), (_named("b.npz"), b"2"))
    folder, _ = archives.unpack(path, tmp_path / "a")
    names = sorted(path.name for path in folder.glob("*.npz"))
    assert len(names) == 2
    assert "b.npz" in names
    assert max(map(len, names)) < 50


def test_a_chain_of_headers_is_no_end_of_the_stack(tmp_path):
    link = tarfile.TarInfo("x")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 0
    data = link.tobuf(tarfile.GNU_FORMAT) * 5000
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(data + bytes(1024)))
    with pytest.raises(UserError, match="damaged or cut short"):
        archives.unpack(tmp_path / "a.tar.xz", tmp_path / "a")


def test_a_marker_without_end_is_none(tmp_path):
    (tmp_path / caching.MARKER).write_text("[" * 100_000)
    assert caching.read_marker(tmp_path) is None


# Videos.


NO_DECODER = bytes.fromhex(
    "000001ba2100010001c33367000001bb0009c333670021ffe0e0e6000001e003"
    "c23100037bb11100035f91000001b302002013"
)


@pytest.fixture
def film(tmp_path):
    name, content = seeds()[0]
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_frames_of_more_pixels_than_any_camera_has_are_not_decoded(film, monkeypatch):
    assert len(list(frames.read_frames(film, frames.Settings()))) == 6
    monkeypatch.setattr(images, "MAX_PIXELS", 32 * 31)
    with pytest.raises(images.Unusable, match="damaged"):
        list(frames.read_frames(film, frames.Settings()))


def test_a_film_without_a_decoder_is_left_out(tmp_path):
    path = tmp_path / "a.mpg"
    path.write_bytes(NO_DECODER)
    with pytest.raises(images.Unusable, match="no decoder for it"):
        list(frames.read_frames(path, frames.Settings()))


@pytest.mark.parametrize("content", ["{", "[]", "{}", "[" * 100_000])
def test_a_record_that_is_damaged_is_made_anew(film, tmp_path, content):
    record = tmp_path / f".{film.name}.json"
    record.write_text(content)
    [clip] = videos._clips(film, [film])
    found = videos._decode_one(clip, tmp_path, frames.Settings(length=4), lambda share: None)
    assert found == {"name": film.name, "episodes": 2, "frames": 6}
    assert json.loads(record.read_text()) == found


@pytest.mark.parametrize("fps", ["1001", "1e300", "1e-9"])
def test_a_rate_that_fills_the_disk_is_refused(film, fps):
    chosen = config.parse(["--pretrain_datasets_path", str(film), "--video_fps", fps])
    with pytest.raises(UserError, match=r"--video_fps must be 0, or from 0\.001 to 1000"):
        data.check(chosen)


@pytest.mark.parametrize("name", ["9" * 300, "9" * 300 + ".yaml", "x/" + "9" * 300])
def test_a_preset_of_a_name_that_is_too_long_is_not_there(name):
    with pytest.raises(UserError, match=r"no block '9+…'|there is no such file"):
        config.parse(["--configs", name])


def test_a_zip_that_names_a_member_by_thousands_of_letters_is_refused_shortly(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1.npz", bytes(9000))
    content = bytearray(path.read_bytes())
    content[26:28] = (8000).to_bytes(2, "little")  # how long the name in its header is
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or cut short") as said:
        archives.unpack(path, tmp_path / "made")
    assert "File name in directory '1.npz'" in str(said.value)
    assert len(str(said.value)) < len(str(path)) + 400
