import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFile

from clip_core.config import Resizing
from clip_core.preprocess import Preprocess
from making import encode_image, make_image
from pipelines.images.decode import DecodeLimits, decode_image
from pipelines.records import RowFault
from schemas.rejects import Reason
from torture_images import png

PREPROCESS, LIMITS = Preprocess(32), DecodeLimits()


def fault_of(data, preprocess=PREPROCESS, limits=LIMITS):
    with pytest.raises(RowFault) as fault:
        decode_image(data, [preprocess], limits)
    assert fault.value.stage == "decode"
    return fault.value


def test_golden_images_decode_equal_or_are_refused(golden):
    reasons = {}
    for path in sorted((golden / "images").iterdir()):
        try:
            found = decode_image(path.read_bytes(), [Preprocess(224)], LIMITS)
        except RowFault as fault:
            reasons[path.name] = fault.reason
        else:
            expected = np.asarray(Image.open(golden / "pixels" / f"{path.name}.png"))
            assert (found.pixels[0].transpose(1, 2, 0) == expected).all(), path.name
    assert reasons == {
        "bad_bomb.png": Reason.TOO_MANY_PIXELS,
        "bad_html.jpg": Reason.NOT_AN_IMAGE,
        "bad_truncated.jpg": Reason.TRUNCATED_IMAGE,
    }


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_allowed_format_is_decoded(kind):
    found = decode_image(encode_image(make_image(90, 50), kind), [PREPROCESS], LIMITS)
    assert found.pixels[0].shape == (3, 32, 32)
    assert (found.original_width, found.original_height) == (90, 50)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("resampling", ["exact", "near"])
def test_pixels_for_several_models_are_those_for_each_alone(kind, resampling):
    data = encode_image(make_image(301, 203), kind)
    preprocesses = [Preprocess(size, resampling=resampling) for size in (32, 96, 32, 48)]
    together = decode_image(data, preprocesses, LIMITS)
    for preprocess, pixels in zip(preprocesses, together.pixels, strict=True):
        assert (pixels == decode_image(data, [preprocess], LIMITS).pixels[0]).all()
    assert together.pixels[0] is together.pixels[2]


def test_fast_pixels_for_several_models_are_cut_alike_and_near_the_exact_ones():
    """The decoder halves for the largest model, which the smaller ones gain by."""
    data = encode_image(make_image(901, 603), "JPEG", quality=95)
    sizes = (64, 224)
    fast = decode_image(data, [Preprocess(s, resampling="fast") for s in sizes], LIMITS)
    exact = decode_image(data, [Preprocess(s) for s in sizes], LIMITS)
    for found, expected in zip(fast.pixels, exact.pixels, strict=True):
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 3
    assert (fast.original_width, fast.original_height) == (901, 603)


def test_decoder_halves_no_further_than_each_way_of_resizing_allows():
    """The largest square is not the one that needs the most of a long image."""
    data = encode_image(make_image(1600, 400), "JPEG", quality=95)
    models = [Preprocess(100, resizing=Resizing("longest")), Preprocess(64)]
    fast = decode_image(data, [replace(m, resampling="fast") for m in models], LIMITS)
    exact = decode_image(data, models, LIMITS)
    for found, expected in zip(fast.pixels, exact.pixels, strict=True):
        assert np.abs(found.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("mode", ["squash", "longest"])
def test_no_image_is_too_long_to_be_squashed_or_padded(mode):
    data, limits = encode_image(make_image(2, 3000)), DecodeLimits(max_resized_pixels=32 * 32)
    preprocess = Preprocess(32, resizing=Resizing(mode))
    assert decode_image(data, [preprocess], limits).pixels[0].shape == (3, 32, 32)


def test_picture_too_long_for_the_largest_model_is_refused():
    data = encode_image(make_image(2, 3000))
    limits = DecodeLimits(max_resized_pixels=32 * 48_000)
    assert decode_image(data, [Preprocess(32)], limits).pixels[0].shape == (3, 32, 32)
    with pytest.raises(RowFault) as fault:
        decode_image(data, [Preprocess(32), Preprocess(64)], limits)
    assert fault.value.reason is Reason.EXTREME_ASPECT


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"\0" * 100, b"GIF", bytes(range(256))])
def test_what_is_no_image_is_refused(data):
    assert fault_of(data).reason is Reason.NOT_AN_IMAGE


