"""The styles: each a function that renders a scene as (size, size, 3) bytes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ucdr_ray.drawings.scene import Scene
from ucdr_ray.drawings.styles.clipart import clipart
from ucdr_ray.drawings.styles.painting import painting
from ucdr_ray.drawings.styles.photo import photo
from ucdr_ray.drawings.styles.sketch import sketch

Style = Callable[[Scene, int, np.random.Generator], NDArray[np.uint8]]
STYLES: dict[str, Style] = {style.__name__: style for style in (clipart, painting, photo, sketch)}
