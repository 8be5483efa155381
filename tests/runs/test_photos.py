"""Real photographs with captions: every manifest form gives the same embeddings."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from pipelines import embed

# Photographs that the packages of scikit-image bundle.
CAPTIONS = {
    "astronaut": "a portrait of an astronaut in an orange suit",
    "chelsea": "a tabby cat looking to the side",
    "coffee": "a cup of coffee on a wooden table",
    "camera": "a man with a camera on a tripod, in black and white",
    "rocket": "a rocket on its launch pad at night",
}


@pytest.fixture(scope="module")
def photos():
    found = {}
    for name in CAPTIONS:
        buffer = io.BytesIO()
        Image.fromarray(getattr(data, name)()).save(buffer, "JPEG", quality=92)
        found[name] = buffer.getvalue()
    return found


def write_parquet(photos, folder):
    columns = {
        "uid": list(photos),
        "image_bytes": list(photos.values()),
        "text": list(CAPTIONS.values()),
    }
    pq.write_table(pa.table(columns), folder / "m.parquet")


def write_jsonl(photos, folder):
    lines = []
    for name, photo in photos.items():
        (folder / f"{name}.jpg").write_bytes(photo)
        lines.append(json.dumps({"uid": name, "image_path": f"{name}.jpg", "text": CAPTIONS[name]}))
    (folder / "m.jsonl").write_text("\n".join(lines))


def write_tar(photos, folder):
    with tarfile.open(folder / "m.tar", "w") as tar:
        for name, photo in photos.items():
            for suffix, content in (("jpg", photo), ("txt", CAPTIONS[name].encode())):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_all_forms_of_a_manifest_give_the_same_embeddings(photos, tmp_path, vit_dir):
    tables = []
    for write in (write_parquet, write_jsonl, write_tar):
        folder = tmp_path / write.__name__
        folder.mkdir()
        write(photos, folder)
        output = Path(folder) / "out"
        flags = [
            "--manifest",
            str(folder / "m.*"),
            "--output",
            str(output),
            "--model",
            str(vit_dir),
        ]
        assert embed.main(flags) == 0
        tables.append(ds.dataset(output / "embeddings").to_table().sort_by("uid"))
    assert tables[0]["uid"].to_pylist() == sorted(CAPTIONS)
    for other in tables[1:]:
        for name in ("image_embedding", "text_embedding", "similarity"):
            first, second = (np.array(table[name].to_pylist()) for table in (tables[0], other))
            assert np.abs(first - second).max() < 1e-6
        for name in ("uid", "text", "sha256", "original_width", "original_height"):
            assert other[name] == tables[0][name]