def test_format_outside_the_allowlist_is_named():
    fault = fault_of(encode_image(make_image(), "ICO"))
    assert fault.reason is Reason.UNSUPPORTED_FORMAT
    assert fault.detail.startswith("begins like ICO")


def test_format_outside_the_allowlist_is_never_parsed(monkeypatch):
    def opener(data, name):
        pytest.fail("was parsed")

    data = encode_image(make_image(), "ICO")
    Image.init()
    monkeypatch.setitem(Image.OPEN, "ICO", (opener, Image.OPEN["ICO"][1]))
    assert fault_of(data).reason is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_every_short_beginning_is_refused(name):
    data = encode_image(make_image(), name)
    for length in range(17):
        assert fault_of(data[:length]).detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_cut_image_is_refused(kind, share):
    data = encode_image(make_image(200, 200), kind)
    assert fault_of(data[: int(len(data) * share)]).reason in (
        Reason.TRUNCATED_IMAGE,
        Reason.DECODE_FAILED,
    )


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((60_000, 60_000), Reason.TOO_MANY_PIXELS),
        ((13_000, 13_000), Reason.TOO_MANY_PIXELS),
        ((10_000, 9_000), Reason.TOO_MANY_PIXELS),
        ((1, 5_000), Reason.EXTREME_ASPECT),
        ((1, 60_000), Reason.EXTREME_ASPECT),
        ((60_000, 1), Reason.EXTREME_ASPECT),
    ],
)
def test_bomb_is_refused_before_it_is_decoded(size, reason, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("was decoded"))
    assert fault_of(png(*size), Preprocess(224)).reason is reason


@pytest.mark.filterwarnings("error")
def test_bomb_is_named_where_warnings_are_errors():
    assert fault_of(png(10_000, 9_000)).reason is Reason.TOO_MANY_PIXELS


def test_bit_flips_and_cuts_never_raise_anything_else():
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        whole = encode_image(make_image(40, 30), kind)
        for _ in range(60):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
            try:
                decode_image(bytes(data), [PREPROCESS], LIMITS)
            except RowFault as fault:
                assert "0x" not in fault.detail


def test_first_frame_of_an_animation_counts():
    frames = [make_image(64, 64, seed=n).quantize() for n in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    expected = PREPROCESS.to_pixels(Image.open(io.BytesIO(buffer.getvalue())))
    assert (decode_image(buffer.getvalue(), [PREPROCESS], LIMITS).pixels[0] == expected).all()


DEEP = {
    "I;16": np.full((40, 40), 1000, np.uint16),
    "I": np.full((40, 40), 1000, np.int32),
    "F": np.full((40, 40), 0.5, np.float32),
}


@pytest.mark.parametrize("mode", DEEP)
def test_deep_pixels_are_clipped_as_the_original_does_or_rejected(mode):
    data = encode_image(Image.fromarray(DEEP[mode]), "TIFF")
    expected = 0 if mode == "F" else 255
    assert (decode_image(data, [PREPROCESS], LIMITS).pixels[0] == expected).all()
    fault = fault_of(data, limits=DecodeLimits(reject_deep=True))
    assert fault.reason is Reason.DEEP_PIXELS and mode in fault.detail


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pixels_of_eight_bits_are_never_deep(mode):
    data = encode_image(make_image(mode="RGB").convert(mode))
    decode_image(data, [PREPROCESS], DecodeLimits(reject_deep=True))


def test_pillow_told_to_accept_cut_images_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES to be False"):
        decode_image(b"", [PREPROCESS], LIMITS)
