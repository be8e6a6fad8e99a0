"""Which images a step sees: everything, in an order that seed and step alone decide, on any number of workers."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ucdr_ray.decoded import Chunks
from ucdr_ray.feed import ResidentFeed, shard, shuffled


def numbered(*sizes: int) -> list[np.ndarray]:
    """Per domain images (N, 3, 2, 2), all pixels of which are the image's slot."""
    return [np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 3, 2, 2)) for n in sizes]


@settings(deadline=None)
@given(rows=st.integers(0, 50), workers=st.integers(1, 9))
def test_shards_are_whole_and_even(rows, workers):
    shards = [shard(rows, rank, workers) for rank in range(workers)]
    assert [row for part in shards for row in range(rows)[part]] == list(range(rows))
    lengths = [part.stop - part.start for part in shards]
    assert max(lengths) - min(lengths) <= 1


@settings(deadline=None)
@given(rows=st.integers(1, 20), start=st.integers(0, 60), length=st.integers(1, 60))
def test_the_endless_sequence_is_made_of_permutations(rows, start, length):
    whole = shuffled(rows, 0, start + length + rows, [7])
    assert shuffled(rows, start, start + length, [7]).tolist() == whole[start : start + length].tolist()
    for first in range(0, len(whole) - rows + 1, rows):
        assert sorted(whole[first : first + rows]) == list(range(rows))


def test_a_single_image_beside_many_costs_nothing():
    """One round, and one generator, for each of 200,000 times it is seen would be 25 MB and seconds."""
    tracemalloc.start()
    found = shuffled(1, 3, 200_003, [7])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.tolist() == [0] * 200_000 and peak < 4e6


def test_an_epoch_shows_all_of_the_largest_domain_and_every_domain_equally():
    feed = ResidentFeed(numbered(23, 9, 1), batch=4, seed=3)
    assert (feed.steps(), feed.rows) == (6, 12)
    seen = [[], [], []]
    for images in feed.epoch(0):
        assert images.domain.bincount().tolist() == [4, 4, 4]
        assert images.position.tolist() == list(range(12))
        assert torch.equal(images.pixels[:, 0, 0, 0].long(), images.slot)
        for domain, slot in zip(images.domain.tolist(), images.slot.tolist()):
            seen[domain].append(slot)
    assert sorted(set(seen[0])) == list(range(23))
    assert sorted(seen[1][:9]) == sorted(seen[1][9:18]) == list(range(9))
    assert seen[2] == [0] * 24


def test_epochs_differ_and_come_again():
    def slots(epoch: int, seed: int = 3) -> list[int]:
        feed = ResidentFeed(numbered(30, 30), 5, seed)
        return [slot for images in feed.epoch(epoch) for slot in images.slot.tolist()]

    assert slots(4) == slots(4)
    assert slots(4) != slots(5) and slots(4) != slots(4, seed=1)


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_share_out_what_one_worker_would_see(workers):
    arrays = numbered(23, 9, 1)
    alone = ResidentFeed(arrays, 5, 3)
    feeds = [ResidentFeed(arrays, 5, 3, rank, workers) for rank in range(workers)]
    for whole, *parts in zip(alone.epoch(2), *(feed.epoch(2) for feed in feeds), strict=True):
        order = torch.cat([part.position for part in parts]).argsort()
        for name in ("position", "domain", "slot", "pixels"):
            assert torch.equal(
                torch.cat([getattr(part, name) for part in parts])[order], getattr(whole, name)
            )
    for whole, *parts in zip(alone.sweep(), *(feed.sweep() for feed in feeds), strict=True):
        pairs = [tuple(pair) for part in parts for pair in zip(part.domain.tolist(), part.slot.tolist())]
        assert sorted(pairs) == sorted(zip(whole.domain.tolist(), whole.slot.tolist()))


def test_a_sweep_shows_everything_once():
    feed = ResidentFeed(numbered(23, 9, 1), batch=2, seed=0)
    seen = [pair for images in feed.sweep() for pair in zip(images.domain.tolist(), images.slot.tolist())]
    assert seen.sort() or seen == [(0, s) for s in range(23)] + [(1, s) for s in range(9)] + [(2, 0)]


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), data=st.data())
def test_chunks_read_like_one_array_and_split_without_a_copy(lengths, data):
    arrays = [np.random.default_rng(n).integers(0, 255, (length, 2)) for n, length in enumerate(lengths)]
    whole = np.concatenate(arrays)
    rows = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)), dtype=np.int64)
    assert np.array_equal(Chunks(arrays)[rows], whole[rows]) and len(Chunks(arrays)) == len(whole)
    middle = data.draw(st.integers(0, len(whole)))
    left, right = Chunks(arrays).split([middle, len(whole) - middle])
    assert (len(left), len(right)) == (middle, len(whole) - middle)
    if middle:
        assert np.array_equal(left[np.arange(middle)], whole[:middle])
        assert any(np.shares_memory(left._arrays[0], array) for array in arrays)
    if len(right):
        assert np.array_equal(right[np.arange(len(right))], whole[middle:])
