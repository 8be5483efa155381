"""Manifests that change under a run, and tables of strangers that name what nobody allowed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipelines import embed
from pipelines.manifests.planning import plan_units
from pipelines.manifests.request import ManifestRequest
from pipelines.output.unit_record import UNIT_KEY, unit_to_json
from torture_images import png

ROWS = 12
CHANGES = ("shuffled", "turned", "edited", "touched", "restored", "as it was")


def run(manifest: Path, output: Path, model: str, *flags: str) -> int:
    """Runs `embed`; returns its exit status."""
    argv = ["--manifest", str(manifest), "--output", str(output), "--model", model]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return embed.main([*argv, "--rows_per_unit", "4", *flags])


def write_manifest(folder: Path, form: str, order: list[int], text: str = "a star") -> Path:
    """Writes rows in an order, so that the file has the same size whatever it is."""
    folder.mkdir(exist_ok=True)
    path = folder / f"m.{form}"
    if form == "parquet":
        columns = {
            "uid": [f"u{n:02}" for n in order],
            "image_bytes": [png(20 + n, 20) for n in order],
        }
        table = pa.table(columns | {"text": [text] * ROWS})
        pq.write_table(
            table, path, compression="none", use_dictionary=False, write_statistics=False
        )
        return path
    for n in order:
        (folder / f"{n:02}.png").write_bytes(png(20 + n, 20))
    rows = [(f"u{n:02}", f"{n:02}.png", text) for n in order]
    if form == "jsonl":
        lines = [json.dumps(dict(zip(("uid", "url", "text"), row, strict=True))) for row in rows]
    else:
        lines = ["uid,url,text", *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def change(path: Path, form: str, kind: str, rng: random.Random) -> str:
    """Changes a manifest; returns the caption that its rows have now."""
    before, text, order = path.stat(), "a star", list(range(ROWS))
    if kind in ("shuffled", "restored"):
        rng.shuffle(order)
    elif kind == "turned":
        order = order[::-1]
    elif kind == "edited":
        text = "a moon"
    if kind != "as it was" and kind != "touched":
        write_manifest(path.parent, form, order, text)
    if kind == "touched":
        os.utime(path)
    elif kind == "restored":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return text


def changed_run(seed: int, folder: Path, model: str) -> tuple[str, int]:
    """Embeds, cuts off, changes the manifest and goes on; returns the change and rows amiss."""
    rng = random.Random(seed)
    form, kind = rng.choice(("jsonl", "csv", "parquet")), rng.choice(CHANGES)
    manifest = write_manifest(folder / f"changed-{seed}", form, list(range(ROWS)))
    output = folder / f"changed-{seed}-out"
    run(manifest, output, model)
    for path in rng.sample(sorted((output / "embeddings").iterdir()), rng.randint(0, 2)):
        path.unlink()
    text = change(manifest, form, kind, rng)
    status = run(manifest, output, model, *rng.choice(((), ("--retry_rejects",))))
    found = ds.dataset(output / "embeddings").to_table(["uid", "text"]).to_pylist()
    expected = sorted((f"u{n:02}", text) for n in range(ROWS))
    amiss = sorted((row["uid"], row["text"]) for row in found) != expected
    return kind, int(bool(status) or amiss)


def hostile_run(seed: int, folder: Path, model: str) -> tuple[str, int]:
    """Hands `embed` a table that names a private manifest; returns how, and rows that came out."""
    rng = random.Random(seed)
    private = write_manifest(folder / "private", "jsonl", list(range(ROWS)))
    home = folder / f"hostile-{seed}" / rng.choice(("rejects", "elsewhere"))
    home.mkdir(parents=True)
    (unit,) = plan_units(ManifestRequest((str(private),))).units
    named = json.loads(unit_to_json(unit))
    spelling = rng.choice(("plain", "file", "steps", "link", "root", "id"))
    if spelling == "file":
        named["uri"] = f"file://{private}"
    elif spelling == "steps":
        named["uri"] = f"{home}/../../private/{private.name}"
    elif spelling == "link":
        os.symlink(private, home / "m.jsonl")
        named["uri"] = str(home / "m.jsonl")
    elif spelling == "root":
        named |= {"uri": str(write_manifest(home, "jsonl", [])), "image_root": str(private.parent)}
    elif spelling == "id":
        named["unit_id"] = "../../private/own"
    table = pa.table({"source_row": pa.array(range(ROWS), pa.int64())})
    metadata = {UNIT_KEY: json.dumps(named)}
    pq.write_table(table.replace_schema_metadata(metadata), home / "t.parquet")
    output = folder / f"hostile-{seed}-out"
    run(home / "t.parquet", output, model)
    return spelling, sum(pq.read_metadata(path).num_rows for path in output.glob("*/*.parquet"))
