"""House, cup, umbrella, guitar."""

from itertools import pairwise

import numpy as np

from ucdr_ray.drawings.shapes import Part, arc, body, box, detail, ellipse, line, smooth


def house(rng: np.random.Generator) -> list[Part]:
    """A gabled front with door, windows and chimney, and often a side wall running back."""
    u = rng.uniform
    wide, eave, ridge, deep = u(0.5, 0.65), u(-0.25, 0.0), u(-0.95, -0.75), u(0.0, 0.5)
    left, right, over = -wide - deep / 2, wide - deep / 2, 0.1
    top = (left + right) / 2
    chimney = top + u(0.15, 0.4)
    parts = [body(box(chimney, ridge - 0.02, chimney + 0.16, eave), "accent")]
    if deep > 0.15:
        side = [(right, eave), (right + deep, eave - 0.05), (right + deep, 0.82), (right, 0.9)]
        far = right + deep + over
        roof = [(top, ridge), (top + deep, ridge - 0.02), (far, eave + 0.02), (right + over, eave + 0.08)]
        parts += [body(side), body(roof, "second")]
        parts.append(detail(box(right + deep * 0.3, 0.15, right + deep * 0.75, 0.45), "light"))
    parts.append(body([(left, eave), (top, ridge + 0.05), (right, eave), (right, 0.9), (left, 0.9)]))
    gable = np.array([(left - over, eave + 0.1), (top, ridge - 0.03), (right + over, eave + 0.1)])
    if deep > 0.15:
        parts.append(line(gable, 0.1, "second"))
    else:
        parts.append(body(gable, "second"))
    door = u(left + 0.12, right - 0.42)
    parts += [
        body(box(door, 0.4, door + 0.28, 0.9), "accent"),
        detail(ellipse(door + 0.22, 0.66, 0.03, 0.03), "dark"),
    ]
    windows = [x for x in np.linspace(left + 0.1, right - 0.35, 3) if abs(x - door) > 0.3]
    for x in windows:
        parts += [
            detail(box(x, 0.25, x + 0.25, 0.55), "light"),
            line([(x + 0.125, 0.25), (x + 0.125, 0.55)], 0.025),
        ]
        parts.append(line([(x, 0.4), (x + 0.25, 0.4)], 0.025))
    if rng.random() < 0.5:
        parts.append(detail(ellipse(top, (eave + ridge) / 2 + 0.12, 0.1, 0.1), "light"))
    return parts


def cup(rng: np.random.Generator) -> list[Part]:
    """A cup with a handle on the right, seen slightly from above; often a saucer, a band, steam."""
    u = rng.uniform
    top, foot, deep, rim = u(0.48, 0.62), u(0.34, 0.55), u(0.5, 0.75), u(0.1, 0.2)
    low = deep
    parts = []
    if rng.random() < 0.6:
        parts.append(body(ellipse(0.05, low, 0.95, rim + 0.08), "second"))
    grip = u(0.26, 0.38)
    handle = arc((top + foot) / 2, 0.08, grip + 0.08, grip, -np.pi * 0.55, np.pi * 0.5)
    wall = smooth([(-top, -0.4), (-(top + foot) / 2 - 0.03, 0.15), (-foot, low)], closed=False)
    base = arc(0, low, foot, rim * 0.7, np.pi, 0)
    outline = np.concatenate([wall, base, (wall * (-1, 1))[::-1]])
    parts += [line(handle, u(0.1, 0.15), "main"), body(outline)]
    if rng.random() < 0.6:
        level, girth = u(-0.1, 0.2), (top + foot) / 2
        edges = arc(0, level, girth, rim, np.pi, 0), arc(0, level + 0.2, girth * 0.96, rim, 0, np.pi)
        band = np.concatenate(edges)
        parts.append(detail(band, "accent"))
    parts += [
        body(ellipse(0, -0.4, top, rim), "light"),
        detail(ellipse(0, -0.37, top * 0.87, rim * 0.72), "dark"),
    ]
    for k in range(rng.integers(0, 4)):
        y = np.linspace(-0.55, -1.0, 9)
        steam = np.stack([-0.25 + 0.25 * k + 0.07 * np.sin(y * 12 + u(0, 6)), y], axis=1)
        parts.append(line(steam, 0.035, "light"))
    return parts


def umbrella(rng: np.random.Generator) -> list[Part]:
    """An open dome with a scalloped edge and ribs, a shaft and a hooked handle."""
    u = rng.uniform
    panels, high, wide, edge = int(rng.integers(4, 7)), u(0.6, 0.85), u(0.85, 1.0), u(-0.15, 0.0)
    dome = arc(0, edge, wide, high, np.pi, 2 * np.pi)
    corners = wide * np.cos(np.linspace(0, np.pi, panels + 1))
    scallops = [arc((a + b) / 2, edge, (a - b) / 2, u(0.07, 0.12), 0, -np.pi) for a, b in pairwise(corners)]
    hook, side = u(0.12, 0.2), rng.choice([-1.0, 1.0])
    handle = arc(hook, 0.78, hook, hook, np.pi, 0) * (side, 1)
    apex = edge - high
    parts = [
        line([(0, apex - 0.12), (0, 0.78)], 0.07, "dark"),
        line(handle, u(0.09, 0.12), "accent"),
        body(np.concatenate([dome, *scallops])),
    ]
    for k, (a, b) in enumerate(pairwise(corners)):
        if k % 2:
            left = smooth([(a, edge), (a * 0.8, edge - high * 0.55), (0, apex)], closed=False)
            right = smooth([(0, apex), (b * 0.8, edge - high * 0.55), (b, edge)], closed=False)
            parts.append(detail(np.concatenate([left, right]), "second"))
    for x in corners[1:-1]:
        parts.append(line(smooth([(x, edge), (x * 0.8, edge - high * 0.55), (0, apex)], closed=False), 0.03))
    return parts


def guitar(rng: np.random.Generator) -> list[Part]:
    """Upright: a waisted body with sound hole and bridge, a long neck, a head with pegs."""
    u = rng.uniform
    wide, waist, shoulder, neck = u(0.44, 0.58), u(0.24, 0.34), u(0.34, 0.44), u(0.12, 0.18)
    right = [(0.12, -0.12), (shoulder, 0.0), (waist, 0.32), (wide, 0.65), (0.2, 0.98)]
    outline = smooth([*right, *[(-x, y) for x, y in right[::-1]]])
    head, hole = u(0.1, 0.15), u(0.12, 0.17)
    parts = [
        body(outline),
        detail(ellipse(0, 0.3, hole, hole), "dark"),
        body(box(-0.2, 0.66, 0.2, 0.75), "second"),
        body(box(-neck / 2, -0.75, neck / 2, 0.18), "second"),
        body([(-neck / 2, -0.72), (-head, -0.98), (head, -0.98), (neck / 2, -0.72)], "accent"),
    ]
    for y in (-0.92, -0.82):
        for side in (-1, 1):
            parts.append(detail(ellipse(side * (head + 0.04), y, 0.05, 0.03), "dark"))
    parts += [line([(-neck / 2, y), (neck / 2, y)], 0.02) for y in np.linspace(-0.65, 0.05, 6)]
    for x in np.linspace(-0.3, 0.3, 3) * neck:
        parts.append(line([(x, -0.75), (x, 0.7)], 0.015, "light"))
    if rng.random() < 0.4:
        parts.append(detail(smooth([(0.16, 0.35), (0.32, 0.5), (0.2, 0.6), (0.1, 0.5)]), "accent"))
    return parts
