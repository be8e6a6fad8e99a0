"""Car, sailboat, airplane, bicycle."""

import numpy as np

from ucdr_ray.drawings.shapes import Part, Points, arc, body, box, detail, ellipse, line, smooth, tube


def car(rng: np.random.Generator) -> list[Part]:
    """From the side, driving left: long low body, cabin with windows, two wheels."""
    u = rng.uniform
    front, rear, roof, wheel = u(-0.5, -0.3), u(0.35, 0.7), u(-0.55, -0.38), u(0.18, 0.25)
    slope, bonnet = u(0.12, 0.3), u(-0.08, 0.05)
    cabin = np.array(
        [(front - slope, 0.05), (front + 0.05, roof), (rear - 0.08, roof), (rear + slope * 0.7, 0.05)]
    )
    hull = [(-0.98, 0.35), (-1.0, 0.12), (-0.9, bonnet), (front - slope, bonnet - 0.02)]
    hull += [(rear + slope * 0.6, bonnet - 0.04), (0.95, 0.0), (1.0, 0.3), (0.95, 0.38)]
    glass = (cabin - cabin.mean(0)) * (0.85, 0.72) + cabin.mean(0)
    split = u(0.0, 0.15)
    post = line([(split, roof + 0.03), (split, 0.02)], 0.06, "main")
    parts = [body(cabin), detail(glass, "light"), post, body(hull)]
    parts += [
        line([(split, 0.0), (split, 0.32)], 0.025),
        line([(split + 0.08, 0.1), (split + 0.2, 0.1)], 0.03),
    ]
    parts += [
        detail(ellipse(-0.9, 0.14, 0.08, 0.06), "accent"),
        detail(ellipse(0.93, 0.14, 0.05, 0.06), "accent"),
    ]
    for x in (u(-0.65, -0.5), u(0.5, 0.65)):
        parts += [
            body(ellipse(x, 0.4, wheel, wheel), "dark"),
            detail(ellipse(x, 0.4, wheel * 0.5, wheel * 0.5), "light"),
        ]
    return parts


def sailboat(rng: np.random.Generator) -> list[Part]:
    """A hull with a mast, a main sail and a jib, on waves."""
    u = rng.uniform
    mast, wide, deck = u(-0.2, 0.1), u(0.65, 0.9), u(0.4, 0.55)
    belly = u(0.0, 0.14)
    main = smooth(
        [(mast + 0.06, -0.85), (mast + 0.3 + belly, -0.2), (wide * u(0.75, 1.0), deck - 0.15)], closed=False
    )
    jib = smooth(
        [(mast - 0.05, -0.75), (mast - 0.25 - belly, -0.2), (-wide * u(0.7, 0.95), deck - 0.12)], closed=False
    )
    hull = smooth([(-wide, deck), (-wide * 0.65, 0.8), (wide * 0.6, 0.82)], closed=False)
    parts = [
        line([(mast, deck), (mast, -1.0)], 0.06, "dark"),
        body(np.concatenate([main, [(mast + 0.06, deck - 0.12)]]), "second"),
        body(np.concatenate([jib, [(mast - 0.06, deck - 0.1)]]), rng.choice(["second", "accent"])),
        body(np.concatenate([hull, [(wide, deck - 0.03)]])),
        line([(-wide * 0.85, deck + 0.14), (wide * 0.85, deck + 0.12)], 0.05, "light"),
    ]
    if rng.random() < 0.6:
        parts.append(body([(mast, -1.0), (mast + 0.28, -0.93), (mast, -0.85)], "accent"))
    for row in range(rng.integers(1, 3)):
        x = np.linspace(-1.0, 1.0, 24)
        wave = np.stack([x, 0.82 + 0.12 * row + 0.035 * np.sin(x * u(8, 13) + u(0, 6))], axis=1)
        parts.append(line(wave, 0.035, "dark"))
    return parts


