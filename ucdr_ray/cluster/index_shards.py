"""Shards of an index written by Ray tasks, one each, wherever the cluster has a CPU for it."""

import os

from ucdr_ray.cluster.session import start_ray
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.index.manifest import ShardEntry
from ucdr_ray.index.write_shard import Advance, ShardTask, write_all, write_shard

_WORTH = 100_000  # rows; below, Ray would take longer to start than the shards to write


def write_shards(tasks: list[ShardTask], advance: Advance) -> list[ShardEntry]:
    """A `Writer`. One shard, or few rows, are written in this process, unless ``RAY_ADDRESS`` names a cluster.

    All nodes must see the folders of the tasks. Each takes one thread, as Ray tells OpenMP.

    Raises:
        UserError, JobError: what a task raised, or its worker died.
    """
    rows = sum(len(task.slots) for task in tasks)
    if not os.environ.get("RAY_ADDRESS") and (len(tasks) == 1 or rows < _WORTH):
        return write_all(tasks, advance)
    start_ray()
    import ray
    from ray.exceptions import RayError, RayTaskError

    remote = ray.remote(num_cpus=1, max_retries=0)(_write)
    pending = {remote.remote(task): place for place, task in enumerate(tasks)}
    entries: dict[int, ShardEntry] = {}
    try:
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            place = pending.pop(done)
            entries[place] = ray.get(done)
            advance(entries[place].rows)
    except RayTaskError as error:
        if isinstance(error.cause, UserError | JobError):
            raise error.cause from None
        raise JobError(f"writing shards stopped: {type(error.cause).__name__}: {error.cause}") from error
    except RayError as error:
        raise JobError(f"writing shards stopped: {type(error).__name__}: {error}") from error
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
    return [entries[place] for place in range(len(tasks))]


def _write(task: ShardTask) -> ShardEntry:
    return write_shard(task)
