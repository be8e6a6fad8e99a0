"""Sketch: wobbly, repeated pencil or ink lines on paper, some hatching, hidden lines left out."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ucdr_ray.drawings.canvas import Array, noise, pixels, shrink
from ucdr_ray.drawings.scene import Scene
from ucdr_ray.drawings.shapes import Part, Points


def _wobbly(points: Points, amount: float, rng: np.random.Generator) -> Points:
    """The path as an unsteady hand follows it: resampled, and pushed by slow waves along its length."""
    step = np.linalg.norm(np.diff(points, axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(step)])
    along = np.linspace(0, at[-1], max(4, int(at[-1] * 40)))
    path = np.stack([np.interp(along, at, points[:, k]) for k in range(2)], axis=1)
    waves = rng.uniform(5, 22, (3, 2))
    return np.asarray(path + amount * np.sin(along[:, None, None] * waves + rng.uniform(0, 7, (3, 2))).sum(1))


def _stroke(
    pen: ImageDraw.ImageDraw, path: Points, side: int, width: float, tone: float, rng: np.random.Generator
) -> None:
    """A line in pieces, each with its own pressure."""
    dots = pixels(path, side)
    pressure = rng.uniform(0.6, 1.0, len(dots) // 5 + 1)
    for piece, press in enumerate(pressure):
        grey = int(255 * (1 - tone * press))
        pen.line(dots[piece * 5 : piece * 5 + 6], fill=grey, width=max(1, round(width * press * side)))


def _hatch(
    image: Image.Image, part: Part, side: int, angle: float, gap: float, rng: np.random.Generator
) -> None:
    """Parallel lines inside a part."""
    cover = Image.new("L", (side, side))
    ImageDraw.Draw(cover).polygon(pixels(part.points, side), fill=255)
    lines = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(lines)
    direction = np.array([np.cos(angle), np.sin(angle)])
    normal = np.array([-direction[1], direction[0]])
    centre = part.points.mean(0)
    for offset in np.arange(-0.7, 0.7, gap):
        middle = centre + normal * (offset + rng.normal(0, gap * 0.15))
        ends = np.stack([middle - direction, middle + direction])
        pen.line(pixels(ends, side), fill=int(rng.uniform(70, 150)), width=max(1, round(0.007 * side)))
    image.paste(ImageChops.darker(image, lines), mask=cover)


def sketch(scene: Scene, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render ``scene`` as (size, size, 3) bytes."""
    side = 3 * size
    image = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(image)
    width, tone, wobble = rng.uniform(0.01, 0.026), rng.uniform(0.65, 1.0), rng.uniform(0.001, 0.0035)
    repeats = int(rng.integers(1, 3))
    hatched, angle, gap = rng.random() < 0.5, rng.uniform(0, np.pi), rng.uniform(0.025, 0.05)
    if rng.random() < 0.5:
        for part in scene.clutter:
            _stroke(pen, _wobbly(part.points, wobble, rng), side, width * 0.7, tone * 0.45, rng)
    for part in scene.parts:
        path, weight = part.points, 0.65
        if part.role != "line":
            path, weight = np.concatenate([path, path[:2]]), 1.0 if part.role == "body" else 0.7
            pen.polygon(pixels(part.points, side), fill=255)
            if hatched and part.colour in ("second", "dark"):
                _hatch(image, part, side, angle, gap, rng)
        for _ in range(repeats):
            _stroke(pen, _wobbly(path, wobble, rng), side, max(width * weight, part.width * 0.5), tone, rng)
    return shrink(_on_paper(image, side, rng), size)


def _on_paper(image: Image.Image, side: int, rng: np.random.Generator) -> Array:
    """Graphite catches the paper's grain; the paper has a tint of its own."""
    smear = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.2) * side / 192))
    dark = 1 - np.asarray(smear, dtype=np.float32) / 255
    grain = noise(rng, side, (24, 24), 3)
    dark = dark * np.clip(1 + np.float32(rng.uniform(0, 0.35)) * grain, 0, 1.15)
    paper = 1 - rng.uniform(0, 0.14) * np.array([0.3, 0.6, 1.0], dtype=np.float32) * rng.choice([0.3, 1.0])
    sheet = paper * (1 + np.float32(rng.uniform(0, 0.02)) * grain[..., None])
    return np.asarray(sheet * (1 - dark[..., None]) + 0.1 * dark[..., None], dtype=np.float32)
