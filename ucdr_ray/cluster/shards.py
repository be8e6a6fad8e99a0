"""The bank's actors seen from a worker: calls to all of them, and what to do about one that does not answer."""

import math
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from typing import Any

import ray

from ucdr_ray.cluster.bank import BankShard, BankSpec, Forgotten
from ucdr_ray.errors import JobError, UserError

_PING_SECONDS = 10.0
_START_SECONDS = 300.0


class Shards:
    """Handles of all shards; travels from the driver to the workers.

    Args:
        timeout: seconds without an answer after which a shard is asked whether it lives. One that does not say so
            within 10 more is killed; Ray starts it anew and repeats the calls that it had. A new one has 5 minutes
            until its first answer.
    """

    def __init__(self, actors: Sequence[Any], spec: BankSpec, timeout: float) -> None:
        self.actors, self.spec, self.timeout = list(actors), spec, timeout
        self._starting = {shard: time.time() for shard in range(len(self.actors))}

    def __len__(self) -> int:
        return len(self.actors)

    def get(self, waiting: dict[Any, int]) -> dict[Any, Any]:
        """Results of calls, reference -> shard.

        Raises:
            Forgotten: a shard was started anew, and what it was asked to go on with is lost.
            JobError: a shard does not come back, or failed.
            UserError: as what was called.
        """
        try:
            while True:
                try:
                    found = ray.get(list(waiting), timeout=self.timeout)
                    self._lives(waiting.values())
                    return dict(zip(waiting, found, strict=True))
                except ray.exceptions.GetTimeoutError:
                    self._replace_hung(waiting)
        except Forgotten:
            raise
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            reason = f"{type(error.cause).__name__}: {error.cause}"
            raise JobError(f"a shard of the memory bank failed: {reason}") from error
        except ray.exceptions.RayError as error:
            raise JobError(f"a shard of the memory bank is lost: {type(error).__name__}") from error

    def wait(self, waiting: dict[Any, int]) -> None:
        """Wait for calls without fetching what they give; a failure shows only where that is used."""
        left = list(waiting)
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=self.timeout, fetch_local=False)
            if left:
                self._replace_hung(waiting)

    def all(self, method: str, *arguments: Any) -> list[Any]:
        """What every shard answers to the same call, in their order."""
        waiting = {
            getattr(actor, method).remote(*arguments): index for index, actor in enumerate(self.actors)
        }
        return list(self.get(waiting).values())

    def _replace_hung(self, waiting: dict[Any, int]) -> None:
        """Kill the shards that owe an answer and don't even say that they live."""
        _, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=0, fetch_local=False)
        pings = {self.actors[shard].ping.remote(): shard for shard in {waiting[call] for call in late}}
        if pings:
            told, silent = ray.wait(list(pings), num_returns=len(pings), timeout=_PING_SECONDS)
            self._lives([pings[ping] for ping in told])
            for shard in [pings[ping] for ping in silent]:
                if time.time() - self._starting.get(shard, -math.inf) > _START_SECONDS:
                    ray.kill(self.actors[shard], no_restart=False)
                    self._starting[shard] = time.time()

    def _lives(self, shards: Iterable[int]) -> None:
        for shard in shards:
            self._starting.pop(shard, None)


def start_shards(spec: BankSpec, timeout: float) -> Shards:
    """Start the actors, spread over the nodes of the cluster; they end with this process."""
    folder = spec.run / "bank"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    kind = ray.remote(BankShard)
    actors = [
        kind.options(
            num_cpus=0,  # they work when the training workers wait for them
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_task_retries=-1,
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": ""}},
        ).remote(spec, index)
        for index in range(spec.count)
    ]
    return Shards(actors, spec, timeout)


def default_shards(workers: int) -> int:
    """One for each node and for every four workers: every worker asks every shard at every step, and each asking has
    its price."""
    return max(_nodes(), -(-workers // 4))


def shard_threads(shards: int) -> int:
    """Threads for one shard: its node's cores, shared out, if the shards lie evenly on the nodes."""
    return max(1, (os.cpu_count() or 1) * _nodes() // shards)


def _nodes() -> int:
    return max(1, sum(node["Alive"] for node in ray.nodes()))
