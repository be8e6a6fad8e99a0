"""The search for neighbours among shards: rows and lists go from shard to shard, not through who leads it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ucdr_ray.cluster.approximate_search import ApproximateSearch
from ucdr_ray.cluster.bank import Forgotten
from ucdr_ray.cluster.shards import Shards
from ucdr_ray.neighbors.approximate import EXACT
from ucdr_ray.neighbors.memory import Neighbourhood, sparsity, told
from ucdr_ray.neighbors.search import pairs_once


def search_neighbours(
    shards: Shards,
    names: Sequence[str],
    wanted: Neighbourhood,
    attempt: int,
    search: int,
    version: int,
    lives: Sequence[str],
    seed: int,
) -> dict[str, float]:
    """Search all neighbours anew, in the rows of `version`; the graphs then lie with the shards.

    Between shards move, for each pair of domains and each shard, the rows of all others (D floats, a slot) and the
    lists found for them (k codes), then every edge once (12 bytes). An approximate search sends no lists.

    Args:
        lives: of the shards that hold the rows of `version`.
        seed: of the samples of an approximate search.

    Raises:
        Forgotten: a shard died meanwhile.
    """
    count, sizes = len(shards), shards.spec.sizes
    shares = shards.all("total", version) if wanted.centred_across else []
    totals = [np.sum(parts, axis=0) for parts in zip(*shares, strict=True)]
    if shards.all("begin", search, version, wanted, totals) != list(lives):
        raise Forgotten

    domains = range(len(sizes))
    inside = [(a, a) for a in domains] if wanted.k_in is not None else []
    across = [(a, b) for a in domains for b in domains if a < b] if wanted.k_cross is not None else []
    report: dict[str, float] = {}
    approximate = ApproximateSearch(shards, search, wanted, seed)
    for a, b in inside + across:
        quality = EXACT
        if wanted.approximately(sizes[a], sizes[b]):
            quality = approximate.pair(a, b)
            report |= told(names[a], names[b], quality)
        if quality == EXACT:
            _search_pair(shards, search, a, b)

    graphs = inside + across + [(b, a) for a, b in across]
    for a, b in graphs:
        named = [actor.named.options(num_returns=count).remote(search, a, b) for actor in shards.actors]
        table = [row if count > 1 else [row] for row in named]  # [from][to]
        shards.get({
            actor.step.remote(search, "link", a, b, wanted.mutual, *(row[to] for row in table)): to
            for to, actor in enumerate(shards.actors)
        })  # fmt: skip
    for a, b in sorted(graphs):
        degrees = shards.all("step", search, "degrees", a, b, wanted.mutual)
        with_any, edges = map(sum, zip(*degrees, strict=True))
        report |= sparsity(names[a], names[b], with_any, edges, sizes[a])
    shards.all("end", attempt, search, report)
    return report


def _search_pair(shards: Shards, search: int, a: int, b: int) -> None:
    """All shards' rows of `a` against all shards' rows of `b`, in rounds in which each has one other's."""
    for round_ in _rounds(len(shards), a == b):
        rows: dict[int, Any] = {}
        found: dict[Any, int] = {}
        back: dict[Any, int] = {}
        for mine, peer in round_:
            theirs = None
            if mine != peer:
                if peer not in rows:
                    rows[peer] = shards.actors[peer].step.remote(search, "searched", b, a != b)
                theirs = rows[peer]
            codes = shards.actors[mine].once.remote(search, "search", peer, a, b, peer, theirs)
            found[codes] = mine
            if mine != peer:
                back[shards.actors[peer].once.remote(search, "merge", mine, b, a, codes)] = peer
        shards.wait(found)
        shards.get(back)


def _rounds(count: int, inside: bool) -> Iterator[list[tuple[int, int]]]:
    """All pairs of shards, in rounds."""
    rounds: dict[int, list[tuple[int, int]]] = {}
    for a, b in pairs_once(count, count, inside):
        rounds.setdefault((b - a) % count, []).append((a, b))
    yield from rounds.values()
