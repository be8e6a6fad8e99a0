"""One object in a place: pose, position, and clutter behind it. Style knows nothing of it, nor it of style."""

from dataclasses import dataclass

import numpy as np

from ucdr_ray.drawings.shapes import Maker, Part, Points, body, box, ellipse, line, smooth


@dataclass(frozen=True)
class Scene:
    """A vector picture in 0..1 × 0..1.

    parts: the object, back to front. clutter: what stands behind it. horizon: the y where ground meets sky.
    """

    parts: list[Part]
    clutter: list[Part]
    horizon: float


def _pose(rng: np.random.Generator, points: Points) -> Points:
    """Turn, shear, stretch, flip and gently bend; the same generator state gives the same pose."""
    turn = np.clip(rng.normal(0, 0.15), -0.4, 0.4)
    stretch, shear, flip = rng.uniform(0.84, 1.18), rng.uniform(-0.12, 0.12), rng.choice([-1.0, 1.0])
    cos, sin = np.cos(turn), np.sin(turn)
    posed = points @ np.array([[flip * stretch, 0.0], [shear, 1.0]]) @ np.array([[cos, sin], [-sin, cos]])
    for _ in range(2):
        wave, phase, push = rng.normal(0, 1.6, 2), rng.uniform(0, 2 * np.pi), rng.normal(0, 0.04, 2)
        posed = posed + np.sin(posed @ wave + phase)[:, None] * push
    return posed


def _place(rng: np.random.Generator, parts: list[Part]) -> list[Part]:
    """Pose the object as a whole, fit it into the picture, sometimes slightly over the edge."""
    ends = np.cumsum([len(part.points) for part in parts])[:-1]
    points = _pose(rng, np.concatenate([part.points for part in parts]))
    low, high = points.min(0), points.max(0)
    scale = rng.uniform(0.72, 0.98) / (high - low).max()
    slack = np.maximum(1 - scale * (high - low), 0) / 2 + 0.02
    centre = 0.5 + rng.uniform(-1, 1, 2) * slack
    placed = np.split((points - (low + high) / 2) * scale + centre, ends)
    return [
        Part(outline, part.role, part.colour, part.width * scale)
        for part, outline in zip(parts, placed, strict=True)
    ]


def _clutter(rng: np.random.Generator) -> list[Part]:
    """A few plain shapes and curves that belong to no class."""
    parts = []
    for _ in range(rng.integers(0, 5)):
        x, y, size = *rng.uniform(0, 1, 2), rng.uniform(0.04, 0.17)
        turn = rng.uniform(0, np.pi)
        kind = rng.integers(4)
        if kind == 0:
            parts.append(body(ellipse(x, y, size, size * rng.uniform(0.4, 1), turn), "second"))
        elif kind == 1:
            corners = box(-size, -size * rng.uniform(0.3, 1), size, size)
            rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            parts.append(body(corners @ rotation + (x, y), "accent"))
        elif kind == 2:
            around = turn + np.array([0.0, 2.2, 4.1])
            parts.append(
                body(np.stack([x + size * np.cos(around), y + size * np.sin(around)], axis=1), "second")
            )
        else:
            steps = np.cumsum(rng.normal(0, size, (4, 2)), axis=0)
            curve = smooth([(x + right, y + down) for right, down in steps.tolist()], closed=False)
            parts.append(line(curve, rng.uniform(0.008, 0.02)))
    return parts


def compose(maker: Maker, rng: np.random.Generator) -> Scene:
    """Draw one object, pose and place it, and put clutter behind it."""
    return Scene(_place(rng, maker(rng)), _clutter(rng), float(rng.uniform(0.45, 0.85)))
