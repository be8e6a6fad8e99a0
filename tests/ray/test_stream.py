"""Ray Data brings the right pixels: kept in the object store without copies, or streamed in the order asked for."""

import numpy as np
import pytest
import ray

from tests.tiny import make_catalog
from ucdr_ray.cluster import stream
from ucdr_ray.config import load_config
from ucdr_ray.decoded import decode, spans
from ucdr_ray.errors import UserError
from ucdr_ray.feed import ResidentFeed
from ucdr_ray.streaming import StreamFeed

pytestmark = pytest.mark.usefixtures("ray_session")

SIZES = {"one": 1, "photo": 50, "sketch": 37}
NAMES = sorted(SIZES)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("stream") / "catalog", SIZES)


def data(*settings: str):
    return load_config(None, ["data.size=16", *settings]).data


def test_residency_is_decided_by_the_decoded_size(catalog):
    limit = 88 * 3 * 20 * 20 / 1e9
    for side, factor, residency, kept in (
        (20, 1.001, "auto", True),
        (20, 0.999, "auto", False),
        (21, 1.001, "auto", False),
        (20, 0.001, "keep", True),
        (20, 9.0, "stream", False),
    ):
        config = data(
            f"data.stored_size={side}", f"data.residency={residency}", f"data.keep_limit_gb={factor * limit}"
        )
        assert stream.keeps(catalog, NAMES, config) == kept


def test_a_small_object_store_makes_the_images_stream(catalog):
    """Decoded they are 1.1 GB, within the limit of 4 GB, but the store holds 0.3."""
    assert not stream.keeps(catalog, NAMES, data("data.stored_size=2048"))
    with pytest.raises(UserError, match=r"take 1.1 GB, .* holds 0.3 GB; allowed: data.residency=stream"):
        stream.keeps(catalog, NAMES, data("data.stored_size=2048", "data.residency=keep"))


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_kept_images_are_all_there_in_order_and_shared(catalog, resize):
    config = data("data.stored_size=20", f"data.resize={resize}")
    counted = []
    references = stream.keep(catalog, NAMES, config, counted.append)
    assert sum(counted) == 88
    arrays = stream.kept(references, [SIZES[name] for name in NAMES])
    for name, array in zip(NAMES, arrays, strict=True):
        assert np.array_equal(array[np.arange(len(array))], decode(spans(catalog, name), 20, resize))
    again = stream.kept(references, [SIZES[name] for name in NAMES])
    for one, two in zip(arrays, again):
        assert all(np.shares_memory(a, b) and not a.flags.writeable for a, b in zip(one._arrays, two._arrays))


def test_windows_come_in_the_order_asked_for_on_every_worker(catalog):
    windows = [[span] for name in NAMES for span in spans(catalog, name, 7)][::-1]
    windows = [windows[0] + windows[3], *windows[1:]]

    @ray.remote(num_cpus=1)
    def worker() -> list[np.ndarray]:
        return [pixels for (pixels,) in stream.stream(windows, data(), workers=2)]

    for found in ray.get([worker.remote() for _ in range(2)]):
        assert all(np.array_equal(f, decode(w, 16, "squash")) for f, w in zip(found, windows, strict=True))


def test_the_streamed_feed_is_shaped_like_the_resident_one(catalog):
    config = data()
    arrays = stream.kept(stream.keep(catalog, NAMES, config), [SIZES[name] for name in NAMES])
    resident = ResidentFeed(arrays, 8, 0)
    streamed = StreamFeed(catalog, NAMES, lambda w, _: stream.stream(w, config, 1), 16, 8, 0)
    assert (streamed.steps(), streamed.rows) == (resident.steps(), resident.rows)
    for one, two in zip(resident.epoch(0), streamed.epoch(0), strict=True):
        for name in ("pixels", "domain", "slot", "position"):
            a, b = getattr(one, name), getattr(two, name)
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
        for pixels, domain, slot in zip(two.pixels, two.domain, two.slot):
            assert np.array_equal(pixels, arrays[domain][slot[None].numpy()][0])
