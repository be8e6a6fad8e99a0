"""Encoded bytes to pixels, or ``Reject(reason)``: the only door for untrusted images."""

import hashlib
import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

DEFAULT_MAX_PIXELS = 64_000_000
Resize = Literal["squash", "crop"]

# Formats are an allow list because Pillow also opens ones that start other programs (EPS) or hold many things (PSD).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_SHOWN = ("JPEG", "PNG", "WEBP", "GIF")
_LOSSY = {"JPEG", "MPO", "WEBP"}
_STRIP = 512  # rows whose colours are made at once
_SIXTEEN_BIT = {"I;16", "I;16L", "I;16B", "I;16N"}
_READABLE = {
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "CMYK",
    "YCbCr",
    "HSV",
    "I",
    *_SIXTEEN_BIT,
}

# `_open` holds the header against the caller's own limit before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False


# Reasons that lie with the machine, not with the image: it is tried again.
UNREADABLE, OUT_OF_MEMORY = "unreadable file", "too large to decode in memory"


class Reject(Exception):
    """An input that is not a usable image; ``reason`` is one short line for the rejects table."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Stored:
    """An image as a catalog keeps it: encoded bytes, and the size in pixels at which ``decode`` shows them."""

    data: bytes
    width: int
    height: int


def decode(data: bytes, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode one still image to RGB: upright by its EXIF tag, alpha over white, 16-bit grey scaled to 8.

    ``max_pixels`` None is for images of a catalog alone: ingest has held them against its own limit. Colour profiles
    are ignored, as everywhere in this field. Raises only ``Reject``, whatever ``data`` holds.
    """
    return _pixels(_open(data, max_pixels))


def to_array(
    data: bytes, size: int, resize: Resize = "squash", max_pixels: int | None = DEFAULT_MAX_PIXELS
) -> np.ndarray:
    """Decode and resize to uint8 ``(3, size, size)``, channels RGB, values 0..255.

    ``squash`` resizes (Pillow, bilinear) straight to the square; ``crop`` brings the short side to
    ``round(size * 256 / 224)`` and cuts the centre. Raises ``Reject``.
    """
    image = decode(data, max_pixels)
    if resize == "squash":
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    else:
        scale = round(size * 256 / 224) / min(image.size)
        shape = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
        image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def prepare(data: bytes, max_side: int | None, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> Stored:
    """Check an image by decoding it whole, and shrink it where its longer side exceeds ``max_side``.

    An image that already fits keeps its own bytes. A shrunk one is JPEG (quality 95, full colour) where the
    original was lossy, else PNG. Raises ``Reject``.
    """
    opened = _open(data, max_pixels)
    if max_side is None or max(opened.size) <= max_side:
        image = _pixels(opened)
        return Stored(data, image.width, image.height)
    lossy = opened.format in _LOSSY
    if opened.format == "JPEG":
        # The JPEG decoder halves for nothing; stopping at twice the target leaves the filter enough to work on.
        scale = 2 * max_side / max(opened.size)
        opened.draft(None, (max(1, round(opened.width * scale)), max(1, round(opened.height * scale))))
    image = _pixels(opened)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if lossy:
        image.save(out, "JPEG", quality=95, subsampling=0)
    else:
        image.save(out, "PNG")
    return Stored(out.getvalue(), image.width, image.height)


def shown(data: bytes) -> tuple[bytes, str]:
    """A checked image as browsers show it, and its media type: its own bytes where they can, else as PNG."""
    image = _open(data, None)
    if image.format in _SHOWN:
        return data, f"image/{image.format.lower()}"
    out = io.BytesIO()
    _pixels(image).save(out, "PNG")
    return out.getvalue(), "image/png"


def content_id(data: bytes) -> str:
    """The first 128 bits of the SHA-256 of the encoded bytes, as 32 hex characters."""
    return hashlib.sha256(data).hexdigest()[:32]


def _open(data: bytes, max_pixels: int | None) -> ImageFile.ImageFile:
    if not data:
        raise Reject("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise Reject(f"not an image of a known kind ({', '.join(_FORMATS)})") from None
    except Exception as error:  # Pillow's parsers raise nearly every built-in error on hostile bytes.
        raise Reject(f"damaged header: {type(error).__name__}") from None
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise Reject(f"too many pixels: {image.width} x {image.height} is over {max_pixels}")
    try:
        # A phone's MPO carries previews or depth maps after the photo; the photo is the first frame.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception as error:
        raise Reject(f"damaged header: {type(error).__name__}") from None
    if frames > 1:
        raise Reject(f"animated or of many pages: {frames} frames")
    if image.mode not in _READABLE or (image.mode == "I" and image.format == "TIFF"):
        raise Reject(f"unreadable mode {image.mode} ({image.format})")
    return image


def _pixels(image: ImageFile.ImageFile) -> Image.Image:
    try:
        image.load()
    except MemoryError:
        raise Reject(OUT_OF_MEMORY) from None
    except Exception as error:
        reason = "truncated" if "truncated" in str(error) else f"damaged: {type(error).__name__}"
        raise Reject(f"{reason} {image.format} data") from None
    try:
        return _upright(_to_rgb(image), image)
    except Exception as error:
        raise Reject(f"cannot be shown as RGB (mode {image.mode}): {type(error).__name__}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    plain = image.mode in {"1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB"}
    if (plain and "transparency" not in image.info) or image.height <= _STRIP:
        return _strip_to_rgb(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):  # what follows takes up to 20 bytes a pixel
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        whole.paste(_strip_to_rgb(strip), (0, top))
    return whole


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode in _SIXTEEN_BIT:
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[grey == clear] = 65535
        return Image.fromarray((grey / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        if image.mode == "RGBa":
            image = image.convert("RGBA")
        elif image.mode == "La":
            image = image.convert("LA")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Turn by the EXIF orientation of ``opened``; an EXIF block that can't be read turns nothing."""
    try:
        turn = opened.getexif().get(0x0112, 1)
    except Exception:
        return image
    methods = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(methods[turn]) if turn in methods else image
