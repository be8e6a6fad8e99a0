"""Painting: brush strokes, coarse then fine, that follow the shapes, on canvas with a relief of paint.

After Hertzmann, "Painterly rendering with curved brush strokes of multiple sizes" (SIGGRAPH 1998), with straight
strokes.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from ucdr_ray.drawings.canvas import (
    LUMINANCE,
    Array,
    Palette,
    ink,
    mask,
    noise,
    paint,
    palette,
    pixels,
    shrink,
)
from ucdr_ray.drawings.scene import Scene


def _motif(scene: Scene, side: int, colours: Palette, rng: np.random.Generator) -> Array:
    """What is painted: flat colours with broad patches of light."""
    rows = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    below = np.clip((rows - scene.horizon) * 4 + 0.5, 0, 1)
    ground = np.repeat(colours["sky"] + (colours["ground"] - colours["sky"]) * below, side, axis=1)
    image = Image.fromarray((np.clip(ground, 0, 1) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for part in scene.clutter:
        paint(pen, part, ink(colours[part.colour] * 0.5 + colours["ground"] * 0.5), side)
    outlined = rng.random() < 0.4
    for part in scene.parts:
        paint(pen, part, ink(colours[part.colour]), side, 1.3)
        if outlined and part.role == "body":
            closed = pixels(np.concatenate([part.points, part.points[:2]]), side)
            pen.line(closed, fill=ink(colours["dark"]), width=max(1, round(0.03 * side)))
    light = noise(rng, side, (2, 2), 3) * np.float32(rng.uniform(0.02, 0.07))
    return np.asarray(image, dtype=np.float32) / 255 * (1 + light[..., None])


def _flow(motif: Array, side: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Stroke angle at each pixel, along the edges near them, else as a slow field has it; and how much edge it is."""
    down, right = np.gradient(gaussian_filter(motif @ LUMINANCE, 0.015 * side, truncate=2.0))
    drift = rng.uniform(0, np.pi) + 0.7 * noise(rng, side, (2, 2), 2)
    edge = np.hypot(down, right) * side
    return np.where(edge > 0.8, np.arctan2(right, -down), drift).astype(np.float32), edge


def _spots(rng: np.random.Generator, weight: Array, count: int) -> NDArray[np.intp]:
    """``count`` pixel numbers, drawn with probability proportional to ``weight``."""
    total = np.cumsum(weight.ravel(), dtype=np.float64)
    return np.searchsorted(total, rng.uniform(0, total[-1], count)).clip(max=weight.size - 1)


def _layer(
    pens: tuple[ImageDraw.ImageDraw, ImageDraw.ImageDraw],
    ends: NDArray[np.float64],
    colours: NDArray[np.float64],
    width: int,
    rng: np.random.Generator,
) -> None:
    """Lay strokes (x0, y0, x1, y1) in their colours, and the same in random heights on the relief."""
    inks = (np.clip(colours, 0, 1) * 255).astype(int).tolist()
    heights = rng.integers(40, 216, len(ends)).tolist()
    brush, bumps = pens
    for stroke, tint, height in zip(ends.tolist(), inks, heights, strict=True):
        brush.line(stroke, fill=tuple(tint), width=width)
        bumps.line(stroke, fill=height, width=width)


def painting(scene: Scene, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render ``scene`` as (size, size, 3) bytes."""
    side = 2 * size
    motif = _motif(scene, side, palette(rng, (0.2, 0.7), (0.3, 0.95)), rng)
    angle, edge = _flow(motif, side, rng)
    image = Image.new("RGB", (side, side), ink(motif.mean((0, 1))))
    relief = Image.new("L", (side, side), 128)
    pens = ImageDraw.Draw(image), ImageDraw.Draw(relief)
    jitter, coarse = rng.uniform(0.015, 0.05), rng.uniform(0.06, 0.09)
    everywhere, inside = np.ones((side, side), np.float32), mask(scene.parts, side) + np.float32(0.02)
    for thick, count, weight in ((coarse, 500, everywhere), (coarse / 2, 500, inside), (0.024, 1400, edge)):
        row, column = np.divmod(_spots(rng, weight, count), side)
        shift = rng.normal(0, jitter, (count, 1)) + rng.normal(0, jitter / 2, (count, 3))
        turn = angle[row, column] + rng.normal(0, 0.1, count)
        reach = np.stack([np.cos(turn), np.sin(turn)], axis=1) * thick * rng.uniform(0.6, 1.4, (count, 1))
        at = np.stack([column, row], axis=1) / side
        ends = np.concatenate([at - reach, at + reach], axis=1) * side
        _layer(pens, ends, motif[row, column] + shift, max(1, round(thick * side)), rng)
    height = np.asarray(relief, dtype=np.float32) / np.float32(255) + 0.1 * noise(rng, side, (32, 32), 2)
    slope = height - np.roll(height, (1, 1), (0, 1))
    colour = np.asarray(image, dtype=np.float32) / np.float32(255)
    return shrink((colour + rng.uniform(0.04, 0.12) * slope[..., None]).astype(np.float32), size)
