"""The door for images: what is decoded, how, and what is turned away."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pictures import animation, bad_images, encode, noise, png_header
from ucdr_ray.images import Reject, content_id, decode, prepare, to_array


def first_pixel(data: bytes) -> tuple[int, ...]:
    return decode(data).getpixel((0, 0))


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("1", (4, 4), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (4, 4), 90), "PNG", (90, 90, 90)),
        (Image.new("RGB", (4, 4), (10, 20, 30)), "BMP", (10, 20, 30)),
        (
            Image.new("RGB", (4, 4), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE),
            "PNG",
            (10, 20, 30),
        ),
        (Image.new("LA", (4, 4), (0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (200, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), "PNG", (255, 204, 204)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
        (Image.new("YCbCr", (4, 4), (90, 128, 128)), "TIFF", (90, 90, 90)),
        (Image.fromarray(np.full((4, 4), 0x8080, np.uint16)), "PNG", (128, 128, 128)),
        (Image.fromarray(np.full((4, 4), 0xFFFF, np.uint16)), "TIFF", (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 0x4040, np.uint16)), "PPM", (64, 64, 64)),
    ],
)
def test_every_usual_mode_becomes_the_rgb_that_a_person_sees(image, kind, expected):
    assert first_pixel(encode(image, kind)) == expected


def test_a_cmyk_jpeg_is_not_inverted():
    red = encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    r, g, b = first_pixel(red)
    assert r > 240 and g < 15 and b < 15


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_the_transparent_colour_of_a_palette_becomes_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    decoded = decode(encode(image, kind, transparency=0))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotated_image_comes_out_upright(orientation):
    upright = Image.new("RGB", (48, 32), "black")
    upright.paste("white", (0, 0, 16, 16))  # white in the upper left corner alone
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that each orientation reverses
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, "JPEG", exif=exif.tobytes(), quality=95)
    decoded = decode(data)
    assert decoded.size == (48, 32)
    assert decoded.getpixel((4, 4))[0] > 240
    assert all(decoded.getpixel(corner)[0] < 15 for corner in [(44, 4), (4, 28), (44, 28)])
    assert prepare(data, None).width == 48


def test_an_unreadable_exif_block_costs_nothing_but_the_rotation():
    assert decode(
        encode(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    ).size == (8, 8)


@pytest.mark.parametrize(("word", "data"), bad_images().items())
def test_each_bad_kind_is_turned_away_with_its_reason(word, data):
    with pytest.raises(Reject) as caught:
        prepare(data, None)
    assert word in caught.value.reason
    assert "\n" not in caught.value.reason and "0x" not in caught.value.reason


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_of_all_formats_are_turned_away(kind):
    with pytest.raises(Reject, match="2 frames"):
        decode(animation(kind))


def test_a_still_gif_and_a_still_webp_are_images():
    for kind in ("GIF", "WEBP"):
        assert decode(noise(1, 8, 8, kind)).size == (8, 8)


def test_the_pixel_limit_is_read_from_the_header():
    data = noise(1, 20, 10)
    assert decode(data, max_pixels=200).size == (20, 10)
    with pytest.raises(Reject, match="20 x 10 is over 199"):
        decode(data, max_pixels=199)
    # Over Pillow's own limit, and far over memory, were it decoded.
    with pytest.raises(Reject, match="too many pixels"):
        decode(png_header(2**31 - 1, 2**31 - 1))


def test_formats_that_start_other_programs_are_not_opened():
    with pytest.raises(Reject, match="not an image"):
        decode(encode(Image.new("RGB", (8, 8)), "EPS"))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_reject(data):
    for prefix in (
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"RIFF\0\0\1\0WEBPVP8 ",
        b"P5 ",
        b"II*\0",
    ):
        with pytest.raises(Reject):
            raise Reject(f"decoded to {decode(prefix + data).size}")


@settings(max_examples=150)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.data())
def test_damaged_images_are_decoded_or_rejected(kind, data):
    encoded = bytearray(noise(3, 24, 24, kind))
    for position in data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=8)):
        encoded[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Reject):
        assert decode(bytes(encoded), max_pixels=10**6).mode == "RGB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncation_anywhere_in_the_first_nine_tenths_is_noticed(kind):
    data = noise(4, 40, 40, kind)
    for tenths in range(10):
        with pytest.raises(Reject):
            decode(data[: len(data) * tenths // 10])


def test_squash_is_pillows_bilinear_resize_to_the_square():
    data = noise(5, 50, 30)
    expected = np.asarray(decode(data).resize((16, 16), Image.Resampling.BILINEAR))
    array = to_array(data, 16)
    assert array.dtype == np.uint8 and array.shape == (3, 16, 16) and array.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(array, expected.transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(50, 30), (30, 50), (32, 32), (1, 300), (300, 1)])
def test_crop_is_square_and_centred(width, height):
    columns = np.linspace(0, 255, width).round().astype(np.uint8)
    image = Image.fromarray(np.repeat(np.tile(columns, (height, 1))[:, :, None], 3, axis=2))
    array = to_array(encode(image), 28, "crop")
    assert array.shape == (3, 28, 28)
    if width > 1:
        assert abs(float(array.mean()) - 127.5) < 255 / 28  # symmetric about the middle, to a pixel


def test_an_image_that_fits_keeps_its_bytes():
    data = noise(6, 20, 10)
    stored = prepare(data, 20)
    assert (stored.data, stored.width, stored.height) == (data, 20, 10)


@pytest.mark.parametrize(
    ("kind", "shrunk"), [("JPEG", "JPEG"), ("WEBP", "JPEG"), ("PNG", "PNG"), ("BMP", "PNG")]
)
def test_shrinking_keeps_the_shape_and_the_picture(kind, shrunk):
    gradient = Image.linear_gradient("L").resize((400, 200)).convert("RGB")
    stored = prepare(encode(gradient, kind), 40)
    small = decode(stored.data)
    assert (stored.width, stored.height) == small.size == (40, 20)
    assert stored.data[1:4] == b"PNG" if shrunk == "PNG" else stored.data[:2] == b"\xff\xd8"
    expected = gradient.resize((40, 20), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).mean() < 3


def test_a_shrunk_rotated_photo_is_stored_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = prepare(encode(Image.new("RGB", (300, 100)), "JPEG", exif=exif.tobytes()), 30)
    assert (stored.width, stored.height) == (10, 30) == decode(stored.data).size


def test_ids_are_of_the_content():
    assert content_id(b"a") == content_id(b"a") != content_id(b"b")
    assert len(content_id(b"")) == 32
