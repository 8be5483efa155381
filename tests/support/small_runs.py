"""Runs of a dozen rows, three of which are bad, from manifests of every form."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from making import encode_image, flags_over, make_image
from pipelines import embed

ROWS = 12
BAD = {2: b"", 5: b"<html>", 8: None}  # empty, no image, and not there at all


def picture(number, mended=False):
    data = encode_image(make_image(40, 40, seed=number))
    return data if mended else BAD.get(number, data)


def write_jsonl(folder, mended=False):
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(ROWS):
        data = picture(number, mended)
        if data is not None:
            (folder / f"{number}.png").write_bytes(data)
        lines.append({"uid": f"u{number}", "url": f"{number}.png", "text": "a star", "n": number})
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "m.jsonl"


def write_tar(folder):
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "m.tar", "w") as tar:
        for number in range(ROWS):
            for suffix, data in (("png", picture(number)), ("txt", b"a star")):
                if data is not None:
                    member = tarfile.TarInfo(f"u{number}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder / "m.tar"


def write_parquet(folder):
    folder.mkdir(exist_ok=True)
    pictures = pa.array([picture(number) for number in range(ROWS)], pa.binary())
    table = pa.table({"image_bytes": pictures, "text": ["a star"] * ROWS})
    pq.write_table(table, folder / "m.parquet")
    return folder / "m.parquet"


def run(manifest, output, model, *flags):
    arguments = ["--manifest", str(manifest), "--output", str(output), "--model", str(model)]
    arguments += ["--allow_manifests_from", str(output.parent / "data")]
    return embed.main([*arguments, *flags_over(["--rows_per_unit", "5"], flags)])
