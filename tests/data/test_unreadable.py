"""What the machine fails to read is no file's fault: told in one line, and never cached."""

import errno
import os
import tarfile
from pathlib import Path

import av
import pytest

import config
import data
from data import archives, caching, videos
from data.errors import Unreadable, readable, shortened
from logger import read_metrics
from media import files
from tests.data.samples import encode, plain
from tools import UserError


@pytest.fixture
def clips(tmp_path):
    """Two good videos."""
    place = tmp_path / "clips"
    place.mkdir()
    for name in ("a.mp4", "b.mp4"):
        encode(place / name, plain(10))
    return place


@pytest.fixture
def resolve(tmp_path, tiny):
    """What a start makes of a source."""

    def run(source):
        flags = {"cache_dir": tmp_path / "cache", "video_episode_length": 4}
        return data.resolve(config.parse(tiny.pretrain(tmp_path / "runs", source, **flags)))

    return run


def failing(function, code, name):
    """A function that fails, as the machine does, on the files of this name."""
    kind = OSError
    if function is av.open:
        kind = av.error.PermissionError if code == errno.EPERM else av.error.OSError

    def call(path, *args, **options):
        if Path(path).name == name:
            raise kind(code, os.strerror(code), str(path))
        return function(path, *args, **options)

    return call


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ((av, "open"), errno.EMFILE),
        ((av, "open"), errno.ESTALE),
        ((Path, "open"), errno.EACCES),
        ((Path, "open"), errno.EPERM),
        ((Path, "open"), errno.ENOENT),  # its disk went away
    ],
)
def test_a_video_that_cannot_be_opened_now_is_tried_again(
    tmp_path, clips, resolve, monkeypatch, where, code
):
    monkeypatch.setattr(videos, "WORKERS", 1)
    monkeypatch.setattr(files, "is_video", lambda path: True)  # it was still well when looked for
    place, name = where
    with monkeypatch.context() as patch:
        patch.setattr(place, name, failing(getattr(place, name), code, "b.mp4"))
        with pytest.raises(UserError) as error:
            resolve(clips)
    assert f"{clips / 'b.mp4'} cannot be read ({os.strerror(code)})" in str(error.value)
    assert "the same command goes on" in str(error.value)
    [partial] = (tmp_path / "cache" / "videos").iterdir()
    kept = (partial / "a.mp4-00000-4.npz").stat().st_mtime_ns  # what was done stays
    found = resolve(clips)
    assert (found.skipped, found.fields["videos"]) == ([], 2)
    assert (found.folder / "a.mp4-00000-4.npz").stat().st_mtime_ns == kept


def test_a_damaged_video_of_which_ffmpeg_says_eperm_is_left_out(clips, resolve, monkeypatch):
    monkeypatch.setattr(av, "open", failing(av.open, errno.EPERM, "b.mp4"))
    reason = f"no video, or damaged: {os.strerror(errno.EPERM)}"
    assert resolve(clips).skipped == [("b.mp4", reason)]


def test_a_file_that_cannot_be_looked_at_is_named(clips, monkeypatch):
    failed = failing(Path.open, errno.EACCES, "b.mp4")
    monkeypatch.setattr(Path, "open", failed)
    with pytest.raises(UserError, match=r"b\.mp4 cannot be read \(Permission denied\): mend"):
        data.kind_of(str(clips))


def test_an_archive_that_cannot_be_read_now_is_not_called_damaged(tmp_path):
    path = tmp_path / "data.tar.gz"
    path.symlink_to("/proc/self/mem")  # of which the first byte cannot be read
    with pytest.raises(Unreadable, match=r"data\.tar\.gz cannot be read \(Input/output error\)"):
        archives.unpack(path, tmp_path / "data")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(Unreadable, match=r"gone\.tar cannot be read \(No such file"):
        archives.unpack(tmp_path / "gone.tar", tmp_path / "data")


def test_an_archive_that_cannot_be_opened_now_is_unpacked_by_the_next_start(
    tmp_path, resolve, monkeypatch
):
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("a.npz"))
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_Raw", failing(archives._Raw, errno.EMFILE, "data.tar"))
        with pytest.raises(UserError, match=r"data\.tar cannot be read \(Too many open files\)"):
            resolve(path)
    assert list(tmp_path.iterdir()) == [path]
    assert resolve(path).folder == tmp_path / "data"


def test_a_marker_that_cannot_be_read_now_makes_no_second_folder(tmp_path, resolve, monkeypatch):
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("a.npz"))
    assert resolve(path).folder == tmp_path / "data"
    with monkeypatch.context() as patch:
        failed = failing(Path.read_text, errno.EMFILE, caching.MARKER)
        patch.setattr(caching.Path, "read_text", failed)
        with pytest.raises(UserError, match=r"\.source\.json cannot be read"):
            resolve(path)
    assert resolve(path).folder == tmp_path / "data"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "data", path]


def test_names_that_are_not_utf8(tmp_path, clips, tiny):
    """Through the real command line: neither a file nor a line of the log minds them."""
    for new, old in ((b"a\xff.mp4", "a.mp4"), (b"b\xff.mp4", "b.mp4")):
        os.rename(clips / old, clips / os.fsdecode(new))
    (clips / os.fsdecode(b"bad\xff.mp4")).write_text("no video")
    flags = {"pretrain_steps": 100, "cache_dir": tmp_path / "cache"}
    rows = read_metrics(
        tiny.finish(tiny.pretrain(tmp_path / "runs", clips, **flags)) / "metrics.jsonl"
    )
    [found] = [row for row in rows if row.get("event") == "dataset"]
    assert (found["episodes"], found["frames"], found["skipped"]) == (2, 20, 1)
    [skipped] = [row for row in rows if row.get("event") == "skipped"]
    assert skipped["file"] == "bad\\xff.mp4"


def test_names_of_many_bytes(tmp_path, resolve):
    place = tmp_path / ("影片" * 40)
    place.mkdir()
    encode(tmp_path / "a.mp4", plain(4)).rename(place / f"{'影' * 70}.{'x' * 40}")
    encode(tmp_path / "b.mp4", plain(4)).rename(place / f"b.{'x' * 250}")
    for end in "xy":
        encode(place / f"{'long' * 60}{end}.mp4", plain(4))
    found = resolve(place)
    assert found.skipped == []
    assert len(list(found.folder.glob("*.npz"))) == 4
    assert found.folder.name.startswith("影片" * 13)  # whole characters
    with tarfile.open(tmp_path / f"{'d' * 251}.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.npz"))
    assert resolve(tmp_path / f"{'d' * 251}.tar").folder == tmp_path / ("d" * 200)


def test_names_are_cut_between_characters():
    assert [shortened("aé影", most) for most in (6, 5, 3, 2, 1)] == ["aé影", "aé", "aé", "a", "a"]
    assert readable(os.fsdecode(b"a\xff\xc3\xa9")) == "a\\xffé"


def test_a_user_that_is_not_there(tmp_path, tiny, clips):
    with pytest.raises(UserError, match="--pretrain_datasets_path ~nosuchuser/x: its home is not"):
        data.kind_of("~nosuchuser/x")
    flags = {"cache_dir": "~nosuchuser/x"}
    given = config.parse(tiny.pretrain(tmp_path / "runs", clips, **flags))
    for use in (data.check, data.resolve):
        with pytest.raises(UserError, match="--cache_dir ~nosuchuser/x: its home is not known"):
            use(given)
