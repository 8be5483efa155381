import io

import numpy as np
import pytest
from PIL import Image

from clip_core.config import OPENAI_MEAN, OPENAI_STD, ConfigError, Resizing
from clip_core.preprocess import POLICIES, RESAMPLINGS, Preprocess, resized_size
from making import encode_image, make_image


def test_pixels_equal_the_golden_ones(golden):
    names = [path.name for path in (golden / "images").iterdir() if path.name[:4] != "bad_"]
    for name in names:
        pixels = Preprocess(224).to_pixels(Image.open(golden / "images" / name))
        expected = np.asarray(Image.open(golden / "pixels" / f"{name}.png"))
        assert (pixels.transpose(1, 2, 0) == expected).all(), name
    assert len(names) == 14


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (298, 224)),  # 298.67 is cut, not rounded
        ((480, 640), (224, 298)),
        ((224, 224), (224, 224)),
        ((1, 1), (224, 224)),
        ((3, 2000), (224, 149333)),
    ],
)
def test_shorter_side_is_resized_and_the_longer_cut(size, expected):
    assert resized_size(*size, 224) == expected


@pytest.mark.parametrize(("margin", "left"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_half_crop_offset_is_rounded_to_even(margin, left):
    image = make_image(64 + margin, 64)
    expected = np.asarray(image)[:, left : left + 64].transpose(2, 0, 1)
    assert (Preprocess(64).to_pixels(image) == expected).all()


def test_picture_of_the_right_size_is_not_resampled():
    image = make_image(64, 64)
    assert (Preprocess(64).to_pixels(image).transpose(1, 2, 0) == np.asarray(image)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_every_mode_gives_three_channels(mode):
    image = (
        make_image(mode="L").convert("I").convert(mode) if mode == "I;16" else make_image(mode=mode)
    )
    pixels = Preprocess(32).to_pixels(image)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]


def test_palette_is_resized_before_the_conversion():
    image = make_image(mode="P")
    converted_first = Preprocess(32).to_pixels(image.convert("RGB"))
    assert (Preprocess(32).to_pixels(image) != converted_first).any()


def test_exif_orientation_is_ignored():
    image, buffer = make_image(80, 60), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, "PNG", exif=exif)
    turned = Image.open(buffer)
    assert (Preprocess(32).to_pixels(turned) == Preprocess(32).to_pixels(image)).all()


def test_normalize_scales_then_standardises():
    pixels = np.full((1, 3, 2, 2), 255, np.uint8)
    expected = (1 - np.array(OPENAI_MEAN)) / np.array(OPENAI_STD)
    found = Preprocess(2).normalize(pixels)
    assert found.dtype == np.float32
    assert np.allclose(found[0, :, 0, 0], expected, atol=1e-6)


def test_identity_names_all_that_decides_the_pixels():
    ways = [
        Preprocess(64),
        Preprocess(65),
        Preprocess(64, mean=(0.5, 0.5, 0.5)),
        *(Preprocess(64, policy=policy) for policy in POLICIES[1:]),
        *(Preprocess(64, resampling=resampling) for resampling in RESAMPLINGS[1:]),
        Preprocess(64, resizing=Resizing("squash")),
        Preprocess(64, resizing=Resizing("longest")),
        Preprocess(64, resizing=Resizing("longest", fill=255)),
        Preprocess(64, resizing=Resizing(interpolation="bilinear")),
        Preprocess(64, resampling="near", resizing=Resizing(interpolation="bilinear")),
    ]
    assert len({way.identity for way in ways}) == len(ways)
    statistics = f"mean {OPENAI_MEAN} std {OPENAI_STD}"  # runs made before resizing had a name
    assert Preprocess(64).identity == f"openai-order bicubic 64 {statistics}"


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("squash", (640, 480), (224, 224)),
        ("longest", (640, 480), (224, 168)),
        ("longest", (333, 501), (149, 224)),  # 148.89 is rounded
        ("longest", (2000, 3), (224, 1)),  # and never to nothing
        ("shortest", (640, 480), (298, 224)),
    ],
)
def test_modes_of_resizing_have_sizes_of_their_own(mode, size, expected):
    assert Preprocess(224, resizing=Resizing(mode)).resized_size(*size) == expected


