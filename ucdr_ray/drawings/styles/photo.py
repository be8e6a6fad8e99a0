"""Photo: shaded volumes with texture and a cast shadow before a blurred, noisy background."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ucdr_ray.drawings.canvas import Array, Palette, mask, noise, palette, shrink
from ucdr_ray.drawings.scene import Scene
from ucdr_ray.drawings.shapes import Part


def background(scene: Scene, side: int, colours: Palette, rng: np.random.Generator) -> Array:
    """Ground and sky with fractal texture, clutter out of focus."""
    rows = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    soft = rng.uniform(0.01, 0.2)
    below = 1 / (1 + np.exp(-(rows - scene.horizon) / soft))
    picture = colours["sky"] + (colours["ground"] - colours["sky"]) * below[..., None]
    picture = np.repeat(picture, side, axis=1).astype(np.float32)
    for part in scene.clutter:
        cover = mask([part], side)[..., None] * np.float32(rng.uniform(0.3, 0.8))
        picture += (colours[part.colour] * 0.6 + colours["ground"] * 0.4 - picture) * cover
    blur = rng.uniform(0.005, 0.03) * side
    picture = gaussian_filter(picture, (blur, blur, 0), truncate=2.0)
    cells = (int(rng.integers(2, 7)), int(rng.integers(2, 10)))
    grain = noise(rng, side, cells)[..., None]
    return np.asarray(picture * (1 + np.float32(rng.uniform(0.03, 0.16)) * grain), dtype=np.float32)


def _lit(
    part: Part, side: int, colour: Array, light: Array, depth: float, texture: Array
) -> tuple[Array, Array]:
    """Colour and cover of one part, swollen like a cushion and lit from ``light`` (x, y)."""
    cover = mask([part], side)
    if part.role != "body":
        return np.broadcast_to(colour, (side, side, 3)), cover
    span = np.ptp(part.points, axis=0).min() * side
    height = gaussian_filter(cover, max(0.8, 0.22 * span), truncate=2.0)
    down, right = np.gradient(height * span)
    facing = right * light[0] + down * light[1]
    shade = 1 + depth * np.tanh(facing * 1.6) + texture
    shine = np.clip(facing - 0.35, 0, 1) * depth
    return colour * shade[..., None] + shine[..., None], cover


def photo(scene: Scene, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render ``scene`` as (size, size, 3) bytes."""
    side = 2 * size
    colours = palette(rng, (0.1, 0.65), (0.3, 0.85))
    picture = background(scene, side, colours, rng)
    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(angle), 0.4 + abs(np.sin(angle))], dtype=np.float32)
    whole = mask(scene.parts, side)
    shift = (-light * rng.uniform(0.02, 0.07) * side).round().astype(int)
    shadow = gaussian_filter(np.roll(whole, (-shift[1], -shift[0]), (0, 1)), 0.025 * side, truncate=2.0)
    picture *= 1 - np.float32(rng.uniform(0.2, 0.6)) * shadow[..., None]
    cells = (int(rng.integers(3, 16)), int(rng.integers(3, 16)))
    texture = noise(rng, side, cells, 3) * np.float32(rng.uniform(0.02, 0.16))
    depth = rng.uniform(0.3, 0.65)
    for part in scene.parts:
        lit, cover = _lit(part, side, colours[part.colour], light, depth, texture)
        picture += (lit - picture) * cover[..., None]
    x = np.linspace(-1, 1, side, dtype=np.float32)
    vignette = 1 - np.float32(rng.uniform(0, 0.3)) * (x[None, :] ** 2 + x[:, None] ** 2) / 2
    lens = rng.uniform(0.3, 1.3) * side / 128
    picture = gaussian_filter(picture * vignette[..., None], (lens, lens, 0), truncate=2.0)
    picture = picture * np.float32(rng.uniform(0.7, 1.05)) + np.float32(rng.uniform(-0.03, 0.08))
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.01, 0.06))
    return shrink(picture, size)
