"""How sparse the mutual neighbour graph is, by k: who has a neighbour at all, and whom does nobody name.

Each pair of domains is searched once, at the largest k. Lists are best first, so that those of a smaller k are their
beginnings.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ucdr_ray.neighbors.centre import centred
from ucdr_ray.neighbors.mutual import returned
from ucdr_ray.neighbors.nearest import Nearest, slots_of
from ucdr_ray.neighbors.order import alike, by_slot
from ucdr_ray.neighbors.search import Rows, search, side

_FROM = (0, 1, 2, 3, 6, 11, 21, 51, 101, 201, 501)
BINS = ("0", "1", "2", "3-5", "6-10", "11-20", "21-50", "51-100", "101-200", "201-500", ">500")

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Degrees:
    """Of how many others each of some rows is a neighbour."""

    share: float  # of the rows that have at least one, 0..1
    mean: float
    largest: int
    histogram: tuple[int, ...]  # rows in each of BINS

    @classmethod
    def of(cls, degree: Tensor) -> "Degrees":
        """From (N,) int64, N > 0."""
        place = torch.bucketize(degree, torch.tensor(_FROM), right=True) - 1
        histogram = torch.bincount(place, minlength=len(BINS))
        share, mean = float((degree > 0).double().mean()), float(degree.double().mean())
        return cls(share, mean, int(degree.max()), tuple(histogram.tolist()))


ByK = dict[int, Degrees]


@dataclass(frozen=True)
class Sparsity:
    """The neighbours in `other` of the rows of `domain`, by k; inside a domain the two are the same.

    `mutual`: rows of `other` among a row's k nearest that have it among theirs. `named`: rows of `other` that have it
    among their k nearest, whatever its own are. Without any filter every row has k neighbours, but not every row is
    one: who is named by nobody has no mutual neighbour either, and few that everybody names leave none for the rest.
    """

    domain: str
    other: str
    rows: int
    mutual: ByK
    named: ByK


def sparsity(
    domains: Sequence[tuple[str, Tensor]],
    ks: Sequence[int],
    centre: bool,
    advance: Advance = lambda count: None,
) -> list[Sparsity]:
    """Sparsity of every ordered pair of domains, and inside each domain, self excluded.

    Args:
        domains: name and (N, D) float32 unit rows of each, N > 0, all on one device.
        ks: the numbers of neighbours to tell of.
        centre: subtract each domain's mean (and renormalise) for the pairs of two domains, as training does.
        advance: told how many more of the `comparisons` are done.

    Cost grows as rows^2 * D. Memory, beside the rows: of one pair at a time the lists, 8 (k + 32) bytes a row for the
    largest k, and about five times that while they are compared.

    Raises:
        ValueError: a vector is not finite.
    """
    shifted = [centred(rows) if centre else rows for _, rows in domains]
    made: dict[tuple[int, int], Sparsity] = {}
    for a, (name, rows) in enumerate(domains):
        there, _ = _lists(rows, None, max(ks), advance)
        mutual, _ = _mutual(there, there, ks)
        made[a, a] = Sparsity(name, name, len(rows), mutual, _named(there, len(rows), ks))
        for b in range(a + 1, len(domains)):
            other, keys = domains[b]
            there, back = _lists(shifted[a], shifted[b], max(ks), advance)
            forward, backward = _mutual(there, back, ks)
            made[a, b] = Sparsity(name, other, len(rows), forward, _named(back, len(rows), ks))
            made[b, a] = Sparsity(other, name, len(keys), backward, _named(there, len(keys), ks))
    return [made[pair] for pair in sorted(made)]


def comparisons(sizes: Sequence[int]) -> int:
    """What `sparsity` compares in domains of these sizes: every row with every row."""
    return sum(sizes) ** 2


def _lists(a: Tensor, b: Tensor | None, k: int, advance: Advance) -> tuple[Tensor, Tensor]:
    """Codes, best first, of each row's neighbours: (N, k) of a's in b, (M, k) of b's in a; without b inside a."""
    one = alike(Rows.all(a))
    two = one if b is None else alike(Rows.all(b))
    left = list(_blocks(one, k))
    right = left if b is None else list(_blocks(two, k))
    for i, (rows, found) in enumerate(left):
        for j, (others, back) in enumerate(right):
            if b is None and j < i:
                continue  # each block found the other when it was j's turn
            if b is None and i == j:
                search(rows, found)
                advance(len(rows) ** 2)
            else:
                search(rows, found, others, back)
                advance(2 * len(rows) * len(others))
    there, back_there = (
        by_slot(torch.cat([near.codes() for _, near in side]), rows).cpu()
        for side, rows in ((left, one), (right, two))
    )
    return there, back_there


def _blocks(rows: Rows, k: int) -> Iterator[tuple[Rows, Nearest]]:
    """A domain in pieces that take seconds to compare, so that progress shows."""
    device = rows.vectors.device
    size = 8 * side(device)
    for first in range(0, len(rows), size):
        some = Rows(rows.vectors[first : first + size], rows.slots[first : first + size])
        yield some, Nearest(len(some), k, device)


def _mutual(there: Tensor, back: Tensor, ks: Sequence[int]) -> tuple[ByK, ByK]:
    """Degrees in the mutual graph of the N rows whose lists are `there` (N, K), and of the M of `back` (M, K)."""
    return (
        {k: Degrees.of(returned(there[:, :k], back[:, k - 1]).sum(1)) for k in ks},
        {k: Degrees.of(returned(back[:, :k], there[:, k - 1]).sum(1)) for k in ks},
    )


def _named(lists: Tensor, rows: int, ks: Sequence[int]) -> ByK:
    """In how many of the lists each of the `rows` stands that they are of."""
    cut = {k: slots_of(lists[:, :k]) for k in ks}
    return {k: Degrees.of(torch.bincount(near[near >= 0], minlength=rows)) for k, near in cut.items()}
