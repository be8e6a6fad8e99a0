"""Training batches of a data set that doesn't fit in memory: decoded anew every epoch, in an order known beforehand."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ucdr_ray.catalog import Catalog
from ucdr_ray.decoded import Span, cut, spans
from ucdr_ray.feed import Images, shard, shuffled

Window = list[Span]
# Pixels (N, 3, side, side) uint8, and if wanted latents (N, V, 2, C, s, s) float16.
Columns = tuple[np.ndarray, ...]
Pick = tuple[np.ndarray, Columns]  # slots (N,), and what was read of them
Stream = Callable[[list[Window], bool], Iterator[Columns]]

_RUN = 128  # images read together: a row group of the catalog
_WINDOW = 4 * _RUN  # images shuffled together, and decoded as one piece of work


class StreamFeed:
    """One worker's share of every step, of a data set that only passes through.

    In every epoch each domain's runs of consecutive images are put into a random order, dealt out to the workers and
    shuffled again in windows, so that reading stays sequential. All of this follows from seed, epoch and number of
    workers: workers always agree on the number of steps, and a resumed run sees what the uninterrupted one would.
    A domain smaller than the largest is run through several times in an epoch; one of at most a window is kept.

    Args:
        domains: names, in the order of domain indices.
        stream: reads windows, in the order given, without or with their latents.
        side: of the images, in pixels.
        batch: images per domain and step, over all workers.
        latents: epochs may ask for them.

    Memory: a window of each domain, and what the stream holds ready.
    """

    def __init__(
        self,
        catalog: Catalog,
        domains: Sequence[str],
        stream: Stream,
        side: int,
        batch: int,
        seed: int,
        rank: int = 0,
        workers: int = 1,
        latents: bool = False,
    ) -> None:
        self._runs = [spans(catalog, name, _RUN) for name in domains]
        self._sizes = [catalog.domain(name).images for name in domains]
        self._stream, self._side, self._latents = stream, side, latents
        self.batch, self.rows = batch, batch * len(domains)
        self._seed, self._rank, self._workers = seed, rank, workers
        small = [d for d, size in enumerate(self._sizes) if size <= max(batch, _WINDOW)]
        windows = [self._runs[d] for d in small]
        self._kept = dict(zip(small, stream(windows, latents), strict=True)) if small else {}

    def steps(self) -> int:
        return -(-max(self._sizes) // self.batch)

    def epoch(self, epoch: int, latents: bool = False) -> Iterator[Images]:
        assert self._latents or not latents
        mine = shard(self.batch, self._rank, self._workers)
        rows, domains = mine.stop - mine.start, range(len(self._sizes))
        windows = {d: self._windows(d, epoch, mine) for d in domains if d not in self._kept}
        needs = sorted(_by_need(windows, rows), key=lambda need: need[:2])
        read = self._stream([window for _, _, window in needs], latents)
        pools = {d: _Pool(windows[d], read, [self._seed, d, epoch, self._rank]) for d in windows}
        for step in range(self.steps()):
            picks: list[Pick] = []
            for d in domains:
                if d in pools:
                    picks.append(pools[d].take(rows))
                else:
                    start = step * self.batch + mine.start
                    slots = shuffled(self._sizes[d], start, start + rows, [self._seed, d, epoch])
                    columns = self._kept[d] if latents else self._kept[d][:1]
                    picks.append((slots, tuple(column[slots] for column in columns)))
            positions = np.concatenate([np.arange(mine.start, mine.stop) + d * self.batch for d in domains])
            yield _images(picks, list(domains), positions)

    def _windows(self, domain: int, epoch: int, mine: slice) -> list[Window]:
        """This worker's images of an epoch: round after round through its share of the domain."""
        size, runs = self._sizes[domain], self._runs[domain]
        low, high = (size * edge // self.batch for edge in (mine.start, mine.stop))
        wanted = self.steps() * (mine.stop - mine.start)
        sequence: list[Span] = []
        for round_ in range(-(-wanted // (high - low))):
            order = np.random.default_rng([self._seed, domain, epoch, round_]).permutation(len(runs))
            sequence += cut((runs[index] for index in order), low, high)
        return _pieces(cut(sequence, 0, wanted), _WINDOW)

    def sweep(self) -> Iterator[Images]:
        rows = min(4 * self.batch, _WINDOW)
        windows: list[list[Window]] = []
        for size, runs in zip(self._sizes, self._runs, strict=True):
            mine = shard(size, self._rank, self._workers)
            windows.append(_pieces(cut(runs, mine.start, mine.stop), rows))
        read = self._stream([window for domain in windows for window in domain], False)
        for domain, (size, pieces) in enumerate(zip(self._sizes, windows, strict=True)):
            # The bank's exchange is collective: a worker that has run out goes on with empty hands.
            most = math.ceil(size / self._workers)
            for index in range(math.ceil(most / rows)):
                slots, pixels = np.empty(0, np.int64), np.empty((0, 3, self._side, self._side), np.uint8)
                if index < len(pieces):
                    slots, (pixels,) = _slots(pieces[index]), next(read)
                yield _images([(slots, (pixels,))], [domain], np.zeros(len(slots), np.int64))


class _Pool:
    """Takes a domain's windows from the common stream when they are needed, and shuffles each."""

    def __init__(self, windows: list[Window], read: Iterator[Columns], seed: list[int]) -> None:
        self._windows, self._read, self._seed = windows, read, seed
        self._next = 0
        self._slots = np.empty(0, np.int64)
        self._columns: Columns = ()
        self._order = np.empty(0, np.int64)

    def take(self, rows: int) -> Pick:
        """The next slots (rows,) and what was read of them."""
        taken: list[Pick] = []
        while rows:
            if len(self._order) == 0:
                self._slots, self._columns = _slots(self._windows[self._next]), next(self._read)
                self._order = np.random.default_rng([*self._seed, self._next]).permutation(len(self._slots))
                self._next += 1
            now, self._order = self._order[:rows], self._order[rows:]
            taken.append((self._slots[now], tuple(column[now] for column in self._columns)))
            rows -= len(now)
        return _joined(taken)


def _by_need(windows: dict[int, list[Window]], rows: int) -> Iterator[tuple[int, int, Window]]:
    """Every window with the step that first takes from it, and its domain."""
    for domain, own in windows.items():
        first = 0
        for window in own:
            yield first // rows, domain, window
            first += sum(map(len, window))


def _pieces(sequence: list[Span], rows: int) -> list[Window]:
    total = sum(map(len, sequence))
    return [cut(sequence, low, min(low + rows, total)) for low in range(0, total, rows)]


def _slots(window: Window) -> np.ndarray:
    return np.concatenate([span.slots for span in window])


def _joined(picks: list[Pick]) -> Pick:
    slots, columns = zip(*picks, strict=True)
    return np.concatenate(slots), tuple(np.concatenate(column) for column in zip(*columns, strict=True))


def _images(picks: list[Pick], domains: list[int], positions: np.ndarray) -> Images:
    slots, (pixels, *latents) = _joined(picks)
    return Images(
        torch.from_numpy(pixels),
        torch.from_numpy(np.repeat(np.array(domains), [len(own) for own, _ in picks])),
        torch.from_numpy(slots),
        torch.from_numpy(positions),
        torch.from_numpy(latents[0]) if latents else None,
    )
