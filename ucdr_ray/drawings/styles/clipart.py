"""Clipart: flat saturated colours, often outlined, on a plain or patterned ground."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ucdr_ray.drawings.canvas import Palette, ink, paint, palette, pixels, shrink
from ucdr_ray.drawings.scene import Scene
from ucdr_ray.drawings.shapes import Part


def _ground(side: int, colours: Palette, rng: np.random.Generator) -> Image.Image:
    """White, one colour, stripes, dots, sun rays or a badge."""
    plain = np.ones(3, dtype=np.float32) if rng.random() < 0.5 else colours["ground"]
    image = Image.new("RGB", (side, side), ink(plain))
    pen = ImageDraw.Draw(image)
    second = ink(plain * 0.8 + colours["sky"] * 0.2)
    kind = rng.integers(8)
    if kind == 0:
        step, lean = side * rng.uniform(0.08, 0.2), side * rng.uniform(-1, 1)
        for x in np.arange(-side, 2 * side, step):
            pen.line([(x, 0), (x + lean, side)], fill=second, width=round(step / 2))
    elif kind == 1:
        step = side * rng.uniform(0.1, 0.2)
        for x in np.arange(0, side + step, step):
            for y in np.arange(0, side + step, step):
                pen.ellipse([x - step / 4, y - step / 4, x + step / 4, y + step / 4], fill=second)
    elif kind == 2:
        rays = int(rng.integers(8, 16))
        for ray in range(rays):
            turn = 360 * ray / rays
            pen.pieslice([-side, -side, 2 * side, 2 * side], turn, turn + 180 / rays, fill=second)
    elif kind == 3:
        edge = side * rng.uniform(0.0, 0.12)
        pen.ellipse([edge, edge, side - edge, side - edge], fill=ink(colours["sky"]))
    return image


def _shaded(image: Image.Image, part: Part, side: int, colour: tuple[int, int, int], shift: float) -> None:
    """A second, darker tone along one side of a body."""
    cover = Image.new("L", (side, side))
    pen = ImageDraw.Draw(cover)
    pen.polygon(pixels(part.points, side), fill=255)
    pen.polygon(pixels(part.points - shift, side), fill=0)
    image.paste(colour, mask=cover)


def clipart(scene: Scene, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render ``scene`` as (size, size, 3) bytes."""
    side = 3 * size
    colours = palette(rng, (0.45, 1.0), (0.5, 1.0))
    image = _ground(side, colours, rng)
    pen = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        for part in scene.clutter:
            paint(pen, part, ink(colours[part.colour] * 0.5 + 0.5), side)
    contour = rng.choice(["dark", "tone", "none"], p=[0.5, 0.2, 0.3])
    width = rng.uniform(0.012, 0.026)
    toned = rng.random() < 0.5
    for part in scene.parts:
        colour = colours[part.colour]
        paint(pen, part, ink(colour), side, 1.2)
        if part.role == "body" and toned:
            _shaded(image, part, side, ink(colour * 0.75), 0.02)
        if part.role != "line" and contour != "none":
            edge = colours["dark"] if contour == "dark" else colour * np.float32(0.55)
            thick = width if part.role == "body" else width * 0.6
            closed = pixels(np.concatenate([part.points, part.points[:2]]), side)
            pen.line(closed, fill=ink(edge), width=max(1, round(thick * side)), joint="curve")
    return shrink(np.asarray(image, dtype=np.float32) / np.float32(255), size)
