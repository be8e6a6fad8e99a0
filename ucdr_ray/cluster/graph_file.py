"""A shard's graphs on disk, so that the one that replaces it answers as it did."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from ucdr_ray.errors import JobError
from ucdr_ray.files import atomic_write, read_json, write_json

Pair = tuple[int, int]


class GraphFile:
    """The newest graphs of one shard: a safetensors file, and JSON with its checksum that says of which search."""

    def __init__(self, folder: Path, index: int, count: int) -> None:
        stem = f"graphs-{index:05d}-of-{count:05d}"
        self._tensors, self._values = folder / f"{stem}.safetensors", folder / f"{stem}.json"

    def write(
        self, attempt: int, search: int, report: dict[str, float], graphs: Mapping[Pair, Tensor]
    ) -> None:
        """Replace what is there."""
        data = save({f"{a}.{b}": edges for (a, b), edges in graphs.items()})
        self._values.unlink(missing_ok=True)
        atomic_write(self._tensors, data)
        digest = hashlib.sha256(data).hexdigest()
        write_json(self._values, {"attempt": attempt, "search": search, "report": report, "sha256": digest})

    def read(self, attempt: int) -> tuple[int, dict[str, float], dict[Pair, Tensor]] | None:
        """Number, report and graphs of the last search of an attempt at training; None: it has made none.

        Raises:
            JobError: the file is damaged.
        """
        if not self._values.is_file():
            return None
        values = read_json(self._values, "graphs")
        if values["attempt"] != attempt:
            return None
        data = self._tensors.read_bytes()
        if hashlib.sha256(data).hexdigest() != values["sha256"]:
            raise JobError(f"{self._tensors} is damaged; --resume searches anew")
        graphs = {}
        for name, edges in load(data).items():
            a, b = name.split(".")
            graphs[int(a), int(b)] = edges
        return values["search"], values["report"], graphs
