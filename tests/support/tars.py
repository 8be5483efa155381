"""Tars of samples, and the rows that are read from them."""

import io
import json
import tarfile

from making import plan
from pipelines.manifests.units import read_unit


def make_tar(*members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(key, image=b"image", text="a caption", **about):
    yield f"{key}.jpg", image
    yield f"{key}.txt", text.encode()
    if about:
        yield f"{key}.json", json.dumps(about).encode()


def read(tmp_path, data, name="shard.tar", **settings):
    path = tmp_path / name
    path.write_bytes(data)
    return [r for unit in plan(path, **settings).units for r in read_unit(unit)]
