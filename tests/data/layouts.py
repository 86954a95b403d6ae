"""Small datasets in the layouts of others, written without their own packages."""

import io
import json

import h5py
import numpy as np
import pyarrow
from pyarrow import parquet

from tests.data.samples import encode, plain

CAMERA, FPS = "observation.images.top", 10
V2 = {
    "data": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
V3 = {
    "data": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}


def info(version, **changes):
    """What meta/info.json says."""
    paths = V2 if version == 2 else V3
    camera = {"dtype": "video", "shape": [96, 128, 3]}
    features = {"action": {"dtype": "float32"}, CAMERA: camera, "observation.wrist": camera}
    return {
        "codebase_version": f"v{version}.1",
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": paths["data"],
        "video_path": paths["video"],
        "features": features,
    } | changes


def table(index, rows, start=0):
    """The rows of one episode: their number is in the action, and in the reward."""
    t = np.arange(rows)
    return pyarrow.table(
        {
            "action": [[float(start + n), float(index)] for n in t],
            "timestamp": pyarrow.array(t / FPS, pyarrow.float32()),
            "episode_index": pyarrow.array(np.full(rows, index), pyarrow.int64()),
            "next.reward": pyarrow.array(t + 0.5, pyarrow.float32()),
            "next.done": t == rows - 1,
        }
    )


def packed(content, **options):
    """The bytes of a parquet file."""
    file = io.BytesIO()
    parquet.write_table(content, file, **options)
    return file.getvalue()


def video(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, plain(rows, 96, 128), FPS)
    return path.read_bytes()


def lerobot(version, lengths, scratch, **changes):
    """{path: bytes} of a dataset; the images of all episodes have the greys 0, 1, 2, … in turn."""
    files = {"meta/info.json": json.dumps(info(version, **changes)).encode()}
    places = {"chunk": 0, "key": CAMERA}
    if version == 2:
        for index, rows in enumerate(lengths):
            files[f"data/chunk-000/episode_{index:06d}.parquet"] = packed(table(index, rows))
            name = f"videos/chunk-000/{CAMERA}/episode_{index:06d}.mp4"
            files[name] = video(scratch / "a.mp4", rows)
        return files
    starts = np.cumsum([0, *lengths[:-1]])
    tables = [
        table(n, rows, start) for n, (rows, start) in enumerate(zip(lengths, starts, strict=True))
    ]
    files["data/chunk-000/file-000.parquet"] = packed(
        pyarrow.concat_tables(tables), row_group_size=4
    )
    files[f"videos/{places['key']}/chunk-000/file-000.mp4"] = video(scratch / "a.mp4", sum(lengths))
    zeros = np.zeros(len(lengths), int)
    files["meta/episodes/chunk-000/file-000.parquet"] = packed(
        pyarrow.table(
            {
                "episode_index": np.arange(len(lengths)),
                f"videos/{CAMERA}/chunk_index": zeros,
                f"videos/{CAMERA}/file_index": zeros,
                f"videos/{CAMERA}/from_timestamp": starts / FPS,
            }
        )
    )
    return files


def lay(folder, files):
    """Writes files into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def shard(lengths, size=84, channels_first=True, **changes):
    """{name: array} of an HDF5 file of V-D4RL's; rows tell their number."""
    rows = sum(lengths)
    images = np.arange(rows, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    images = images.repeat(size, 1).repeat(size, 2)
    steps = [[0, *[1] * (length - 2), 2] if length > 1 else [0] for length in lengths]
    content = {
        "observation": images.transpose(0, 3, 1, 2) if channels_first else images,
        "action": np.arange(rows, dtype=np.float32)[:, None].repeat(2, 1),
        "reward": np.arange(rows) / 2,
        "discount": np.ones(rows),
        "step_type": np.concatenate(steps).astype(float),
    } | changes
    return {key: value for key, value in content.items() if value is not None}


def hdf5(content, **options):
    """The bytes of an HDF5 file."""
    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        for key, value in content.items():
            out.create_dataset(key, data=value, **options)
    return file.getvalue()
