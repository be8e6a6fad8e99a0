"""One small Ray for all tests of this folder."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest

from ucdr_ray.cluster.session import start_ray


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray with 4 logical CPUs and 300 MB of object store, in a temporary folder of its own."""
    folder = tempfile.mkdtemp(prefix="ucdr-")  # short: Ray's sockets lie in it
    start_ray(num_cpus=4, object_store_memory=300 << 20, temp_folder=folder)
    yield
    import ray

    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
