"""Raster helpers that the styles share. Pictures are float32 (side, side, 3), masks (side, side), in 0..1."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ucdr_ray.drawings.shapes import Part, Points

Array = NDArray[np.float32]
Palette = dict[str, Array]
LUMINANCE = np.array([0.3, 0.59, 0.11], dtype=np.float32)


def palette(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Palette:
    """Random colours for each slot and for ``ground`` and ``sky``, which contrast with ``main``.

    Hues are uniform whatever the object, so that colour says nothing about the class.
    """

    def colour(hue: float) -> Array:
        hsv = hue % 1, rng.uniform(*saturation), rng.uniform(*value)
        return np.array(colorsys.hsv_to_rgb(*hsv), dtype=np.float32)

    hue = rng.uniform()
    colours = {
        "main": colour(hue),
        "second": colour(hue + rng.normal(0, 0.15)),
        "accent": colour(hue + rng.uniform(0.3, 0.7)),
        "dark": colour(rng.uniform()) * np.float32(0.2),
        "light": 1 - (1 - colour(rng.uniform())) * np.float32(0.25),
    }
    lum = colours["main"] @ LUMINANCE
    away = rng.uniform(0.3, 0.55)
    dark = bool(lum > 0.7 or (lum > 0.5 and rng.random() < 0.5))
    for place in ("ground", "sky"):
        wanted = np.clip(lum + (-away if dark else away), 0.2, 0.96) + rng.uniform(-0.06, 0.06)
        tint = colour(rng.uniform())
        tint = (tint - tint @ LUMINANCE) * np.float32(rng.uniform(0.1, 0.8))
        colours[place] = np.clip(tint + wanted, 0, 1).astype(np.float32)
    return colours


def noise(rng: np.random.Generator, side: int, cells: tuple[int, int], octaves: int = 4) -> Array:
    """Fractal noise of about mean 0 and deviation 1; ``cells`` (x, y) is its coarsest grid.

    The grids don't depend on ``side``, so a drawing looks the same at every size.
    """
    total = np.zeros((side, side), dtype=np.float32)
    for octave in range(octaves):
        grid = rng.standard_normal((cells[1] * 2**octave + 1, cells[0] * 2**octave + 1)).astype(np.float32)
        total += (
            np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)) * 0.6**octave
        )
    return total


def pixels(points: Points, side: int) -> list[tuple[float, float]]:
    """Unit coordinates as PIL wants them."""
    return [(x, y) for x, y in (points * side - 0.5).tolist()]


def paint(
    pen: ImageDraw.ImageDraw, part: Part, ink: int | tuple[int, ...], side: int, bold: float = 1.0
) -> None:
    """Fill a part's outline, or draw its line."""
    if part.role == "line":
        pen.line(
            pixels(part.points, side), fill=ink, width=max(1, round(part.width * bold * side)), joint="curve"
        )
    else:
        pen.polygon(pixels(part.points, side), fill=ink)


def mask(parts: list[Part], side: int) -> Array:
    """Where any of ``parts`` lies."""
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    for part in parts:
        paint(pen, part, 255, side)
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def ink(colour: Array) -> tuple[int, int, int]:
    """A colour in 0..1 as PIL wants it."""
    red, green, blue = (np.clip(colour, 0, 1) * 255).round().astype(int).tolist()
    return red, green, blue


def shrink(picture: Array, size: int) -> NDArray[np.uint8]:
    """Average down to (size, size, 3) bytes."""
    factor = picture.shape[0] // size
    small = picture.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)
