"""Records to TensorBoard's event files."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from logger.groups import FIRST, LAYOUT, RESULTS, picture_tag, scalar_tag
from logger.pictures import encode_gif, encode_png
from logger.sink import Record, Sink


class TensorBoardSink(Sink):
    """TensorBoard event files, in TensorBoard's own format.

    Its usual writer has a thread, which on a full disk prints a traceback of its own.

    Names get a group in front (`logger/groups.py`), videos are animated GIFs under IMAGES, texts
    are under TEXT.

    Args:
        dir: folder of the event files.
        purge_step: TensorBoard hides what earlier files hold of this step and later ones.
        fps: frames per second of videos.
        hparams: all settings that runs may differ in; empty for none.
        chosen: those of them in the run's row under HPARAMS, beside the first ones.
    """

    name = "TensorBoard"

    def __init__(
        self,
        dir: Path,
        purge_step: int = 0,
        fps: int = 20,
        hparams: Mapping[str, Any] = MappingProxyType({}),
        chosen: Collection[str] = (),
    ):
        self._dir, self._purge_step, self._fps = Path(dir), purge_step, fps
        self._hparams, self._chosen = hparams, chosen
        self._writer: Any = None

    def open(self) -> None:
        """Start an event file; where there are earlier ones, a session that begins in it."""
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._dir.mkdir(parents=True, exist_ok=True)
        # Later files have greater names, even if the clock was set back: TensorBoard reads them
        # in that order.
        earlier = _begun(self._dir)
        begun = max([time.time(), *(start + 1 for start in earlier)])
        name = f"events.out.tfevents.{begun:017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((self._dir / name).open("xb"))
        self._add(file_version="brain.Event:2")
        if earlier:
            log = SessionLog(status=SessionLog.START)
            self._add(step=self._purge_step, session_log=log)
        self._describe()

    def _describe(self) -> None:
        """What comes before any number: the pages of charts, the run's settings."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [_layout_value()]
        if self._hparams:
            values += _hparams_values(self._hparams, self._chosen)
        self._add(summary=Summary(value=values))

    def _add(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()

    def write(self, step: int, record: Record) -> None:
        """Add one event with all values."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=scalar_tag(name), simple_value=value)
            for name, value in record.scalars.items()
        ]
        for name, image in record.images.items():
            tag = picture_tag(name, "image")
            values.append(_picture_value(tag, image, encode_png(image)))
        for name, video in record.videos.items():
            tag = picture_tag(name, "video")
            values.append(_picture_value(tag, video[0], encode_gif(video, self._fps)))
        values += [_text_value(name, text) for name, text in record.texts.items()]
        self._add(step=int(step), summary=Summary(value=values))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _begun(dir: Path) -> list[float]:
    """The times in the names of a folder's event files."""
    times = (re.match(r"events\.out\.tfevents\.(\d+(\.\d+)?)", name) for name in os.listdir(dir))
    return [float(found[1]) for found in times if found]


def _picture_value(tag: str, image: np.ndarray, encoded: bytes) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    size = dict(zip(("height", "width", "colorspace"), image.shape, strict=True))
    return Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=encoded, **size))


def _text_value(name: str, text: str) -> Any:
    from tensorboard.plugins.text.metadata import create_summary_metadata

    return _tensor_value(name, text.encode(), create_summary_metadata("", ""))


def _layout_value() -> Any:
    """The pages of Custom Scalars."""
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    pages = []
    for title, charts in LAYOUT.items():
        # Whole tags: its expressions fit any part of one.
        whole = [[f"^{tag}$" for tag in chart.tags] for chart in charts]
        lines = [layout_pb2.MultilineChartContent(tag=tags) for tags in whole]
        drawn = [
            layout_pb2.Chart(title=chart.title, multiline=tags)
            for chart, tags in zip(charts, lines, strict=True)
        ]
        pages.append(layout_pb2.Category(title=title, chart=drawn))
    content = layout_pb2.Layout(category=pages).SerializeToString()
    return _tensor_value(metadata.CONFIG_SUMMARY_TAG, content, metadata.create_summary_metadata())


def _hparams_values(hparams: Mapping[str, Any], chosen: Collection[str]) -> list[Any]:
    """The table of HPARAMS, and the run's row in it.

    The table is the same for all runs of a folder: TensorBoard takes the first one's. Beside the
    settings it has the last value of each result.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    plain = {k: v if isinstance(v, (bool, int, float)) else str(v) for k, v in hparams.items()}
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    columns = [
        # What is said to differ comes first and is shown at first.
        api_pb2.HParamInfo(
            name=name, type=kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64), differs=name in FIRST
        )
        for name, value in plain.items()
    ]
    results = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in RESULTS]
    table = api_pb2.Experiment(hparam_infos=columns, metric_infos=results)
    data = plugin_data_pb2.HParamsPluginData(experiment=table)
    described = metadata.create_summary_metadata(data)
    told = {name: plain[name] for name in plain if name in chosen or name in FIRST}
    row = hparams_pb(told).value[0]
    return [type(row)(tag=metadata.EXPERIMENT_TAG, metadata=described, tensor=row.tensor), row]


def _tensor_value(tag: str, content: bytes, metadata: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[content], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
