"""Torch's threads, each at work of its own instead of all on every product."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import torch

T = TypeVar("T")


def each(function: Callable[[T], None], items: Iterable[T], threads: int | None = None) -> None:
    """Call `function` with every item, on several threads, in each of which torch computes with one.

    For work that alternates between products and other things: threads that a product leaves behind would spin
    meanwhile, and on few cores slow the rest down. Items are taken from `items` one by one, as threads get free.

    Args:
        threads: torch's own number when None.
    """
    count = threads or torch.get_num_threads()
    waiting, lock = iter(items), Lock()

    def work(_: int) -> None:
        while True:
            with lock:
                found = next(waiting, lock)  # the lock itself is no item
            if found is lock:
                return
            function(found)  # type: ignore[arg-type]

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, range(count)))
    finally:
        torch.set_num_threads(before)
