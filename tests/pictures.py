"""Encoded images of every good and bad kind, and a catalog made without Ray, for tests."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ucdr_ray.catalog import Catalog
from ucdr_ray.images import DEFAULT_MAX_PIXELS, Reject
from ucdr_ray.ingest.finish import finish, moves
from ucdr_ray.ingest.part import Settings, make_part, move_part, plan_folder
from ucdr_ray.ingest.plan import Plan, Selection, write_plan
from ucdr_ray.labels import labeller
from ucdr_ray.sources import list_items, parse_source
from ucdr_ray.sources.item import Item
from ucdr_ray.sources.read import read_items


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(seed: int, width: int = 12, height: int = 10, kind: str = "PNG") -> bytes:
    """An image that differs for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), kind)


def png_header(width: int, height: int) -> bytes:
    """A valid PNG that claims a size and holds next to nothing: what a decompression bomb starts like."""
    data = bytearray(encode(Image.new("L", (1, 1))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def bad_images() -> dict[str, bytes]:
    """One of each kind that can't be used, by a word that its reason holds."""
    jpeg, float_tiff = noise(0, 64, 64, "JPEG"), encode(Image.new("F", (4, 4)), "TIFF")
    return {
        "empty": b"",
        "truncated": jpeg[: len(jpeg) // 2],
        "not an image": b"GIF? no: just words in a file that is called .jpg",
        "too many pixels": png_header(50_000, 50_000),
        "animated": animation("GIF"),
        "unreadable mode": float_tiff,
    }


def tree(root: Path, files: dict[str, bytes]) -> Path:
    """Write ``files`` by relative path below ``root``."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def small_tree(root: Path, per_class: int = 3) -> Path:
    """Two domains of two classes."""
    names = [
        f"{d}/{c}/{i}.png" for d in ("photo", "sketch") for c in ("cat", "dog") for i in range(per_class)
    ]
    return tree(root, {name: noise(seed) for seed, name in enumerate(names)})


def plan(
    out: Path, *sources: str | Path, labels: str = "folder", base: int | None = None, **taken: Any
) -> Plan:
    items = list_items([parse_source(str(source)) for source in sources], base)
    return write_plan(items, Selection(labeller(labels), **taken), plan_folder(out))


def catalog(out: Path, *sources: str | Path, max_side: int | None = None, **options: Any) -> Catalog:
    """What ``ucdr ingest`` makes, part by part in this process."""
    settings = Settings(max_side=max_side, max_pixels=DEFAULT_MAX_PIXELS)
    planned = plan(out, *sources, **options)
    for chunk in planned.chunks:
        make_part(out, chunk, settings)
    for move in moves(out, planned):
        move_part(out, move.chunk, settings, move.first_slot)
    finish(out, planned, settings, planned.digest, [str(source) for source in sources])
    return Catalog.open(out)


def listed(*sources: str | Path, base: int | None = None, root: Path | None = None) -> list[Item]:
    """Every item of some sources."""
    return list(list_items([parse_source(str(source), root) for source in sources], base))


def facts(items: list[Item]) -> list[tuple[str, str, str | None]]:
    """Domain, source and label."""
    return [(item.domain, item.source, item.label) for item in items]


def contents(items: list[Item]) -> list[bytes | str]:
    """The bytes of each item, or why there are none."""
    return [data.reason if isinstance(data, Reject) else data for _, data in read_items(items, 10**6)]
