import numpy as np
import pytest

from ucdr_ray.decoded import Chunks
from ucdr_ray.feed import ResidentFeed, share


def arrays(*sizes):
    """Images whose every pixel tells domain and slot."""
    return [np.full((n, 3, 2, 2), 1, np.uint8) * np.arange(n, dtype=np.uint8)[:, None, None, None] + 100 * d
            for d, n in enumerate(sizes)]  # fmt: skip


def seen(feed, epoch=0):
    return [(images.domain.tolist(), images.slot.tolist(), images.position.tolist()) for images in feed.epoch(epoch)]


def test_pixels_belong_to_their_domain_and_slot():
    feed = ResidentFeed(arrays(10, 7), batch=4, seed=0)
    for images in feed.epoch(0):
        assert (images.pixels[:, 0, 0, 0] == 100 * images.domain + images.slot).all()


def test_an_epoch_sees_the_largest_domain_once_and_takes_as_many_of_each():
    feed = ResidentFeed(arrays(12, 5), batch=4, seed=3)
    slots = {0: [], 1: []}
    for images in feed.epoch(0):
        for domain in (0, 1):
            slots[domain] += images.slot[images.domain == domain].tolist()
    assert sorted(slots[0]) == list(range(12))
    assert len(slots[1]) == 12 and sorted(slots[1][:5]) == list(range(5)) and sorted(slots[1][5:10]) == list(range(5))


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_the_same_global_batches(workers):
    whole = seen(ResidentFeed(arrays(11, 6), 5, seed=1), epoch=2)
    parts = [seen(ResidentFeed(arrays(11, 6), 5, 1, rank, workers), epoch=2) for rank in range(workers)]
    for step, (domain, slot, position) in enumerate(whole):
        rows = {p: (d, s) for d, s, p in zip(domain, slot, position, strict=True)}
        joined = {p: (d, s) for part in parts for d, s, p in zip(*part[step], strict=True)}
        assert joined == rows


def test_epochs_and_seeds_differ_and_repeat():
    feed = ResidentFeed(arrays(20, 20), 8, seed=0)
    assert seen(feed, 0) == seen(ResidentFeed(arrays(20, 20), 8, seed=0), 0)
    assert seen(feed, 0) != seen(feed, 1)
    assert seen(feed, 0) != seen(ResidentFeed(arrays(20, 20), 8, seed=1), 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_sweep_visits_every_image_once_in_as_many_batches_on_every_worker(workers):
    feeds = [ResidentFeed(arrays(21, 1), 2, 0, rank, workers) for rank in range(workers)]
    sweeps = [list(feed.sweep()) for feed in feeds]
    assert len({len(sweep) for sweep in sweeps}) == 1
    visits = [(int(d), int(s)) for sweep in sweeps for i in sweep for d, s in zip(i.domain, i.slot, strict=True)]
    assert sorted(visits) == [(0, s) for s in range(21)] + [(1, 0)]


def test_a_domain_of_one_image_fills_its_share():
    images = next(iter(ResidentFeed(arrays(9, 1), 4, 0).epoch(0)))
    assert images.slot[images.domain == 1].tolist() == [0, 0, 0, 0]


def test_shares_cover_the_batch():
    assert [share(7, rank, 3) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 7)]


def test_chunks_read_like_one_array():
    whole = np.random.default_rng(0).integers(0, 255, (10, 3, 2, 2), dtype=np.uint8)
    chunks = Chunks([whole[:4], whole[4:5], whole[5:]])
    rows = np.array([9, 0, 4, 4, 3, 5])
    assert len(chunks) == 10 and np.array_equal(chunks[rows], whole[rows])
