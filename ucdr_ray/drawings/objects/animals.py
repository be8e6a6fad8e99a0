"""Cat, fish, bird, butterfly."""

import numpy as np

from ucdr_ray.drawings.shapes import Part, arc, body, detail, ellipse, line, mirrored, smooth, tube


def cat(rng: np.random.Generator) -> list[Part]:
    """Sitting, seen from the front: pear body, round head, two pointed ears, tail, whiskers."""
    u = rng.uniform
    head, x, y, fat = u(0.36, 0.48), u(-0.12, 0.12), u(-0.5, -0.4), u(0.4, 0.6)
    tail = smooth([(0.2, 0.8), (0.75, 0.82), (0.95, u(0.3, 0.6)), (u(0.7, 1.0), u(-0.2, 0.2))], closed=False)
    parts = [
        body(tube(tail, 0.2, 0.13)),
        body(smooth([(-0.25, -0.3), (-fat, 0.45), (-fat, 0.95), (fat, 0.95), (fat, 0.45), (0.25, -0.3)])),
    ]
    if rng.random() < 0.6:
        parts.append(detail(ellipse(0, 0.35, fat * 0.45, 0.4), "second"))
    for side in (-1, 1):
        parts.append(body(ellipse(side * fat * 0.5, 0.92, 0.17, 0.11), "main"))
    tall, spread = u(0.3, 0.5), u(0.6, 0.85)
    for side in (-1, 1):
        ear = np.array([(0.12, -head * 0.7), (spread * head, -head - tall), (head * 1.02, -head * 0.2)])
        ear = ear * (side, 1) + (x, y)
        parts += [body(ear), detail(ear * 0.55 + ear.mean(0) * 0.45, "second")]
    parts.append(body(ellipse(x, y, head * u(1.05, 1.2), head)))
    eye = u(0.06, 0.1)
    for side in (-1, 1):
        at = x + side * head * 0.45
        parts += [
            detail(ellipse(at, y - 0.05, eye, eye * 1.2), "light"),
            detail(ellipse(at, y - 0.05, eye * 0.5, eye), "dark"),
        ]
        for lift in (-0.05, 0.06):
            parts.append(
                line([(x + side * 0.16, y + 0.16), (x + side * (head + 0.22), y + 0.16 + lift)], 0.02)
            )
    nose = [(x - 0.06, y + 0.07), (x + 0.06, y + 0.07), (x, y + 0.14)]
    return [*parts, detail(nose, "dark"), line(arc(x, y + 0.14, 0.1, 0.08, 0, np.pi), 0.025)]


def fish(rng: np.random.Generator) -> list[Part]:
    """From the side, nose to the left: lens body, forked tail, fins, stripes."""
    u = rng.uniform
    high, fork, root = u(0.3, 0.55), u(0.35, 0.6), u(0.5, 0.62)
    back = u(-0.35, 0.05)
    outline = [(-0.95, 0.02), (-0.6, -0.75 * high), (back, -high), (root, -0.1)]
    outline += [(root, 0.1), (back, high), (-0.6, 0.75 * high)]
    parts = [
        body(
            [(root - 0.1, -0.08), (1.0, -fork), (u(0.78, 0.92), 0.0), (1.0, fork), (root - 0.1, 0.08)],
            "second",
        ),
        body([(-0.4, -high * 0.8), (u(-0.2, 0.2), -high - u(0.2, 0.35)), (0.4, -high * 0.45)], "second"),
        body([(-0.2, high * 0.85), (u(0.0, 0.25), high + u(0.12, 0.3)), (0.2, high * 0.6)], "second"),
        body(smooth(outline)),
    ]
    for k in range(rng.integers(0, 4)):
        at = -0.2 + 0.22 * k
        reach = high * (0.8 - 0.22 * k)
        parts.append(detail(tube(arc(at - 0.1, 0, 0.12, reach, -1.3, 1.3), 0.07, 0.07), "accent"))
    parts.append(body(smooth([(-0.2, 0.08), (0.1, 0.0), (0.12, 0.22), (0.02, 0.28)]), "second"))
    eye = u(0.07, 0.11)
    return [
        *parts,
        line(arc(-0.62, 0, 0.18, high * 0.7, -1.1, 1.1), 0.03),
        detail(ellipse(-0.66, -0.12, eye, eye), "light"),
        detail(ellipse(-0.68, -0.12, eye * 0.5, eye * 0.5), "dark"),
        line([(-0.93, 0.08), (-0.76, 0.13)], 0.025),
    ]


