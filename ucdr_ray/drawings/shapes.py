"""Vector parts of a drawing, and the few curves they are made of.

Coordinates are (x, y) with y downwards. Objects are drawn inside about -1..1; :mod:`.scene` moves them to 0..1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Slot = Literal["main", "second", "accent", "dark", "light"]
Role = Literal["body", "detail", "line"]


@dataclass(frozen=True)
class Part:
    """One piece of an object.

    points: (n, 2). A ``body`` or ``detail`` is a filled closed outline (a detail lies upon a body and gets no
    shading of its own); a ``line`` is an open path of the given ``width``.
    colour: the palette slot; which colour that is, the style decides.
    """

    points: Points
    role: Role
    colour: Slot
    width: float = 0.0

    def moved(self, move: Callable[[Points], Points], scale: float = 1.0) -> "Part":
        """The part with ``move`` applied to its points and ``scale`` to its line width."""
        return replace(self, points=move(self.points), width=self.width * scale)


Maker = Callable[[np.random.Generator], list[Part]]


def body(points: ArrayLike, colour: Slot = "main") -> Part:
    """A filled piece with volume."""
    return Part(np.asarray(points, dtype=np.float64), "body", colour)


def detail(points: ArrayLike, colour: Slot) -> Part:
    """A filled piece that lies flat upon a body."""
    return Part(np.asarray(points, dtype=np.float64), "detail", colour)


def line(points: ArrayLike, width: float = 0.03, colour: Slot = "dark") -> Part:
    """An open path."""
    return Part(np.asarray(points, dtype=np.float64), "line", colour, width)


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, turn: float = 0.0) -> Points:
    """Points on an ellipse from ``start`` to ``stop`` (radians, clockwise on screen), turned by ``turn``."""
    angle = np.linspace(start, stop, max(6, int(abs(stop - start) * 4.5)))
    along, across = rx * np.cos(angle), ry * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], axis=1)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    """A whole ellipse."""
    return arc(x, y, rx, ry, 0.0, 2 * np.pi, turn)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    """An axis-parallel rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)


def smooth(points: Sequence[tuple[float, float]], closed: bool = True, steps: int = 5) -> Points:
    """A Catmull-Rom spline through ``points``."""
    control = np.asarray(points, dtype=np.float64)
    if closed:
        control = np.concatenate([control[-1:], control, control[:2]])
    else:
        control = np.concatenate([control[:1], control, control[-1:]])
    before, start, stop, after = control[:-3], control[1:-2], control[2:-1], control[3:]
    t = (np.arange(steps) / steps)[:, None, None]
    curve = 0.5 * (
        2 * start
        + (stop - before) * t
        + (2 * before - 5 * start + 4 * stop - after) * t**2
        + (3 * start - before - 3 * stop + after) * t**3
    )
    flat = curve.transpose(1, 0, 2).reshape(-1, 2)
    return flat if closed else np.concatenate([flat, control[-1:]])


def tube(path: Points, start: float, stop: float) -> Points:
    """The outline of a limb along ``path``, ``start`` thick at its beginning, ``stop`` at its end, round there."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    half = np.linspace(start, stop, len(path))[:, None] / 2
    angle = np.linspace(0, np.pi, 7)[1:-1, None]
    cap = path[-1] + stop / 2 * (np.cos(angle) * normal[-1] + np.sin(angle) * along[-1])
    return np.concatenate([path + half * normal, cap, (path - half * normal)[::-1]])


def mirrored(points: Points) -> Points:
    """The same points with left and right exchanged."""
    return points * np.array([-1.0, 1.0])
