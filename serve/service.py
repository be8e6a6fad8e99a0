"""Questions to answers: decode, encode, search, and say what the answer rests on. Knows no HTTP and no Ray."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from serve.asking import ImageQuery
from serve.encoding import Encoding, Input
from serve.looking import Looked, Question, Row, Searcher, Wish
from serve.matching import told
from serve.measures import Measures
from serve.messages import BatchQuery, OneQuery, Wishes
from serve.refusal import Refusal, too_late
from serve.settings import ServiceSettings
from ucdr_ray.errors import UserError
from ucdr_ray.images import Reject, to_array
from ucdr_ray.index.search import Index, unit_rows

_MOST_HITS = 100_000  # of one call
_GRACE_S = 0.04  # beyond the deadline: what parts have answered by then is merged, rather than thrown away


@dataclass
class Clock:
    """When a request must be answered, and what its phases took."""

    deadline: float  # of the event loop's clock
    started: float = field(default_factory=time.perf_counter)
    ms: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "encode": 0.0, "search": 0.0})

    @contextmanager
    def phase(self, name: str):  # type: ignore[no-untyped-def]
        """Count what happens inside as one phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] += 1e3 * (time.perf_counter() - start)


class Service:
    """What the endpoints call."""

    def __init__(
        self,
        settings: ServiceSettings,
        searcher: Searcher,
        encoding: Encoding,
        measures: Measures,
        reload_all: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        """
        Args:
            reload_all: `refresh` in every copy of the service; in this one alone without it.
        """
        self._settings = settings
        self._searcher = searcher
        self._encoding = encoding
        self._measures = measures
        self._reload_all = reload_all or self.refresh
        self._decoding = ThreadPoolExecutor(max(1, int(settings.replicas.cpus)) + 1, "decode")

    @property
    def dim(self) -> int:
        """Of the vectors that may be asked with."""
        return self._searcher.newest.manifest.dim

    def clock(self) -> Clock:
        """Started now."""
        return Clock(asyncio.get_running_loop().time() + self._settings.deadline_ms / 1e3)

    async def search(self, query: ImageQuery | OneQuery, clock: Clock) -> dict[str, Any]:
        """The content of an `Answer`. Raises Refusal."""
        index = self._searcher.newest
        wishes = query.wishes if isinstance(query, ImageQuery) else query
        wish, domain = self._wish(wishes, index), wishes.query_domain
        async with self._in_time(clock):
            if isinstance(query, ImageQuery):
                vector = await self._encoded(query.image, index, clock)
            elif query.vector is not None:
                vector = _unit([query.vector], index)[0]
            elif query.text is not None:
                vector = await self._read(query.text, index, clock)
                wishes = wishes.model_copy(update={"null": "off"})  # words are from none of the domains
            else:
                assert query.id is not None
                row = await self._row(query.id, None, index)
                vector, domain = row.vector, domain or row.domain
            [looked] = await self._looked([vector], wish, index, clock)
        [found] = told([looked], vector[None], wish, wishes, domain)
        return found | self._rests(looked, wish, clock)

    async def batch(self, query: BatchQuery, clock: Clock) -> dict[str, Any]:
        """The content of a `BatchAnswer`. Raises Refusal."""
        limit = self._settings.limits.batch
        if len(query.vectors) > limit:
            raise Refusal(422, f"vectors: {len(query.vectors)} of them; at most {limit} are allowed")
        index = self._searcher.newest
        wish = self._wish(query, index)
        if (wanted := len(query.vectors) * wish.k * len(wish.domains)) > _MOST_HITS:
            raise Refusal(
                422, f"vectors, k and domains: {wanted} images wanted; at most {_MOST_HITS} are allowed"
            )
        vectors = _unit(query.vectors, index)
        async with self._in_time(clock):
            looked = await self._looked(list(vectors), wish, index, clock)
        if len({one.index.version for one in looked}) > 1:
            raise Refusal(503, "a new version is being taken up; try again", 1)
        fewest = min(looked, key=lambda one: one.answered)
        results = await asyncio.to_thread(told, looked, vectors, wish, query, query.query_domain)
        return {"results": results} | self._rests(fewest, wish, clock)

    async def image(self, id_: str, domain: str | None, clock: Clock) -> bytes:
        """A small encoded image. Raises Refusal."""
        index = self._searcher.newest
        async with self._in_time(clock):
            return (await self._row(id_, domain, index)).thumbnail

    async def refresh(self) -> str:
        """Take up the version in use, in this copy.

        Raises:
            UserError: it can't be used; the old one goes on.
        """
        await self._encoding.prepare()
        return await self._searcher.refresh()

    async def reload(self) -> str:
        """Take up the version in use, in every copy. Raises Refusal where it can't be used; the old one goes on."""
        try:
            return await self._reload_all()
        except UserError as error:
            raise Refusal(409, self.without_paths(str(error))) from None

    async def missing(self) -> list[str]:
        """What does not answer; nothing when ready."""
        return [*await self._searcher.missing(), *await self._encoding.missing()]

    def without_paths(self, text: str) -> str:
        """A message of the index, told from its folder on."""
        root = self._settings.index
        for path in (root.resolve(), root):
            text = text.replace(f"{path}/", "").replace(str(path), "its folder")
        return text

    def examples(self) -> list[dict[str, str]]:
        """The content of `Examples`: an image of each domain in turn."""
        of = self._searcher.newest.examples
        rounds = zip_longest(*([(name, id_) for id_ in ids] for name, ids in of.items()))
        return [{"domain": one[0], "id": one[1]} for turn in rounds for one in turn if one is not None]

    def info(self) -> dict[str, Any]:
        """The content of an `IndexInfo`."""
        index = self._searcher.newest
        manifest = index.manifest
        limits = self._settings.limits
        return {
            "index_version": index.version,
            "created": manifest.created,
            "model": manifest.model.model_dump(),
            "dim": manifest.dim,
            "metric": manifest.metric,
            "kind": manifest.kind,
            "images": manifest.totals.rows,
            "bytes": manifest.totals.bytes,
            "domains": {
                name: {"images": rows, "shards": index.shards[name]} for name, rows in index.rows.items()
            },
            "recalls": [pair.model_dump() for pair in manifest.recalls],
            "judges": manifest.common is not None,
            "reads_text": index.reads_text,
            "limits": {name: float(value) for name, value in limits.model_dump().items()}
            | {"deadline_ms": self._settings.deadline_ms},
        }

    def _wish(self, wishes: Wishes, index: Index) -> Wish:
        limit = self._settings.limits.k
        if wishes.k > limit:
            raise Refusal(422, f"k: above the limit of {limit}")
        there = index.rows
        names = tuple(dict.fromkeys(there if wishes.domains is None else wishes.domains))
        for name in names:
            if name not in there:
                raise Refusal(
                    422, f"domains: there is no {name[:40]!r} in this index; it has: {', '.join(there)}"
                )
        return Wish(names, wishes.k, wishes.exact)

    async def _encoded(self, image: bytes, index: Index, clock: Clock) -> np.ndarray:
        size, resize = index.picture
        limit = self._settings.limits.pixels
        with clock.phase("decode"):
            try:
                decoded = await asyncio.get_running_loop().run_in_executor(
                    self._decoding, to_array, image, size, resize, limit
                )
            except Reject as reject:
                raise Refusal(_status(reject), f"image: {reject.reason}") from None
        with clock.phase("encode"):
            [vector] = await self._encoding.encode([Input(decoded, index, clock.deadline)])
        return vector

    async def _read(self, text: str, index: Index, clock: Clock) -> np.ndarray:
        if not index.reads_text:
            raise Refusal(422, "text: the encoder of this index reads images only")
        with clock.phase("encode"):
            [vector] = await self._encoding.encode([Input(text, index, clock.deadline)])
        return vector

    async def _row(self, id_: str, domain: str | None, index: Index) -> Row:
        if domain is not None and domain not in index.rows:
            raise Refusal(404, f"domain: there is no {domain[:40]!r} in this index")
        row = await self._searcher.row(id_, domain, index)
        if row is None:
            raise Refusal(404, "id: there is no such image in this index")
        return row

    async def _looked(
        self, vectors: Sequence[np.ndarray], wish: Wish, index: Index, clock: Clock
    ) -> list[Looked]:
        with clock.phase("search"):
            return await self._searcher.search(
                [Question(vector, wish, index, clock.deadline) for vector in vectors]
            )

    def _in_time(self, clock: Clock) -> "_InTime":
        return _InTime(clock, self._settings.deadline_ms)

    def _rests(self, looked: Looked, wish: Wish, clock: Clock) -> dict[str, Any]:
        manifest = looked.index.manifest
        clock.ms["total"] = 1e3 * (time.perf_counter() - clock.started)
        self._measures.phases(clock.ms)
        return {
            "index_version": looked.index.version,
            "model": {"name": manifest.model.name, "fingerprint": manifest.model.fingerprint},
            "shards": {"answered": looked.answered, "total": looked.total},
            "partial": looked.answered < looked.total,
            "notes": [
                f"{name} has only {rows} images"
                for name in wish.domains
                if (rows := looked.index.rows[name]) < wish.k
            ],
            "timings_ms": {name: round(value, 3) for name, value in clock.ms.items()},
        }


class _InTime:
    """`asyncio.timeout_at` the deadline, whose end is a Refusal."""

    def __init__(self, clock: Clock, deadline_ms: float) -> None:
        self._timeout = asyncio.timeout_at(clock.deadline + _GRACE_S)
        self._deadline_ms = deadline_ms

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise too_late(self._deadline_ms) from None


def _unit(vectors: Sequence[Sequence[float]], index: Index) -> np.ndarray:
    dim = index.manifest.dim
    for number, vector in enumerate(vectors):
        if len(vector) != dim:
            raise Refusal(422, f"vector {number}: has {len(vector)} numbers; this index has {dim} dimensions")
    try:
        return unit_rows(np.array(vectors), dim)
    except UserError as error:
        raise Refusal(422, str(error)) from None


def _status(reject: Reject) -> int:
    return 413 if reject.reason.startswith("too many pixels") else 422
