"""Small images of scored rows, fetched again from where the operator allows."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from PIL import Image

from clip_core.preprocess import Preprocess
from pipelines.command_line.flag_names import in_flags
from pipelines.images.decode import DecodeLimits, decode_image, limits_of
from pipelines.images.fetch import FetchPolicy
from pipelines.images.trust import TRUST, NotTrustedError, Trust
from pipelines.pages.in_time import in_time
from pipelines.records import Row, RowFault, Unit
from pipelines.shards.originals import ImageRow, fetch_original, original_rows
from pipelines.storage.stores import StoreFault

SIDE = 224  # pixels; shown at half of that on most screens
JPEG_QUALITY = 80
TOTAL_S = 60.0  # for the images of a page, all together
MAX_REMEDIES = 3  # parameters named in a summary, of a run that names many places


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG as a data URI, or why there is none, and the parameter that would allow it."""

    data_uri: str | None
    reason: str | None = None
    remedy: str | None = None


def thumbnails(
    rows: Sequence[ImageRow],
    options: Mapping[str, Any],
    units: Mapping[str, Unit],
    trust: Trust,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Thumbnail]:
    """Returns a thumbnail for each row, in order: the centre square, as the model sees it.

    An image that has changed since it was scored, lies where nobody allowed to read, cannot be
    decoded, or did not come in time gives its reason instead.

    Args:
        options, units, trust: as `original_rows` takes them.
        progress: called with 1 for each image.
    """
    policy, limits = trust.fetch_policy(options), limits_of(options)
    hashes = {(row.source, row.source_row): row.sha256 for row in rows}
    found: dict[tuple[str, int], Thumbnail] = {}
    work = [
        ((source, number), partial(_thumbnail, original, hashes[source, number], policy, limits))
        for source, number, original in original_rows(rows, options, units, trust)
    ]
    for name, thumbnail in in_time(work, TOTAL_S):
        thumbnail = thumbnail or Thumbnail(None, f"not there within {TOTAL_S:.0f} s")
        found[name] = replace(thumbnail, reason=thumbnail.reason and in_flags(thumbnail.reason))
        progress(1)
    return [found[row.source, row.source_row] for row in rows]


def remedy_lines(pictures: Sequence[Thumbnail]) -> list[str]:
    """Returns lines for the summary: what is missing, and the parameters that would show it."""
    missing = Counter(p.reason for p in pictures if not p.data_uri and not p.remedy)
    reasons = ", ".join(f"{reason} {count}" for reason, count in missing.most_common(MAX_REMEDIES))
    lost = f"images     {missing.total()} of {len(pictures)} not shown: {reasons}"
    needed = Counter(picture.remedy for picture in pictures if picture.remedy)
    lines = [
        f"images     {count} of {len(pictures)} not shown; allow them with {remedy}"
        for remedy, count in needed.most_common(MAX_REMEDIES)
    ]
    if lines:
        lines.append(f"           or all that the run names with `{TRUST}`")
    return [lost, *lines] if missing else lines


def _thumbnail(
    original: Row | RowFault, sha256: str | None, policy: FetchPolicy, limits: DecodeLimits
) -> Thumbnail:
    try:
        return Thumbnail(thumbnail_uri(fetch_original(original, sha256, policy), limits))
    except NotTrustedError as fault:
        return Thumbnail(None, f"not allowed; pass {fault.remedy}", fault.remedy)
    except RowFault as fault:
        return Thumbnail(None, fault.reason.value.replace("_", " "))
    except StoreFault:
        return Thumbnail(None, "its store does not answer")


def thumbnail_uri(data: bytes, limits: DecodeLimits) -> str:
    """Returns an encoded image's thumbnail as a data URI.

    Raises:
        RowFault: as `decode_image` does.
    """
    pixels = decode_image(data, [Preprocess(SIDE)], limits).pixels[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"
