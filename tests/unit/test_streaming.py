"""The streamed feed: the same promises as the resident one, on images that only pass through."""

import numpy as np
import pytest
import torch

from tests.tiny import make_catalog
from ucdr_ray import streaming
from ucdr_ray.decoded import cut, decode, spans
from ucdr_ray.errors import JobError
from ucdr_ray.streaming import StreamFeed

SIZES = {"one": 1, "photo": 101, "sketch": 37}
NAMES = sorted(SIZES)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("streaming") / "catalog", SIZES, side=8)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(streaming, "_RUN", 5)
    monkeypatch.setattr(streaming, "_WINDOW", 12)


def feeds(catalog, batch=4, workers=1, seed=3, log=None, latents=False) -> list[StreamFeed]:
    def stream(windows, latents):
        for window in windows:
            if log is not None:
                log.append(window)
            pixels = decode(window, 8, "squash")
            yield (pixels, like_latents(pixels)) if latents else (pixels,)

    ranks = range(workers)
    return [StreamFeed(catalog, NAMES, stream, 8, batch, seed, rank, workers, latents) for rank in ranks]


def like_latents(pixels: np.ndarray) -> np.ndarray:
    """(N, 2, 3): an array of another shape and type that tells the images apart."""
    return np.stack([pixels.mean((2, 3)), pixels.std((2, 3))], axis=1).astype(np.float16)


@pytest.fixture(scope="module")
def pixels(catalog) -> list[np.ndarray]:
    """The right image of every slot."""
    return [decode(spans(catalog, name), 8, "squash") for name in NAMES]


def check(images, pixels) -> list[tuple[int, int]]:
    for row, (domain, slot) in enumerate(pairs := list(zip(images.domain.tolist(), images.slot.tolist()))):
        assert np.array_equal(images.pixels[row], pixels[domain][slot])
    return pairs


@pytest.mark.parametrize(("batch", "workers"), [(4, 1), (4, 2), (5, 2), (7, 3), (150, 2)])
def test_an_epoch_shows_all_of_the_largest_domain_on_any_number_of_workers(catalog, pixels, batch, workers):
    mine = feeds(catalog, batch, workers)
    steps = -(-101 // batch)
    assert {feed.steps() for feed in mine} == {steps} and {feed.rows for feed in mine} == {3 * batch}
    seen = []
    for parts in zip(*(feed.epoch(2) for feed in mine), strict=True):
        joined = [pair for part in parts for pair in check(part, pixels)]
        assert [sum(domain == d for domain, _ in joined) for d in range(3)] == [batch] * 3
        assert sorted(torch.cat([part.position for part in parts]).tolist()) == list(range(3 * batch))
        seen += joined
    assert {slot for domain, slot in seen if domain == 1} == set(range(101))
    assert {slot for domain, slot in seen if domain == 2} == set(range(37))


@pytest.mark.parametrize(("batch", "workers"), [(4, 1), (7, 3)])
def test_latents_come_with_their_images_in_epochs_and_never_in_sweeps(catalog, batch, workers):
    for feed, plain in zip(feeds(catalog, batch, workers, latents=True), feeds(catalog, batch, workers)):
        for images, same in zip(feed.epoch(1, latents=True), plain.epoch(1), strict=True):
            assert np.array_equal(images.latents, like_latents(images.pixels.numpy()))
            assert torch.equal(images.slot, same.slot) and same.latents is None
        assert all(images.latents is None for images in (*feed.epoch(1), *feed.sweep()))


def test_epochs_differ_and_come_again(catalog):
    def slots(epoch, seed=3):
        (feed,) = feeds(catalog, seed=seed)
        return [slot for images in feed.epoch(epoch) for slot in images.slot.tolist()]

    assert slots(4) == slots(4)
    assert slots(4) != slots(5) and slots(4) != slots(4, seed=1)


def test_neighbours_in_the_file_are_torn_apart(catalog):
    (feed,) = feeds(catalog)
    order = [
        s for images in feed.epoch(0) for d, s in zip(images.domain.tolist(), images.slot.tolist()) if d == 1
    ]
    assert (np.abs(np.diff(order)) == 1).mean() < 0.25


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_sweep_shows_everything_once_in_as_many_steps_on_each_worker(catalog, pixels, workers):
    seen = []
    for parts in zip(*(feed.sweep() for feed in feeds(catalog, 2, workers)), strict=True):
        seen += [pair for part in parts for pair in check(part, pixels)]
    assert sorted(seen) == [(d, slot) for d, name in enumerate(NAMES) for slot in range(SIZES[name])]


def test_little_is_decoded_and_kept(catalog):
    log: list = []
    (feed,) = feeds(catalog, log=log)
    assert [sum(map(len, window)) for window in log] == [1]  # the small domain, once for ever
    log.clear()
    list(feed.epoch(0))
    assert len(log) >= 2 and max(sum(map(len, window)) for window in log) == 12
    assert sum(len(span) for window in log for span in window) == 26 * 4 * 2


def test_spans_cover_a_domain_and_are_cut_by_images(catalog):
    whole = spans(catalog, "photo")
    assert [len(span) for span in whole] == [16] * 6 + [5]
    runs = spans(catalog, "photo", 6)
    assert np.concatenate([span.slots for span in runs]).tolist() == list(range(101))
    assert np.concatenate([span.slots for span in cut(runs, 13, 50)]).tolist() == list(range(13, 50))
    assert cut(runs, 7, 7) == []


def test_an_image_that_cannot_be_decoded_is_named(catalog, tmp_path):
    import pyarrow.parquet as pq

    (span, *_) = spans(catalog, "photo")
    table = pq.read_table(span.file)
    images = table["image"].to_pylist()
    images[3] = b"no image"
    pq.write_table(table.set_column(3, "image", [images]), tmp_path / "bad.parquet")
    with pytest.raises(JobError, match=r"image 3 in .*bad.parquet: not an image .*; ingest it again"):
        decode([type(span)(str(tmp_path / "bad.parquet"), 0, 16, 0)], 8, "squash")
