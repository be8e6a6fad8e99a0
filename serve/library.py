"""The versions of an index that a process holds: the one in use, and the one before, which others may still ask for."""

import threading
from collections.abc import Callable
from pathlib import Path

from ucdr_ray.index.manifest import Manifest, ShardEntry
from ucdr_ray.index.search import Index
from ucdr_ray.index.versions import current

Only = Callable[[Manifest], list[ShardEntry]]


class Library:
    """Opens new versions beside the one that answers; what was handed out stays whole.

    Thread-safe. Memory: of two versions while there are two, though files that they share are mapped once.
    """

    def __init__(
        self, path: Path, only: Only | None = None, prepare: Callable[[Index], object] | None = None
    ) -> None:
        """Open the version in use, verify it and load it.

        Args:
            only: which shards; all of them without it.
            prepare: loads what else a version needs before it answers; a UserError keeps it from being taken up.

        Raises:
            UserError: there is none, or it is damaged.
        """
        self.path = path
        self._only = only
        self._prepare = prepare
        self._held: tuple[Index, ...] = (self._load(),)
        self._loading = threading.Lock()

    @property
    def newest(self) -> Index:
        """What new requests are answered from."""
        return self._held[-1]

    @property
    def held(self) -> tuple[Index, ...]:
        """Oldest first."""
        return self._held

    def at(self, version: str) -> Index | None:
        """A version, while it is held."""
        return next((index for index in self._held if index.version == version), None)

    def refresh(self) -> str:
        """Take up what ``CURRENT`` names, and say it. While another version is loaded, the old one answers.

        Raises:
            UserError: it is damaged; the old one goes on answering.
        """
        with self._loading:
            wanted = current(self.path)
            if wanted != self.newest.version:
                index = self.at(wanted)
                if index is None:
                    self._held = (self.newest,)  # else there would be three in memory
                    index = self._load(wanted)
                self._held = (self.newest, index)
            return wanted

    def _load(self, version: str | None = None) -> Index:
        index = Index.open(self.path, version, self._only)
        for name in index.manifest.domains:
            index.domain(name)
        index.find("")  # ids are sorted at the first look-up, which nobody should wait for
        # What would be read from the folder later may not be there then.
        _ = index.examples, index.picture, index.open_set
        if self._prepare is not None:
            self._prepare(index)
        return index
