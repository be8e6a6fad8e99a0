"""One small Ray for all tests of this folder."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest

from ucdr_ray.cluster import approximate_search
from ucdr_ray.cluster.session import start_ray
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