def bird(rng: np.random.Generator) -> list[Part]:
    """Standing, from the side, looking left: round body, small head, beak, wing, tail, two thin legs."""
    u = rng.uniform
    head, x, y, fat = u(0.24, 0.31), u(-0.6, -0.45), u(-0.65, -0.5), u(0.36, 0.48)
    beak, drop, long = u(0.2, 0.38), u(-0.05, 0.12), u(0.85, 1.05)
    parts = []
    for at in (-0.1, 0.12):
        foot = u(-0.06, 0.06) + at
        parts += [
            line([(at, 0.3), (foot, 0.9)], 0.05, "accent"),
            line([(foot - 0.18, 0.93), (foot, 0.88), (foot + 0.12, 0.93)], 0.05, "accent"),
        ]
    wing = smooth([(-0.25, -0.12), (0.15, -0.2), (0.7, u(0.1, 0.25)), (0.25, u(0.25, 0.35)), (-0.15, 0.15)])
    return [
        *parts,
        body([(0.3, -0.12), (long, u(-0.35, 0.05)), (long + 0.05, u(0.1, 0.22)), (0.35, 0.25)], "second"),
        body([(x - head * 0.8, y - 0.1), (x - head - beak, y + drop), (x - head * 0.8, y + 0.12)], "accent"),
        body(
            smooth([(x - 0.12, y), (-0.6, 0.05), (-0.25, fat), (0.25, fat * 0.9), (0.55, 0.05), (x + 0.3, y)])
        ),
        body(ellipse(x, y, head, head)),
        body(wing, "second"),
        line(smooth([(0.0, 0.0), (0.3, 0.1), (0.55, 0.15)], closed=False), 0.025),
        detail(ellipse(x - 0.07, y - 0.05, 0.065, 0.065), "light"),
        detail(ellipse(x - 0.08, y - 0.05, 0.04, 0.04), "dark"),
    ]


def butterfly(rng: np.random.Generator) -> list[Part]:
    """From above: two pairs of mirrored wings with spots, a thin body, two feelers."""
    u = rng.uniform
    wide, top, low = u(0.8, 1.0), u(0.65, 0.9), u(0.55, 0.85)
    upper = smooth([(0.02, -0.1), (0.3, -top), (wide, -top * u(0.8, 1.0)), (wide * 0.9, -0.1), (0.25, 0.1)])
    lower = smooth([(0.02, 0.02), (0.5, 0.0), (wide * 0.8, low * 0.5), (0.45, low), (0.15, low * 0.6)])
    spots = [
        ellipse(0.6, -0.45, u(0.08, 0.2), u(0.08, 0.18)),
        ellipse(0.42, 0.38, u(0.06, 0.15), u(0.06, 0.15)),
    ]
    veins = [[(0.08, -0.08), (wide * 0.75, -top * 0.75)], [(0.08, 0.06), (wide * 0.6, low * 0.55)]]
    fold = np.array([u(0.55, 1.0), 1.0])
    parts = []
    for side in (lambda p: np.asarray(p), lambda p: mirrored(np.asarray(p)) * fold):
        parts += [body(side(lower), "second"), body(side(upper))]
        parts += [line(side(vein), 0.025) for vein in veins]
        parts += [detail(side(spot), "accent") for spot in spots]
        parts.append(line(side(smooth([(0.02, -0.4), (0.1, -0.75), (0.25, -0.95)], closed=False)), 0.03))
    return [
        *parts,
        body(ellipse(0, 0, 0.075, u(0.4, 0.55)), "dark"),
        body(ellipse(0, -0.45, 0.09, 0.09), "dark"),
    ]
