"""Sinks: what is read back from TensorBoard, W&B and the terminal."""

import io
import sys
import types

import imageio.v3 as imageio
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from logger import Logger, make_sinks, read_metrics
from logger.jsonl import JSONLSink
from logger.tensorboard import TensorBoardSink
from logger.terminal import TerminalSink
from logger.wandb import WandbSink


class Terminal(io.StringIO):
    def isatty(self):
        return True


def events(directory):
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


# TensorBoard


def test_tensorboard_tags_values_images_and_text(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with Logger([TensorBoardSink(tmp_path)], step=30) as logger:
        logger.scalars({"train_return": 1.5, "loss/kl": 0.25})
        logger.image("picture", image)
        logger.text("config", "seed: **1**")
        logger.write()
    log = events(tmp_path)
    assert sorted(log.Tags()["scalars"]) == ["loss/kl", "train/return"]
    [point] = log.Scalars("train/return")
    assert (point.step, point.value) == (30, 1.5)
    [picture] = log.Images("image/picture")
    assert (picture.step, picture.width, picture.height) == (30, 7, 5)
    np.testing.assert_array_equal(imageio.imread(picture.encoded_image_string), image)
    assert log.SummaryMetadata("config").plugin_data.plugin_name == "text"
    assert log.Tensors("config")[0].tensor_proto.string_val[0] == b"seed: **1**"


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_videos_are_animated_gifs_with_all_frames_side_by_side(tmp_path, kind):
    grey = np.random.default_rng(0).integers(0, 256, (2, 9, 8, 6, 1), dtype=np.uint8)
    video = np.repeat(grey, 3, -1)
    with Logger([TensorBoardSink(tmp_path, fps=20)]) as logger:
        logger.video("openl", video if kind == "uint8" else video.astype(np.float32) / 255)
        logger.video("single", video[0])
        logger.write(1)
    log = events(tmp_path)
    encoded = log.Images("video/openl")[0].encoded_image_string
    assert encoded[:6] == b"GIF89a"
    assert b"NETSCAPE2.0" in encoded  # loops
    assert imageio.immeta(encoded, index=0)["duration"] == 50
    frames = imageio.imread(encoded, index=None)[..., :3]
    assert frames.shape == (9, 8, 12, 3)
    expected = np.concatenate([video[0], video[1]], 2)
    # A GIF has 256 colours: near, but not equal.
    np.testing.assert_allclose(frames.astype(int), expected.astype(int), atol=16)
    assert (
        imageio.imread(log.Images("video/single")[0].encoded_image_string, index=None).shape[0] == 9
    )


@pytest.mark.parametrize("name", ["{:017.6f}.host.7", "{:010.0f}.host.7.0"])
def test_tensorboard_hides_what_was_logged_after_the_checkpoint(tmp_path, monkeypatch, name):
    """Also when the clock was set back by a day before each start."""
    now, size = 1_800_000_000.25, {None: 0}
    (tmp_path / "events.out.tfevents.other").touch()
    starts = [(None, {10: 9}), (None, {10: 1, 20: 1, 30: 1}), (20, {30: 2}), (30, {40: 3})]
    for index, (resume_step, values) in enumerate(starts):
        monkeypatch.setattr("time.time", lambda index=index: now - 86_400 * index)
        sinks = make_sinks(
            tmp_path, resume_step=resume_step, log_size=size[resume_step], terminal=False
        )
        with Logger(sinks) as logger:
            for step, value in values.items():
                logger.scalar("a", value)
                logger.write(step, flush=True)
                size[step] = logger.size
        if index == 0:
            [first] = tmp_path.glob("events.out.tfevents.1*")
            first.rename(tmp_path / ("events.out.tfevents." + name.format(now)))
    (tmp_path / "events.out.tfevents.other").unlink()
    points = [(point.step, point.value) for point in events(tmp_path).Scalars("model/a")]
    assert points == [(10, 1), (20, 1), (30, 2), (40, 3)]
    assert [(row["step"], row["a"]) for row in read_metrics(tmp_path / "metrics.jsonl")] == points


# W&B


def fake_wandb(monkeypatch, fail=""):
    calls = []

    def call(name):
        def record(*args, **kwargs):
            calls.append((name, args, kwargs))
            if name == fail:
                raise RuntimeError(f"{name} refused")
            if kwargs.get("mode") == "online":
                raise ConnectionError("no route to host")
            return run

        return record

    run = types.SimpleNamespace(log=call("log"), finish=call("finish"))
    module = types.ModuleType("wandb")
    module.errors = types.SimpleNamespace(Error=ConnectionError)
    module.Settings, module.teardown = dict, call("teardown")
    module.init, module.Image, module.Html = call("init"), lambda image: image, lambda text: text
    module.Video = lambda file, format: (file.getvalue()[:3], format)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def wandb_sink(directory, **kwargs):
    return WandbSink("offline", "diswm", "run", {"seed": 1}, directory, **kwargs)


def test_wandb_gets_everything_and_its_run_id(tmp_path, monkeypatch):
    calls = fake_wandb(monkeypatch)
    with Logger([wandb_sink(tmp_path, id="abc", group="all")], step=8) as logger:
        logger.scalar("a", 1)
        logger.video("v", np.zeros((3, 4, 4, 3)))
        logger.text("t", "1 < 2")
        logger.write()
    (_, _, init), (_, (items,), log), (last, _, _) = calls
    assert (init["mode"], init["id"], init["resume"]) == ("offline", "abc", "allow")
    assert (init["group"], init["config"]) == ("all", {"seed": 1})
    assert items == {"model/a": 1.0, "video/v": (b"GIF", "gif"), "t": "<pre>1 &lt; 2</pre>"}
    assert (log, last) == ({"step": 8}, "finish")


def test_wandb_out_of_reach_is_recorded_for_later(tmp_path, monkeypatch):
    calls, screen = fake_wandb(monkeypatch), io.StringIO()
    sink = WandbSink("online", "diswm", "run", {}, tmp_path, id="abc")
    with Logger([JSONLSink(tmp_path / "m"), TerminalSink(screen), sink]) as logger:
        logger.scalar("a", 1)
        logger.write(1)
    assert [name for name, _, _ in calls] == ["init", "teardown", "init", "log", "finish"]
    first, _, second, *_ = (kwargs for _, _, kwargs in calls)
    assert (first["mode"], second["mode"]) == ("online", "offline")
    assert first["id"] == second["id"] == "abc"
    assert first["settings"]["init_timeout"] <= 30
    [warning] = [row["message"] for row in read_metrics(tmp_path / "m") if "event" in row]
    assert "no route to host" in warning
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in warning
    assert warning in screen.getvalue()


@pytest.mark.parametrize("fail", ["init", "log", "finish"])
def test_run_goes_on_when_wandb_fails(tmp_path, monkeypatch, fail):
    calls, screen = fake_wandb(monkeypatch, fail), io.StringIO()
    sinks = [JSONLSink(tmp_path / "m"), TerminalSink(screen), wandb_sink(tmp_path)]
    with Logger(sinks) as logger:
        for step in (1, 2, 3):
            logger.scalar("a", step)
            logger.write(step)
    assert [row["a"] for row in read_metrics(tmp_path / "m") if "a" in row] == [1, 2, 3]
    [line] = screen.getvalue().splitlines()
    assert "W&B failed in" in line
    assert f"{fail} refused" in line
    assert [name for name, _, _ in calls].count(fail) == 1


def test_wandb_itself_takes_all_kinds_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_SILENT", "WANDB_DISABLE_GIT"):
        monkeypatch.setenv(name, "true")
    screen = io.StringIO()
    with Logger([TerminalSink(screen), wandb_sink(tmp_path, id="abc")], step=8) as logger:
        logger.scalar("a", 1)
        logger.image("i", np.zeros((4, 4, 3), np.uint8))
        logger.video("v", np.zeros((3, 4, 4, 3)))
        logger.text("t", "hello")
        logger.write()
    assert screen.getvalue() == ""
    [log] = tmp_path.glob("wandb/offline-run-*/run-abc.wandb")
    assert log.stat().st_size > 0
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/videos/**/*.gif"))) == 1


def test_missing_wandb_is_a_warning_and_a_wrong_mode_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    screen = io.StringIO()
    Logger([TerminalSink(screen), wandb_sink(tmp_path)]).close()
    assert "W&B failed in open" in screen.getvalue()
    with pytest.raises(ValueError, match="mode 'on'"):
        WandbSink("on", "p", "n", {}, tmp_path)


# Terminal


def test_events_are_lines_and_a_file_gets_no_bar(tmp_path):
    screen = io.StringIO()
    with Logger([TerminalSink(screen)], step=10_000) as logger:
        logger.bar(100, desc="train")
        logger.progress(50)
        logger.event("eval", ret=np.float64(123.456), episodes=10)
        logger.scalar("a", 1)
        logger.write()
    assert screen.getvalue() == "[   10,000] eval  ret 123.5  episodes 10\n"


@pytest.mark.parametrize(
    ("length", "lines"),
    [(1000, 20), (10, 29), (15, 29)],  # ten to a log line have one each; the first ten always have
)
def test_a_file_gets_about_ten_lines_of_episodes_to_a_log_line(tmp_path, length, lines):
    screen, log = io.StringIO(), tmp_path / "metrics.jsonl"
    total = 20_000 // length
    with Logger([TerminalSink(screen, log_every=10_000), JSONLSink(log)]) as logger:
        for number in range(total):
            logger.step = (number + 1) * length
            logger.event("train", ret=float(number), episode=number)
    shown = screen.getvalue().splitlines()
    assert abs(len(shown) - lines) <= 1
    assert len(read_metrics(log)) == total
    several = [int(line.rpartition(" ")[2]) for line in shown if "mean_of" in line]
    assert sum(several) + len(shown) - len(several) == total  # none is missing, none is told twice


def test_episodes_of_another_kind_and_those_that_wait_have_a_line(tmp_path):
    screen = io.StringIO()
    with Logger([TerminalSink(screen, log_every=100)]) as logger:
        for number in range(13):
            logger.event("random", ret=float(number), episode=number)
        logger.event("evaluation", ret=1.0, each=[1.0])
        for number in range(13, 15):
            logger.event("train", ret=float(number), episode=number)
        logger.event("train", ret=2.0, episode=15, colors="test")
    assert [line[12:] for line in screen.getvalue().splitlines()[9:]] == [
        "random  ret 9  episode 9",
        "random  ret 11  episode 12  mean_of 3",
        "evaluation  ret 1  each [1.0]",
        "train  ret 13.5  episode 14  mean_of 2",
        "train  ret 2  episode 15  colors test",
    ]


def test_a_terminal_has_one_bar_with_lines_above_it():
    screen = Terminal()
    with Logger([TerminalSink(screen)], step=60) as logger:
        logger.bar(100, initial=40, desc="train")
        logger.progress(60, ret=12.5)
        before = len(screen.getvalue())
        logger.event("saved")
        shown = screen.getvalue()[before:]
        logger.progress(100)
    text = screen.getvalue()
    assert "train:  40%" in text
    assert "100/100" in text
    line, _, rest = shown.partition("saved\n")
    assert line.startswith("\r")  # the bar is wiped, the line printed, the bar drawn again
    assert line.rstrip().endswith("[       60]")
    assert "train:  60%" in rest
    assert "ret=12.5" in rest
