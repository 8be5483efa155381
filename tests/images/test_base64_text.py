import base64

import pytest

from making import encode_image, make_image
from pipelines.images import base64_text
from pipelines.images.base64_text import (
    DamagedBase64Error,
    base64_image,
    decoded,
    is_base64,
    is_beginning,
)

IMAGE = encode_image(make_image(40, 40))
TEXT = base64.b64encode(IMAGE).decode()
KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip("="),
        base64.urlsafe_b64encode(IMAGE).decode(),
        base64.encodebytes(IMAGE).decode(),
        base64.encodebytes(IMAGE).decode().replace("\n", "\r\n"),
        f"data:image/png;base64,{TEXT}",
        f"  DATA:image/png;charset=utf-8;BASE64,{TEXT}\n",
        f"data:;base64,{TEXT}",
        f"data:image/png;base64,{TEXT.replace('+', '%2B').replace('=', '%3D')}",
        TEXT.encode(),
    ],
    ids=["standard", "unpadded", "url-safe", "lines", "crlf", "uri", "URI", "bare", "%", "bytes"],
)
def test_every_form_gives_the_same_bytes(text):
    assert decoded(text) == IMAGE


@pytest.mark.parametrize("length", range(6))
def test_padding_may_be_left_out_at_every_length(length):
    data = bytes(range(250, 250 + length))
    assert decoded(base64.b64encode(data).decode().rstrip("=")) == data


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images/0001.jpg", "characters beside it"),
        ("https://host/a", "characters beside it"),
        ("ab=cd", "characters beside it"),
        ("ab===", "characters beside it"),
        ("é" * 8, "characters beside it"),
        ("\ud800", "characters beside it"),
        ("abcde", "cut short"),
        ("data:image/svg+xml,%3Csvg%3E", "`;base64`"),
    ],
)
def test_damaged_text_is_refused(text, said):
    with pytest.raises(DamagedBase64Error, match=said):
        decoded(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_long_text_is_told_by_how_it_begins(kind, encode):
    text = encode(encode_image(make_image(90, 90), kind)).decode()
    assert len(text) > 1024
    assert is_base64(text)
    assert is_base64("\n" + text)
    assert is_beginning(text[:100])


@pytest.mark.parametrize(
    "reference",
    [
        "abcd",
        "images/0001",
        TEXT[:1024],  # as long as a path may be
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBD",
        "/9j/" * 300 + ".jpg",
        "images/" + "a" * 2000,
        "https://host/" + TEXT * 2,
        "gs://bucket/" + TEXT * 2,
        "data/0001.png",
        "data:0001.png",
        "",
    ],
    ids=lambda text: text[:24],
)
def test_no_path_and_no_url_is_taken_for_base64(reference):
    assert not is_base64(reference)


def test_too_long_a_text_is_not_decoded(monkeypatch):
    monkeypatch.setattr(base64_text, "MAX_BASE64_CHARS", 1000)
    assert base64_image(TEXT[:1000]).data is not None
    found = base64_image(TEXT[:1001])
    assert found.is_too_long and found.data is None
    assert found.shown == TEXT[:100]


def test_the_largest_image_fits_with_its_line_breaks():
    lines = base64_text.MAX_IMAGE_BYTES / 48
    assert lines * 66 < base64_text.MAX_BASE64_CHARS
