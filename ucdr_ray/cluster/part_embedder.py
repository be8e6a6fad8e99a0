"""The actor of `ucdr embed`: one copy of the encoder, turning parts of a catalog into parts of embeddings."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from ucdr_ray.embeddings_writer import write_part
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.images import Reject, to_array
from ucdr_ray.models.device import fastest_device
from ucdr_ray.models.encoder import Encoder


class PartEmbedder:
    """Called by Ray Data with one row for each part; writes the part and returns its record, or what went wrong."""

    def __init__(self, encoder: str, batch: int, threads: int) -> None:
        threads = min(threads, os.cpu_count() or 1)
        torch.set_num_threads(threads)
        self.device = fastest_device()
        self.encoder = Encoder.load(Path(encoder)).to(self.device)
        self.batch = batch
        self.threads = ThreadPoolExecutor(threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        table = pq.read_table(row["source"], columns=["id", "image", "source"])
        # map runs ahead of the encoder, so that decoding goes on while it computes
        pixels = self.threads.map(self._pixels, table["image"].to_pylist(), table["source"].to_pylist())
        ids = table["id"].to_pylist()
        try:
            vectors = np.concatenate(list(self._encode(pixels)))
            part = write_part(
                Path(row["out"]),
                row["file"],
                row["domain"],
                row["first_slot"],
                ids,
                vectors,
                row["made_from"],
            )
        except (JobError, UserError) as error:
            return {"part": "", "error": str(error)}
        return {"part": part.model_dump_json(), "error": ""}

    def _encode(self, pixels: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        while images := list(islice(pixels, self.batch)):
            yield self.encoder.encode(torch.from_numpy(np.stack(images)).to(self.device)).cpu().numpy()

    def _pixels(self, image: bytes, source: str) -> np.ndarray:
        try:
            return to_array(image, self.encoder.size, self.encoder.resize, max_pixels=None)
        except Reject as reject:
            raise JobError(f"cannot embed the image from {source}: {reject.reason}") from None
