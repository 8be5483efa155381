"""Manifests of every form go through all commands, each reading what another wrote."""

import json

import pyarrow.dataset as ds
import pytest
from PIL import Image

from making import encode_image, make_image
from pipelines import cli
from tars import make_tar

CAPTIONS = ["a red circle, on white", '"a" star', '5" pipe', "a blue square", "a cat", "a dog"]
LATE = 2  # the image of this row is there only when rejects are retried


def image(number):
    return encode_image(make_image(40, 40, seed=number))


def write_images(folder, numbers):
    for number in numbers:
        (folder / f"{number}.png").write_bytes(image(number))


def write_text(name, text, *flags):
    def write(folder):
        (folder / name).write_text(text)
        return folder / name, flags

    return write


def write_folder(folder):
    for number, caption in enumerate(CAPTIONS):
        (folder / f"{number}.txt").write_text(caption)
    (folder / f"{LATE}.png").write_bytes(b"")
    return folder, ("--keep_columns", "none")


def write_shards(folder):
    for shard in range(2):
        members = []
        for number in range(3 * shard, 3 * shard + 3):
            key = f"v1.{number}"
            members += [(f"._{key}.png", b"\0\5"), (f"{key}.png", image(number))]
            members += [(f"{key}.txt", b"" if number == LATE else CAPTIONS[number].encode())]
        (folder / f"{shard:05}.tar").write_bytes(make_tar(*members))
    return folder / "{00000..00001}.tar", ("--key_until", "last_dot")


ROWS = [{"url": f"{n}.png", "caption": caption} for n, caption in enumerate(CAPTIONS)]
QUOTED = "".join('{}.png;"{}"\n'.format(n, c.replace('"', '""')) for n, c in enumerate(CAPTIONS))
PLAIN = "".join(f"{caption}\t{n}.png\n" for n, caption in enumerate(CAPTIONS))
FORMS = {
    "folder": write_folder,
    "braces": write_shards,
    "semicolon": write_text("m.csv", "url;caption\n" + QUOTED, "--csv_delimiter", "semicolon"),
    "unquoted": write_text("m.tsv", "caption\turl\n" + PLAIN, "--csv_quoting", "none"),
    "headerless": write_text(
        "m.tsv", PLAIN, "--csv_quoting", "none", "--column_names", "caption,url"
    ),
    "array": write_text("rows.json", json.dumps(ROWS, indent=1)),
}


def call(*words):
    assert cli.main([str(word) for word in words]) == 0


def rows(folder, *columns):
    return ds.dataset(folder, ignore_prefixes=["."]).to_table(list(columns)).to_pylist()


@pytest.mark.parametrize("form", FORMS)
def test_form_goes_through_every_command(tmp_path, form, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    manifest, flags = FORMS[form](data)
    if form != "braces":
        write_images(data, set(range(6)) - {LATE})
    embed = ["embed", "--manifest", manifest, "--output", out, "--model", "tiny", *flags]
    call(*embed, "--rows_per_unit", 4)
    counts = json.loads((out / "run.json").read_text())["counts"]
    assert (counts["rows_read"], counts["embedded"], counts["rejected"]) == (6, 5, 1)

    # A table of the run is a manifest, too, and is read in the dialect of the first.
    again = ["embed", "--manifest", out / "rejects", "--output", tmp_path / "again"]
    again += ["--model", "tiny", "--allow_manifests_from", data]
    assert cli.main(list(map(str, again))) == 1  # rejected as before
    if form != "braces":
        write_images(data, [LATE])
    call(*embed, "--rows_per_unit", 4, "--retry_rejects")
    counts = json.loads((out / "run.json").read_text())["counts"]
    left = int(form == "braces")
    assert (counts["rows_read"], counts["embedded"], counts["rejected"]) == (6, 6 - left, left)
    found = rows(out / "embeddings", "source", "source_row", "text")
    expected = [text for n, text in enumerate(CAPTIONS) if n != LATE or not left]
    assert sorted(row["text"] for row in found) == sorted(expected)
    assert len({(row["source"], row["source_row"]) for row in found}) == 6 - left

    call("filter", "--input", out, "--output", tmp_path / "kept", "--top_fraction", "0.5")
    count = len(rows(tmp_path / "kept" / "embeddings", "uid"))
    assert 3 <= count < 6 - left
    allowed = ["--allow_images_from", data, "--allow_manifests_from", data]
    call("report", "--input", out, "--output", tmp_path / "report.html", *allowed)
    assert "base64," in (tmp_path / "report.html").read_text()
    call("export", "--input", out, "--output", tmp_path / "laion", "--format", "laion")
    labels = ["classify", "--labels", "a star,a circle", "--model", "tiny"]
    call(*labels, "--input", out, "--output", tmp_path / "labels")
    assert len(rows(tmp_path / "labels" / "labels", "uid")) == 6 - left
    capsys.readouterr()
    call("search", "--input", out, "--text", "a star", "--model", "tiny")
    assert "similarity" in capsys.readouterr().out
    kept = [
        "embed",
        "--manifest",
        tmp_path / "kept" / "embeddings",
        "--output",
        tmp_path / "second",
    ]
    call(*kept, "--model", "tiny", "--allow_manifests_from", data)
    assert len(rows(tmp_path / "second" / "embeddings", "uid")) == count


def test_orientation_is_part_of_the_fingerprint(tmp_path, capsys):
    (tmp_path / "img").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode_image(make_image(60, 40), "JPEG", exif=exif)
    (tmp_path / "img" / "0.jpg").write_bytes(data)
    (tmp_path / "img" / "0.txt").write_text("a star")
    embed = [
        "embed",
        "--manifest",
        tmp_path / "img",
        "--output",
        tmp_path / "out",
        "--model",
        "tiny",
    ]
    call(*embed, "--exif_orientation", "apply")
    (row,) = rows(tmp_path / "out" / "embeddings", "original_width", "original_height")
    assert row == {"original_width": 40, "original_height": 60}
    assert cli.main(list(map(str, embed))) == 2
    assert (
        "was begun with exif_orientation 'apply', this run has 'ignore'" in capsys.readouterr().err
    )
    call(
        "search",
        "--input",
        tmp_path / "out",
        "--image",
        tmp_path / "img" / "0.jpg",
        "--model",
        "tiny",
    )
    assert "1.0000" in capsys.readouterr().out
