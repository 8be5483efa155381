"""Formats that phones and the web use now: decoded, or named; and images that are stored turned."""

import gzip
import io
import struct

import numpy as np
import pytest
from PIL import Image

from clip_core.preprocess import Preprocess
from making import encode_image, make_image
from pipelines.images import decode
from pipelines.images.decode import DecodeLimits, decode_image
from pipelines.images.decode_pool import DecodeWorkers
from pipelines.records import RowFault
from schemas.rejects import Reason

PREPROCESS, LIMITS, APPLY = Preprocess(32), DecodeLimits(), DecodeLimits(apply_orientation=True)


def brands(major, *others):
    body = b"ftyp" + major + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", 4 + len(body)) + body + b"\0" * 64


def fault_of(data, limits=LIMITS):
    with pytest.raises(RowFault) as fault:
        decode_image(data, [PREPROCESS], limits)
    return fault.value


def test_avif_is_decoded():
    image = make_image(90, 50)
    found = decode_image(
        encode_image(image, "AVIF", quality=100, subsampling="4:4:4"), [PREPROCESS], LIMITS
    )
    assert (found.original_width, found.original_height) == (90, 50)
    assert np.abs(found.pixels[0].astype(int) - PREPROCESS.to_pixels(image)).max() < 12


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
FOREIGN = [
    (brands(b"heic", b"mif1", b"heic"), "HEIC"),
    (brands(b"mif1", b"mif1", b"heic"), "HEIC"),
    (brands(b"heix"), "HEIC"),
    (brands(b"msf1", b"hevc"), "HEIC"),
    (brands(b"mif1", b"miaf"), "HEIF"),
    (b"\xff\x0a" + b"\0" * 40, "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 40, "JPEG XL"),
    (b"II\xbc\x01" + b"\0" * 40, "JPEG XR"),
    (SVG, "SVG"),
    (b"\xef\xbb\xbf \n<?xml version='1.0'?>\n<!-- made by > hand --><svg:svg/>", "SVG"),
    (b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" [<!ENTITY a "b">]>\n' + SVG, "SVG"),
    (SVG.decode().encode("utf-16"), "SVG"),
    (b"%PDF-1.7\n", "PDF"),
    (b"\n\n%PDF-1.4\n", "PDF"),
    (brands(b"isom", b"avc1"), "MP4 or QuickTime video"),
    (brands(b"qt  "), "MP4 or QuickTime video"),
    (brands(b"crx "), "Canon CR3"),
    (b"\x1aE\xdf\xa3" + b"\0" * 40, "Matroska or WebM video"),
    (b"RIFF\0\0\0\0AVI LIST", "AVI video"),
    (b"OggS\0", "Ogg video"),
    (b"FLV\x01", "Flash video"),
    ((b"G" + b"\0" * 187) * 3, "MPEG video"),
    (b"8BPS\0\1" + b"\0" * 40, "PSD"),
]


@pytest.mark.parametrize(
    ("data", "name"), FOREIGN, ids=[f"{n}-{name}" for n, (_, name) in enumerate(FOREIGN)]
)
def test_what_is_not_decoded_is_rejected_by_its_name(monkeypatch, data, name):
    monkeypatch.setattr(decode, "_heif_formats", lambda: ())
    fault = fault_of(data)
    assert fault.reason is Reason.UNSUPPORTED_FORMAT
    assert fault.detail.startswith(f"begins like {name}; expected ")
    assert ("clip-beam[heif]" in fault.detail) == (name == "HEIC")


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>404</body></html>",
        b"<html><body>" + SVG + b"</body></html>",
        b"<!-- svg --><html></html>",
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b"<svgx/>",
        b'{"error": "not found"}',
        gzip.compress(SVG, mtime=0),
        b"G" + b"\0" * 600,
        b"<!--" * 2000,
        b"<!DOCTYPE svg " + b"[]" * 2000,
    ],
)
def test_pages_and_errors_are_no_images(data):
    assert fault_of(data).reason is Reason.NOT_AN_IMAGE


def test_heic_is_decoded_where_the_extra_is_installed():
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = make_image(90, 50)
    found = decode_image(encode_image(image, "HEIF", quality=100, chroma=444), [PREPROCESS], LIMITS)
    assert (found.original_width, found.original_height) == (90, 50)
    assert np.abs(found.pixels[0].astype(int) - PREPROCESS.to_pixels(image)).max() < 12


STORED = {  # how an image is stored that is to be looked at upright
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_orientation_is_applied_on_demand(orientation, kind):
    upright = make_image(96, 64)
    method = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(
        kind, {}
    )
    stored = upright.transpose(method) if method is not None else upright
    data = encode_image(stored, kind, exif=exif, **settings)
    found = decode_image(data, [PREPROCESS], APPLY)
    assert (found.original_width, found.original_height) == (96, 64)
    difference = found.pixels[0].astype(int) - PREPROCESS.to_pixels(upright)
    assert np.abs(difference).max() <= (4 if kind == "JPEG" else 0)


def test_fast_decoding_turns_too():
    upright, exif = make_image(960, 640), Image.Exif()
    exif[0x0112] = 6
    data = encode_image(upright.transpose(STORED[6]), "JPEG", exif=exif, quality=95)
    found = decode_image(data, [Preprocess(64, resampling="fast")], APPLY)
    expected = Preprocess(64).to_pixels(upright)
    assert np.abs(found.pixels[0].astype(int) - expected).mean() < 3


def test_orientation_is_ignored_by_default_as_the_original_does():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = make_image(96, 64)
    found = decode_image(encode_image(image, "PNG", exif=exif), [PREPROCESS], LIMITS)
    assert (found.pixels[0] == PREPROCESS.to_pixels(image)).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0" + b"\xff" * 40]
)
def test_damaged_exif_costs_no_row(exif):
    image = make_image(96, 64)
    data = encode_image(image, "PNG", exif=exif)
    assert (decode_image(data, [PREPROCESS], APPLY).pixels[0] == PREPROCESS.to_pixels(image)).all()


def test_processes_decode_avif_and_turn_too():
    exif = Image.Exif()
    exif[0x0112] = 8
    buffer = io.BytesIO()
    make_image(64, 96).save(buffer, "AVIF", exif=exif)
    workers = DecodeWorkers([PREPROCESS], APPLY)
    try:
        found = workers.decode(buffer.getvalue())
    finally:
        workers.close()
    assert (found.original_width, found.original_height) == (96, 64)


def test_avif_that_is_cut_is_told_from_one_that_is_broken():
    data = encode_image(make_image(200, 200), "AVIF")
    for share in (0.1, 0.3, 0.6, 0.9, 0.999):
        assert fault_of(data[: int(len(data) * share)]).reason is Reason.TRUNCATED_IMAGE
    broken = data[:60] + b"\xff" * 40 + data[100:]
    assert fault_of(broken).reason in (Reason.DECODE_FAILED, Reason.TRUNCATED_IMAGE)
