"""An opened index version and search in it."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from ucdr_ray.embeddings import ModelRef
from ucdr_ray.errors import UserError
from ucdr_ray.files import read_json
from ucdr_ray.images import Resize
from ucdr_ray.index.kinds import Effort
from ucdr_ray.index.manifest import Manifest, ShardEntry
from ucdr_ray.index.merge import Hit, best, merge
from ucdr_ray.index.open_set import OpenSet
from ucdr_ray.index.shard import Shard, some_ids
from ucdr_ray.index.versions import current, read_manifest, version_folder

_EXAMPLES = 4  # of each domain

if TYPE_CHECKING:
    from ucdr_ray.models.encoder import Encoder


@dataclass(frozen=True)
class Answer:
    """The answer to one query, with what it rests on."""

    index_version: str
    model: ModelRef
    shards_answered: int
    shards_total: int
    hits: list[Hit]  # the top k of all the domains asked
    by_domain: dict[str, list[Hit]]  # the top k of each
    notes: list[str]


class OpenDomain:
    """The shards of one domain, opened."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        domain: str,
        only: list[ShardEntry] | None = None,
        shortcuts: bool = True,
    ) -> None:
        """All of its shards, or those of a part; without shortcuts for those who read rows, and search exactly."""
        self.name = domain
        entries = manifest.shards_of(domain)
        chosen = entries if only is None else [entry for entry in entries if entry in only]
        self.shards = [Shard(folder, entry, manifest.dim, shortcuts) for entry in chosen]

    def search(
        self, queries: np.ndarray, k: int, exact: bool = False, effort: Effort | None = None
    ) -> list[list[Hit]]:
        """The top k of this domain for each of (Q, dim) unit rows, in order."""
        found = [shard.search(queries, k, exact, effort) for shard in self.shards]
        if not found or not len(queries):
            return [[] for _ in queries]
        tops = found[0] if len(found) == 1 else [best(parts, k) for parts in zip(*found, strict=True)]
        scores, slots, ids = (np.concatenate(column) for column in zip(*tops, strict=True))
        rows = zip(scores.tolist(), ids.tolist(), slots.tolist(), self.sources(slots), strict=True)
        hits = (Hit(score, self.name, id_.decode(), slot, source) for score, id_, slot, source in rows)
        return [list(islice(hits, len(top.scores))) for top in tops]

    def sources(self, slots: np.ndarray) -> list[str]:
        """Where images came from; slots int64 (n,)."""
        if len(self.shards) == 1:
            return self.shards[0].metadata.sources(slots)
        places = np.searchsorted([shard.entry.first_slot for shard in self.shards], slots, side="right") - 1
        found = np.empty(len(slots), dtype=object)
        for place in np.unique(places).tolist():
            here = places == place
            found[here] = self.shards[place].metadata.sources(slots[here])
        return list(found)

    def thumbnail(self, slot: int) -> bytes:
        """A small encoded image."""
        return self._shard(slot).metadata.thumbnail(slot)

    def find(self, id_: str) -> int | None:
        """The slot of an image that can be found in these shards."""
        found = (shard.find(id_.encode(errors="surrogatepass")) for shard in self.shards)
        return next((slot for slot in found if slot is not None), None)

    def vectors(self, slots: np.ndarray) -> np.ndarray:
        """Float32 (n, dim)."""
        return np.stack([self._shard(int(slot)).vectors(slot) for slot in slots])

    def live(self) -> tuple[np.ndarray, np.ndarray]:
        """Slots int64 (n,), ascending, and ids bytes (n,) of the rows that can be found."""
        slots = np.concatenate([shard.slots for shard in self.shards])
        ids = np.concatenate([shard.ids(shard.slots) for shard in self.shards])
        return slots, ids

    def _shard(self, slot: int) -> Shard:
        return self.shards[bisect_right(self.shards, slot, key=lambda shard: shard.entry.first_slot) - 1]


