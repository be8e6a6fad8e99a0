"""Several workers of one training run as threads of a test."""

import threading

import torch


class Workers:
    """What `World` is to processes, for the threads of this one."""

    def __init__(self, size):
        self.size, self._meeting, self._left = size, threading.Barrier(size), [None] * size

    def member(self, rank):
        return Member(self, rank)

    def gather(self, rank, value):
        self._left[rank] = value
        self._meeting.wait()
        found = list(self._left)
        self._meeting.wait()
        return found


class Member:
    def __init__(self, workers, rank):
        self._workers, self.rank, self.size = workers, rank, workers.size

    def exchange(self, domain, slot, key):
        parts = self._workers.gather(self.rank, (domain, slot, key))
        return tuple(torch.cat([part[i] for part in parts]) for i in range(3))

    def joined(self, rows):
        parts = self._workers.gather(self.rank, rows.detach())
        first = sum(map(len, parts[: self.rank]))
        live = [rows if rank == self.rank else part for rank, part in enumerate(parts)]
        return torch.cat(live), slice(first, first + len(rows))

    def copy_first(self, values):
        for value in values:
            value.copy_(self._workers.gather(self.rank, value.clone())[0])

    def barrier(self):
        self._workers.gather(self.rank, None)

    def sum(self, value):
        return value
