"""One small Ray for all tests of this folder."""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.banks import DIM, SIZES, WORKERS
from ucdr_ray.cluster import approximate_search
from ucdr_ray.cluster.bank import BankSpec
from ucdr_ray.cluster.session import start_ray
from ucdr_ray.cluster.shards import start_shards
from ucdr_ray.neighbors import approximate


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray with 4 logical CPUs and 300 MB of object store, in a temporary folder of its own."""
    folder = tempfile.mkdtemp(prefix="ucdr-")  # short: Ray's sockets lie in it
    start_ray(num_cpus=4, object_store_memory=300 << 20, temp_folder=folder)
    yield
    import ray

    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def however_scattered() -> Iterator[None]:
    """Approximate searches are not given up for exact ones because so few rows have neighbours everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (approximate, approximate_search):
            patch.setattr(module, "WORTH", 1)
        yield


@pytest.fixture(scope="module")
def shards(ray_session, tmp_path_factory):
    """`shards(count, momentum)`: actors, the same ones for the same question."""
    started = {}

    def of(count, momentum):
        if (count, momentum) not in started:
            run = tmp_path_factory.mktemp("bank")
            started[count, momentum] = start_shards(BankSpec(SIZES, DIM, count, momentum, run, 1), 30.0)
        return started[count, momentum]

    return of


@pytest.fixture(scope="module")
def together():
    """`together(function)`: what it gives for each worker, all at the same time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        yield lambda function: list(pool.map(function, range(WORKERS)))