class Index:
    """One version of an index, or a part of its shards. Domains are loaded when first asked for."""

    def __init__(
        self, folder: Path, version: str, manifest: Manifest, only: list[ShardEntry] | None = None
    ) -> None:
        self.folder = folder
        self.version = version
        self.manifest = manifest
        self._only = only
        self._open: dict[str, OpenDomain] = {}

    @classmethod
    def open(
        cls,
        path: Path,
        version: str | None = None,
        only: Callable[[Manifest], list[ShardEntry]] | None = None,
    ) -> Self:
        """Open the current version, or the one named, and verify all of it.

        Args:
            only: which shards are verified and searched; all of them without it.

        Raises:
            UserError: there is no index, or a file is missing or damaged (named).
        """
        path = Path(path)
        name = version or current(path)
        manifest = read_manifest(path, name)
        folder = version_folder(path, name)
        chosen = None if only is None else only(manifest)
        manifest.check_files(folder, chosen)
        return cls(folder, name, manifest, chosen)

    @cached_property
    def encoder(self) -> "Encoder":
        """The encoder for queries.

        Raises:
            UserError: it is not the model that made the vectors.
        """
        from ucdr_ray.models.encoder import Encoder

        encoder = Encoder.load(self.folder / "encoder")
        check_encoder(encoder, self.manifest.model, self.manifest.dim, self.folder / "encoder")
        return encoder

    @cached_property
    def open_set(self) -> OpenSet | None:
        """What its domains have in common, if it was built to know that."""
        common = self.manifest.common
        return None if common is None else OpenSet.load(self.folder / common.file, common.domains)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Images of each domain that can be found, by name, sorted; of all of the version, as the manifest says."""
        return {name: self.manifest.rows_of(name) for name in self.manifest.domains}

    @cached_property
    def shards(self) -> dict[str, int]:
        """Shards of each domain, of all of the version."""
        return dict(Counter(entry.domain for entry in self.manifest.shards))

    @cached_property
    def picture(self) -> tuple[int, Resize]:
        """Side of the squares that the encoder takes, and how an image becomes one; without loading it."""
        text = read_json(self.folder / "encoder" / "encoder.json", "encoder")
        return int(text["size"]), text["resize"]

    @cached_property
    def reads_text(self) -> bool:
        """Whether the encoder reads words, too; without loading it."""
        return any(record.file.startswith("encoder/text/") for record in self.manifest.encoder)

    def domain(self, name: str) -> OpenDomain:
        """One domain's shards and metadata.

        Raises:
            UserError: there is none of this name; the message names those that exist.
        """
        self._check(name)
        if name not in self._open:
            self._open[name] = OpenDomain(self.folder, self.manifest, name, self._only)
        return self._open[name]

    def stored(self, name: str) -> OpenDomain:
        """The same for those who read rows: without shortcuts, and not kept in memory."""
        self._check(name)
        return OpenDomain(self.folder, self.manifest, name, self._only, shortcuts=False)

    def _check(self, name: str) -> None:
        if name not in self.manifest.domains:
            raise UserError(f"no domain {name!r} in this index; it has: {', '.join(self.manifest.domains)}")

    def find(self, id_: str, domain: str | None = None) -> tuple[str, int] | None:
        """Domain and slot of an image, in the domain named or the first that has it.

        Raises:
            UserError: no such domain.
        """
        for name in self.manifest.domains if domain is None else [domain]:
            if (slot := self.domain(name).find(id_)) is not None:
                return name, slot
        return None

    @cached_property
    def examples(self) -> dict[str, list[str]]:
        """Ids of a few images of each domain, evenly over its first shard. Opens no shard."""
        found = {}
        for name in self.manifest.domains:
            entry = self.manifest.shards_of(name)[0]
            found[name] = some_ids(self.folder, entry, _EXAMPLES)
        return found

    def search(
        self, queries: np.ndarray, domains: Sequence[str] | None = None, k: int = 10, exact: bool = False
    ) -> list[Answer]:
        """The top k by cosine, over all the domains asked together and in each.

        Where a shard has a shortcut, nearly the top k; the manifest states the recall of the top 10. Scores are right.

        Args:
            queries: (Q, dim); any length above 0, scaled to 1 here.
            domains: names; all of the index when None.
            k: at least 1. A domain with fewer images answers with all, and the answer notes it.
            exact: take no shortcut.

        Raises:
            UserError: an unknown domain, k < 1, a wrong dimension, or a query that is not finite or zero.
        """
        if k < 1:
            raise UserError(f"k = {k}: at least 1 is allowed")
        names = list(dict.fromkeys(self.manifest.domains if domains is None else domains))
        opened = [self.domain(name) for name in names]
        queries = unit_rows(queries, self.manifest.dim)
        found = [domain.search(queries, k, exact) for domain in opened]
        shards = sum(len(domain.shards) for domain in opened)
        notes = [
            f"{name} has only {rows} images" for name in names if (rows := self.manifest.rows_of(name)) < k
        ]
        return [
            Answer(
                index_version=self.version,
                model=self.manifest.model,
                shards_answered=shards,
                shards_total=shards,
                hits=merge(lists, k),
                by_domain=dict(zip(names, lists, strict=True)),
                notes=notes,
            )
            for lists in zip(*found, strict=True)
        ]


def unit_rows(queries: np.ndarray, dim: int) -> np.ndarray:
    """Check and scale query vectors to float32 (Q, dim) unit rows.

    Raises:
        UserError: a wrong shape, or a row that is not finite or is zero.
    """
    queries = np.asarray(queries, np.float64)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise UserError(f"query vectors have shape {queries.shape}: (number of queries, {dim}) is allowed")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise UserError(f"query vector {bad[0]} is zero or not finite: a direction is needed")
    return np.ascontiguousarray(queries / lengths, np.float32)


def check_encoder(encoder: "Encoder", model: ModelRef, dim: int, where: Path) -> None:
    """Raise UserError unless ``encoder`` is the model that made vectors of ``dim`` numbers."""
    if (encoder.fingerprint, encoder.dim) != (model.fingerprint, dim):
        raise UserError(
            f"foreign encoder in {where}: {encoder.name} is not {model.name}, which made the vectors"
        )
