"""Where the rows of a new shard come from: embeddings and their catalog, or an earlier version of the index."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import faiss
import numpy as np

from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.images import Reject, prepare
from ucdr_ray.index.manifest import Manifest
from ucdr_ray.index.search import OpenDomain

THUMBNAIL_SIDE = 128
_AT_ONCE = 512  # rows whose images are in memory together


class Rows(NamedTuple):
    """B rows of a domain: ids, unit vectors float32 (B, dim), where the images came from, and small images."""

    ids: list[str]
    vectors: np.ndarray
    sources: list[str]
    thumbnails: list[bytes]


class Source(Protocol):
    """Rows by domain and slot. Can be sent to another process, which opens it anew."""

    def batches(self, domain: str, slots: np.ndarray) -> Iterator[Rows]:
        """Rows of ascending slots int64 (n,), in their order."""

    def vectors(self, domain: str, slots: np.ndarray) -> np.ndarray:
        """Float32 (n, dim) of slots in any order."""


@dataclass(frozen=True)
class Embedded:
    """What `ucdr embed` wrote, and the catalog that was embedded, both opened and found right before."""

    path: Path
    catalog_path: Path

    @cached_property
    def embeddings(self) -> Embeddings:
        return Embeddings.open(self.path, verify=False)

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog.open(self.catalog_path, verify=False)

    def batches(self, domain: str, slots: np.ndarray) -> Iterator[Rows]:
        with ThreadPoolExecutor(faiss.omp_get_max_threads()) as threads:
            for batch in self.embeddings.batches(domain, _reach(slots)):
                here = _inside(slots, batch.first_slot, len(batch.ids))
                for start in range(0, len(here), _AT_ONCE):
                    some = here[start : start + _AT_ONCE]
                    places = some - batch.first_slot
                    ids = [batch.ids[place] for place in places]
                    columns = ["id", "source", "image", "width", "height"]
                    table = self.catalog.take(domain, some.tolist(), columns)
                    if table["id"].to_pylist() != ids:
                        raise UserError(
                            f"{self.path} and {self.catalog_path} disagree on the ids of domain {domain}"
                        )
                    names = ("image", "width", "height", "source")
                    pictures = zip(*(table[name].to_pylist() for name in names), strict=True)
                    thumbnails = list(threads.map(_thumbnail, pictures))
                    yield Rows(ids, batch.vectors[places], table["source"].to_pylist(), thumbnails)

    def vectors(self, domain: str, slots: np.ndarray) -> np.ndarray:
        rows = np.empty((len(slots), self.embeddings.dim), np.float32)
        for batch in self.embeddings.batches(domain, _reach(slots)):
            here = (slots >= batch.first_slot) & (slots < batch.first_slot + len(batch.vectors))
            rows[here] = batch.vectors[slots[here] - batch.first_slot]
        return rows


@dataclass(frozen=True)
class Built:
    """A version of an index."""

    folder: Path
    manifest: Manifest

    def batches(self, domain: str, slots: np.ndarray) -> Iterator[Rows]:
        for shard in self._opened(domain, slots).shards:
            here = _inside(slots, shard.entry.first_slot, shard.entry.rows)
            for start in range(0, len(here), _AT_ONCE):
                some = here[start : start + _AT_ONCE]
                meta = shard.metadata
                ids = [id_.decode() for id_ in meta.ids[some - shard.entry.first_slot].tolist()]
                sources, thumbnails = meta.sources(some), meta.thumbnails(some)
                yield Rows(ids, shard.vectors(some), sources, thumbnails)

    def vectors(self, domain: str, slots: np.ndarray) -> np.ndarray:
        return self._opened(domain, slots).vectors(slots)

    def _opened(self, domain: str, slots: np.ndarray) -> OpenDomain:
        """With those shards alone that hold some of the slots: each is written from few of them."""
        entries = self.manifest.shards_of(domain)
        ends = np.cumsum([entry.rows for entry in entries])
        needed = np.unique(np.searchsorted(ends, slots, side="right"))
        some = [entries[place] for place in needed.tolist()]
        return OpenDomain(self.folder, self.manifest, domain, some, shortcuts=False)


def check_catalog(embeddings: Embeddings, catalog: Catalog) -> None:
    """Raise UserError unless ``catalog`` is the one that was embedded."""
    if catalog.fingerprint != embeddings.catalog.fingerprint:
        raise UserError(
            f"the catalog at {catalog.path} is not the one that was embedded in {embeddings.path}"
        )


def _reach(slots: np.ndarray) -> range:
    """From the first of some slots to the last."""
    return range(int(slots.min()), int(slots.max()) + 1) if len(slots) else range(0)


def _inside(slots: np.ndarray, first: int, rows: int) -> np.ndarray:
    """Those of ascending slots that lie in ``first … first + rows - 1``."""
    start, end = np.searchsorted(slots, [first, first + rows])
    return slots[start:end]


def _thumbnail(row: tuple[bytes, int, int, str]) -> bytes:
    image, width, height, source = row
    if max(width, height) <= THUMBNAIL_SIDE:
        return image
    try:
        return prepare(image, THUMBNAIL_SIDE, max_pixels=None).data
    except Reject as reject:
        raise JobError(f"cannot make a thumbnail of the image from {source}: {reject.reason}") from None
