"""Drawings by name: any number of them, each its own seeded scene."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ucdr_ray.drawings.objects import OBJECTS
from ucdr_ray.drawings.scene import compose
from ucdr_ray.drawings.styles import STYLES
from ucdr_ray.errors import UserError

SMALLEST, LARGEST = 16, 1024


@dataclass(frozen=True)
class Drawing:
    """pixels: uint8 RGB (size, size, 3); the names are plain words, as a prompt or a folder wants them."""

    object: str
    style: str
    index: int
    pixels: NDArray[np.uint8]


def check(object_name: str, style: str, size: int, seed: int) -> None:
    """Raise ``UserError`` unless there is such an object and style, size is 16..1024, and seed isn't negative."""
    for kind, name, known in (("object", object_name, OBJECTS.keys()), ("style", style, STYLES.keys())):
        if name not in known:
            raise UserError(f"no {kind} is named {name!r}; there are {', '.join(sorted(known))}")
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"size {size}: a drawing has {SMALLEST} to {LARGEST} pixels a side")
    if seed < 0:
        raise UserError(f"seed {seed}: it can't be negative")


def draw(object_name: str, style: str, size: int = 64, seed: int = 0, index: int = 0) -> NDArray[np.uint8]:
    """Draw the ``index``-th (0, 1, …) picture of an object in a style, as uint8 RGB (size, size, 3).

    A picture depends on nothing but the arguments: not on other pictures, and its scene not on ``size``. The same
    index in two styles gives unrelated scenes, so nothing pairs the styles but the class.

    Raises:
        UserError: what :func:`check` refuses.
    """
    check(object_name, style, size, seed)
    # Names enter by checksum, not by position: adding a class leaves the drawings of the others as they were.
    rng = np.random.default_rng([seed, index, zlib.crc32(object_name.encode()), zlib.crc32(style.encode())])
    scene = compose(OBJECTS[object_name], rng)
    return STYLES[style](scene, size, rng)


def iterate(
    per_class: int,
    size: int = 64,
    seed: int = 0,
    styles: Sequence[str] = tuple(STYLES),
    objects: Sequence[str] = tuple(OBJECTS),
) -> Iterator[Drawing]:
    """Yield ``per_class`` drawings of every object in every style, style by style."""
    for style in styles:
        for name in objects:
            for index in range(per_class):
                yield Drawing(name, style, index, draw(name, style, size, seed, index))
