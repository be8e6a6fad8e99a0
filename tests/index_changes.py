"""Changes of an index, and searches in it, in processes of their own that can be killed.

They are forks of one server that has loaded the modules: a kill falls into the work, not into Python's start.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from ucdr_ray.catalog import Catalog
from ucdr_ray.embeddings import Embeddings
from ucdr_ray.index.build import build
from ucdr_ray.index.change import add, compact, delete
from ucdr_ray.index.merge import Hit
from ucdr_ray.index.search import Index
from ucdr_ray.index.shard import one_thread

SERVER = multiprocessing.get_context("forkserver")
# Arrow and Transformers load these when first needed, which takes many times as long as the work.
SERVER.set_forkserver_preload([__name__, "pandas", "transformers.models.resnet.modeling_resnet"])


@dataclass(frozen=True)
class Ground:
    """An index, what it was built from, and ids in it that a deletion names."""

    out: Path
    embeddings: Embeddings
    catalog: Catalog
    ids: list[str]


CHANGES: dict[str, Callable[[Ground], Index]] = {
    "build": lambda ground: build(
        ground.embeddings, ground.catalog, ground.out, "ivf-sq8", recall=0.9, null=1.0
    ),
    "add": lambda ground: add(ground.out, ground.embeddings, ground.catalog),
    "delete": lambda ground: delete(ground.out, ground.ids),
    "compact": lambda ground: compact(ground.out),
}


def answers(index: Index, queries: np.ndarray) -> list[list[Hit]]:
    """What is found by the shortcuts, and without them."""
    return [answer.hits for exact in (False, True) for answer in index.search(queries, exact=exact)]


def begun(ground: Ground, verb: str, steps: int | None = None) -> BaseProcess:
    """A process that begins a change now.

    Args:
        steps: after so many renamings and removals of folders it kills itself, before the next; never without it.
    """
    here, process = _start(_change, ground, verb, steps)
    assert here.recv() == "go"
    return process


class Reader:
    """A process that opens an index and searches in it, again and again."""

    def __init__(self, out: Path, queries: np.ndarray) -> None:
        self._here, self.process = _start(_read, out, queries)

    def end(self) -> tuple[int, dict[str, list[list[Hit]]]]:
        """How often it did, and what it found in each version."""
        self._here.send("enough")
        found: tuple[int, dict[str, list[list[Hit]]]] = self._here.recv()
        self.process.join()
        return found


def _start(target: Callable[..., None], *words: Any) -> tuple[Connection, BaseProcess]:
    here, there = SERVER.Pipe()
    process = SERVER.Process(target=target, args=(there, *words), daemon=True)
    process.start()
    there.close()  # the process's end: it is missed here, when the process dies
    return here, process


def _change(there: Connection, ground: Ground, verb: str, steps: int | None) -> None:
    one_thread()
    if steps is not None:
        _die_after(steps)
    there.send("go")
    CHANGES[verb](ground)


def _die_after(steps: int) -> None:
    left = steps

    def hear(event: str, words: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in ("os.rename", "shutil.rmtree"):
            return
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    sys.addaudithook(hear)


def _read(there: Connection, out: Path, queries: np.ndarray) -> None:
    one_thread()
    times, seen = 0, {}
    while not there.poll(0.01):  # leaves the writer some of a small machine
        index = Index.open(out)
        found = answers(index, queries)
        assert seen.setdefault(index.version, found) == found, index.version
        times += 1
    there.send((times, seen))