def test_longest_side_pads_evenly_and_the_odd_line_last():
    """Stated with NumPy: a black image on grey, of an odd number of lines less than the square."""
    image = Image.new("RGB", (64, 59))
    found = Preprocess(64, resizing=Resizing("longest", fill=127)).to_pixels(image)
    expected = np.full((3, 64, 64), 127, np.uint8)
    expected[:, 2:61] = 0
    assert (found == expected).all()


@pytest.mark.parametrize("mode", ["squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resampling", ["near", "fast"])
def test_faster_resampling_follows_each_mode(mode, interpolation, resampling):
    image, resizing = make_image(300, 170), Resizing(mode, interpolation, 9)
    exact = Preprocess(32, resizing=resizing).to_pixels(image)
    found = Preprocess(32, resampling=resampling, resizing=resizing).to_pixels(image)
    assert np.abs(exact.astype(int) - found).max() <= 3


@pytest.mark.parametrize(("margin", "left"), [(1, 0), (3, 1), (5, 2), (7, 3)])
def test_hugging_face_cuts_half_pixels_off(margin, left):
    image = make_image(64 + margin, 64)
    expected = np.asarray(image)[:, left : left + 64].transpose(2, 0, 1)
    assert (Preprocess(64, policy="hugging_face").to_pixels(image) == expected).all()


def test_hugging_face_lays_transparency_on_white():
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert (Preprocess(32, policy="hugging_face").to_pixels(image) == 255).all()
    assert (Preprocess(32, policy="rgb_first").to_pixels(image) == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "crop"}, "`resize_mode` must be one of shortest, squash, longest, got 'crop'"),
        ({"interpolation": "nearest"}, "`interpolation` must be one of bicubic, bilinear"),
        ({"fill": 256}, "`fill_color` must be an int from 0 to 255, got 256"),
        ({"fill": [1, 2, 3]}, r"`fill_color` must be an int from 0 to 255, got \[1, 2, 3\]"),
    ],
)
def test_unknown_resizing_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Resizing(**settings)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "LA", "1"])
def test_rgb_first_converts_before_it_resizes(mode):
    image = make_image(90, 70, mode)
    found = Preprocess(32, policy="rgb_first").to_pixels(image)
    assert (found == Preprocess(32).to_pixels(image.convert("RGB"))).all()


def test_policies_agree_on_rgb_pictures_and_have_names_of_their_own():
    image = make_image(90, 70)
    first = Preprocess(32, policy="rgb_first")
    assert (first.to_pixels(image) == Preprocess(32).to_pixels(image)).all()
    assert first.identity != Preprocess(32).identity
    with pytest.raises(ValueError, match="one of openai, rgb_first, hugging_face, got 'bgr'"):
        Preprocess(32, policy="bgr")


@pytest.mark.parametrize("size", [(300, 200), (64, 300), (33, 40), (500, 333), (32, 32)])
def test_near_resampling_is_within_a_few_grey_levels(size):
    image = make_image(*size)
    exact, near = (Preprocess(32, resampling=r).to_pixels(image) for r in ("exact", "near"))
    difference = np.abs(exact.astype(int) - near)
    assert near.shape == (3, 32, 32) and near.flags.c_contiguous
    assert difference.max() <= 3 and (difference > 0).mean() < 0.3


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "L", "1", "I;16"])
def test_pictures_that_are_not_rgb_are_resized_exactly(mode):
    image = (
        make_image(90, 70).convert("I").convert("I;16")
        if mode == "I;16"
        else make_image(90, 70, mode)
    )
    for resampling in ("near", "fast"):
        found = Preprocess(32, resampling=resampling).to_pixels(image)
        assert (found == Preprocess(32).to_pixels(image)).all()


def test_fast_resampling_lets_the_jpeg_decoder_halve():
    smooth = make_image(640, 480).resize((64, 48)).resize((640, 480), Image.Resampling.BICUBIC)
    data = encode_image(smooth, "JPEG", quality=95)
    exact = Preprocess(32).to_pixels(Image.open(io.BytesIO(data)))
    halved = Image.open(io.BytesIO(data))
    fast = Preprocess(32, resampling="fast").to_pixels(halved)
    assert halved.size == (80, 60)
    assert np.abs(exact.astype(int) - fast).mean() < 8


def test_resampling_is_part_of_the_identity():
    assert len({Preprocess(32, resampling=r).identity for r in ("exact", "near", "fast")}) == 3
    with pytest.raises(
        ValueError, match="`resampling` must be one of exact, near, fast, got 'draft'"
    ):
        Preprocess(32, resampling="draft")