def airplane(rng: np.random.Generator) -> list[Part]:
    """In flight to the left: long body, one wing towards us and one away, tail fin, windows."""
    u = rng.uniform
    thick, sweep, near, far, root = u(0.24, 0.36), u(0.2, 0.5), u(0.5, 0.8), u(0.3, 0.55), u(-0.2, 0.0)
    half = thick / 2
    hull = [
        (-1.0, 0.04),
        (-0.85, -half * 0.8),
        (-0.5, -half),
        (0.5, -half),
        (0.98, -0.08),
        (0.95, 0.03),
        (0.4, half),
    ]
    fin = [(0.5, -half * 0.7), (u(0.78, 0.9), -u(0.45, 0.65)), (1.02, -u(0.45, 0.6)), (0.92, -half * 0.3)]
    wing = [(root, 0.05), (root + sweep + 0.1, near), (root + sweep + 0.28, near), (root + 0.45, 0.08)]
    other = [
        (root + 0.05, -half * 0.7),
        (root + sweep, -far),
        (root + sweep + 0.16, -far),
        (root + 0.38, -half * 0.7),
    ]
    parts = [body(other, "second"), body(fin, "accent"), body(smooth([*hull, (-0.6, half)]))]
    for x in np.linspace(-0.5, 0.5, int(rng.integers(4, 8))):
        parts.append(detail(ellipse(x, -half * 0.35, 0.045, 0.045), "dark"))
    parts.append(
        detail([(-0.93, -0.02), (-0.85, -half * 0.65), (-0.7, -half * 0.7), (-0.72, -0.01)], "light")
    )
    if rng.random() < 0.6:
        x, y = root + sweep * 0.6, near * 0.55
        parts.append(body(ellipse(x, y, 0.16, 0.075), "accent"))
    stub = [(0.7, 0.0), (0.92, u(0.2, 0.3)), (1.05, u(0.2, 0.3)), (0.95, 0.0)]
    return [*parts, body(wing, "second"), body(stub, "second")]


def _wheel(x: float, y: float, radius: float, spokes: int, start: float) -> list[Part]:
    rim: Points = ellipse(x, y, radius, radius)
    parts = [line(rim, 0.075, "dark")]
    for angle in start + np.arange(spokes) * np.pi / spokes:
        reach = radius * np.array([np.cos(angle), np.sin(angle)])
        parts.append(line([(x - reach[0], y - reach[1]), (x + reach[0], y + reach[1])], 0.02, "second"))
    return parts


def bicycle(rng: np.random.Generator) -> list[Part]:
    """From the side, riding left: two spoked wheels, a frame of bars, saddle and handlebar."""
    u = rng.uniform
    radius, apart, lift = u(0.36, 0.46), u(0.52, 0.62), u(-0.4, -0.25)
    y, spokes = 0.4, int(rng.integers(2, 5))
    front, back, pedal = (-apart, y), (apart, y), (u(-0.08, 0.08), y + 0.04)
    fork, seat = (-apart + u(0.12, 0.22), lift), (u(0.2, 0.3), lift - u(0.0, 0.08))
    bar = 0.08
    grip = (fork[0] - 0.03, fork[1] - 0.22)
    parts = [*_wheel(*front, radius, spokes, u(0, 1)), *_wheel(*back, radius, spokes, u(0, 1))]
    for path in ([front, fork], [fork, pedal], [pedal, back], [back, seat], [fork, seat], [pedal, seat]):
        parts.append(line(path, bar, "main"))
    parts += [line([fork, grip], bar, "main"), line([seat, (seat[0] + 0.03, seat[1] - 0.14)], bar, "main")]
    saddle = tube(
        np.linspace([seat[0] - 0.16, seat[1] - 0.17], [seat[0] + 0.18, seat[1] - 0.19], 4), 0.07, 0.14
    )
    if rng.random() < 0.5:
        hook = arc(grip[0] - 0.05, grip[1] + 0.08, 0.16, 0.13, -np.pi * 0.6, -np.pi * 1.35)
    else:
        hook = np.array([(grip[0] - 0.22, grip[1] + 0.04), grip, (grip[0] + 0.14, grip[1] - 0.05)])
    parts += [body(saddle, "dark"), line(hook, 0.07, "dark"), body(ellipse(*pedal, 0.1, 0.1), "accent")]
    if rng.random() < 0.35:
        x0, y0 = grip[0] - 0.42, grip[1] + 0.08
        parts.append(body(box(x0, y0, x0 + 0.32, y0 + 0.26), "second"))
    return parts
