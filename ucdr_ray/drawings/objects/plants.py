"""Tree, flower, mushroom, cactus."""

import numpy as np

from ucdr_ray.drawings.shapes import Part, arc, body, box, detail, ellipse, line, smooth, tube


def tree(rng: np.random.Generator) -> list[Part]:
    """A trunk with roots and boughs under a crown of lobes that may narrow upwards."""
    u = rng.uniform
    lobes, taper, wide, thick = int(rng.integers(7, 12)), u(0.0, 0.45), u(0.6, 0.9), u(0.16, 0.3)
    angle = np.linspace(0, 2 * np.pi, lobes * 6, endpoint=False)
    radius = 0.85 + 0.17 * np.abs(np.sin(angle * lobes / 2 + u(0, 6)))
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    crown = np.stack([wide * x * (1 + taper * y), 0.62 * y - 0.36], axis=1)
    foot = u(1.3, 2.0) * thick
    flank = [(foot / 2, 1.0), (thick / 2, 0.6), (thick / 2, 0.0)]
    trunk = smooth([*flank, *[(-x, y) for x, y in flank[::-1]]])
    parts = [body(trunk, "second"), body(crown)]
    for _ in range(rng.integers(2, 6)):
        at = (u(-0.5, 0.5) * wide, u(-0.7, 0.0))
        parts.append(line(arc(*at, u(0.1, 0.2), u(0.08, 0.14), 3.4, 6.0, u(-0.8, 0.8)), 0.03))
    for _ in range(rng.integers(0, 6)):
        parts.append(detail(ellipse(u(-0.5, 0.5) * wide, u(-0.75, 0.0), 0.06, 0.06), "accent"))
    return parts


def flower(rng: np.random.Generator) -> list[Part]:
    """A bent stem with leaves, and a ring of petals around a disc."""
    u = rng.uniform
    petals, x, y, tilt = int(rng.integers(5, 10)), u(-0.25, 0.25), u(-0.5, -0.35), u(0.7, 1.0)
    stem = smooth([(x, y), (x * 0.2, 0.2), (u(-0.15, 0.15), 1.0)], closed=False)
    parts = [body(tube(stem, 0.07, 0.09), "second")]
    for side in rng.permutation([-1, 1])[: rng.integers(1, 3)]:
        low, long, lift = u(0.3, 0.75), u(0.35, 0.55), u(0.1, 0.4)
        tip = (side * long, low - lift)
        leaf = smooth(
            [(0, low), (side * long * 0.6, low - lift * 0.2), tip, (side * long * 0.35, low - lift)]
        )
        parts += [body(leaf, "second"), line([(0, low), tip], 0.025)]
    long, start = u(0.36, 0.5), u(0, 6)
    wide = min(0.24, 1.9 * long / petals) * u(0.85, 1.15)
    for angle in start + np.arange(petals) * 2 * np.pi / petals:
        petal = ellipse(long * 0.62 * np.cos(angle), long * 0.62 * np.sin(angle), long * 0.6, wide, angle)
        parts.append(body(petal * (1, tilt) + (x, y)))
    disc = u(0.14, 0.22)
    parts.append(body(ellipse(x, y, disc, disc * tilt), "accent"))
    for _ in range(4):
        parts.append(detail(ellipse(x + u(-0.5, 0.5) * disc, y + u(-0.5, 0.5) * disc, 0.025, 0.025), "dark"))
    return parts


def _toadstool(rng: np.random.Generator) -> list[Part]:
    u = rng.uniform
    wide, high, thick = u(0.65, 0.95), u(0.55, 0.9), u(0.26, 0.45)
    stem = smooth([(u(-0.1, 0.1), -0.1), (0, 0.4), (0, 0.95)], closed=False)
    dome = arc(0, 0, wide, high, np.pi, 2 * np.pi)
    rim = arc(0, 0, wide, u(0.1, 0.2), 0, np.pi)
    parts = [
        body(tube(stem, thick * 0.8, thick * 1.15), "second"),
        line(arc(0, 0.25, thick * 0.5, 0.1, 0.1, 3.0), 0.05, "light"),
        body(np.concatenate([dome, rim])),
        line(rim * (0.96, 0.5) - (0, 0.03), 0.025),
    ]
    for _ in range(rng.integers(3, 8)):
        angle, out = u(np.pi * 1.1, np.pi * 1.9), u(0.2, 0.8)
        size = u(0.06, 0.14)
        spot = ellipse(wide * out * np.cos(angle), high * out * np.sin(angle), size, size * 0.85)
        parts.append(detail(spot, "accent"))
    return parts


def mushroom(rng: np.random.Generator) -> list[Part]:
    """A domed cap with spots upon a stout stem; now and then a small one beside it."""
    parts = _toadstool(rng)
    if rng.random() < 0.35:
        side, scale = rng.choice([-1.0, 1.0]), rng.uniform(0.35, 0.5)
        small = [
            part.moved(lambda p: p * scale + (side * 0.75, 1 - scale), scale) for part in _toadstool(rng)
        ]
        parts = small + parts
    return parts


def cactus(rng: np.random.Generator) -> list[Part]:
    """A column with one to three bent arms, ribs and spines, in a pot or in the ground."""
    u = rng.uniform
    thick, top = u(0.32, 0.44), u(-0.95, -0.8)
    column = np.linspace([0, 0.95], [u(-0.08, 0.08), top], 8)
    parts = []
    arms = int(rng.integers(1, 4))
    for side in np.resize(rng.permutation([-1, 1]), arms):
        out, low, high, wide = side * u(0.5, 0.75), u(-0.15, 0.4), u(0.35, 0.6), thick * u(0.55, 0.75)
        path = [(0, low), (out * 0.8, low), (out, low - 0.12), (out, low - high)]
        parts += [body(tube(smooth(path, closed=False), wide, wide)), line([path[2], path[3]], 0.025)]
    parts.append(body(tube(column, thick, thick * u(0.8, 1.0))))
    for at in (-0.25, 0.1, 0.3):
        parts.append(line([(at * thick, 0.7), (at * thick, top + 0.1)], 0.025))
    for _ in range(8):
        x, y = rng.choice([-0.5, 0.5]) * thick, u(-0.7, 0.5)
        parts.append(line([(x, y), (x * 1.5, y - 0.05)], 0.025))
    if rng.random() < 0.35:
        parts.append(body(ellipse(0, top - 0.14, 0.14, 0.1), "accent"))
    if rng.random() < 0.5:
        pot = u(0.35, 0.48)
        parts += [
            body([(-pot, 0.6), (pot, 0.6), (pot * 0.7, 1.1), (-pot * 0.7, 1.1)], "second"),
            body(box(-pot * 1.1, 0.52, pot * 1.1, 0.68), "second"),
        ]
    return parts
