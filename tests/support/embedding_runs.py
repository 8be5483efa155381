"""Manifests of drawn images, and what `embed` makes of them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from making import encode_image, make_image
from pipelines import embed


def write_manifest(folder, rows=20):
    """A JSONL manifest of images, three of which cannot be embedded, and an empty caption."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(rows):
        data = encode_image(make_image(seed=number), "JPEG")
        data = {3: data[: len(data) // 2], 5: b"<html>not an image</html>"}.get(number, data)
        if number != 7:
            (folder / "images" / f"{number}.jpg").write_bytes(data)
        text = "" if number == 9 else f"a red circle number {number}"
        lines.append({"uid": f"row-{number}", "url": f"images/{number}.jpg", "text": text})
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(manifest, output, model, *flags):
    arguments = ["--manifest", str(manifest), "--output", str(output), "--model", str(model)]
    return embed.main([*arguments, *flags])


def embeddings(output):
    return ds.dataset(Path(output) / "embeddings").to_table().sort_by("source_row")


def assert_same(table, expected):
    assert table["uid"].to_pylist() == expected["uid"].to_pylist()
    for name in ("image_embedding", "text_embedding", "similarity"):
        one, two = (np.array(part[name].to_pylist()) for part in (table, expected))
        assert np.abs(one - two).max() < 1e-5


def reasons(output):
    table = ds.dataset(Path(output) / "rejects").to_table()
    return dict(zip(table["uid"].to_pylist(), table["reason"].to_pylist(), strict=True))
