"""A manifest format and an image column that somebody else has written."""

import pyarrow as pa

from pipelines import ImageColumn, ManifestFormat
from pipelines.manifests.request import FilePlan
from pipelines.manifests.rows import RawRow
from pipelines.storage import reading
from schemas.manifest import Columns


def lines_of(uri):
    with reading.open_input(uri) as file:
        return file.read().decode().splitlines()


def plan_lines(whole, request, beside):
    columns = Columns(image_uri="image", text="text")
    return FilePlan([whole.__class__(**{**vars(whole), "columns": columns,
                                        "rows": len(lines_of(whole.uri))})], [])  # fmt: skip


def read_lines(unit):
    for number, line in enumerate(lines_of(unit.uri)):
        image, _, text = line.partition(" ")
        yield RawRow(number, {"image": image, "text": text})


def aspect(data, image):
    return image.original_width / image.original_height


LINES = ManifestFormat("lines", (".lst",), plan_lines, read_lines)
ASPECT = ImageColumn(pa.field("aspect", pa.float64()), aspect)
