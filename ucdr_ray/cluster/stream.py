"""Images into training on Ray Data: decoded once and kept in the object store, or streamed anew every epoch."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import ray.data

from ucdr_ray.catalog import Catalog
from ucdr_ray.decoded import Chunks, Span, decode, spans
from ucdr_ray.errors import UserError
from ucdr_ray.latents import Latents
from ucdr_ray.settings import DataConfig

_SHARE_OF_STORE = 0.6  # a store any fuller spills to disk: Ray Data's blocks in passing need room too


def stored_side(config: DataConfig) -> int:
    """Side in pixels of the decoded images."""
    return config.stored_size or config.size


def keeps(catalog: Catalog, domains: Sequence[str], config: DataConfig, latents: int = 0) -> bool:
    """Whether the decoded images stay in the object store. UserError: they should, and there is no room.

    Args:
        latents: bytes of an image's latents, which are kept or streamed along with it.
    """
    size = sum(catalog.domain(name).images for name in domains) * (3 * stored_side(config) ** 2 + latents)
    store = _smallest_store()
    told = " with their latents" if latents else ""
    if config.residency == "keep" and size > store:
        raise UserError(
            f"data.residency=keep: decoded, the images{told} take {size / 1e9:,.1f} GB, and a node's object store "
            f"holds {store / 1e9:,.1f} GB; allowed: data.residency=stream or auto, or a smaller data.stored_size"
        )
    # Whole on every node: each worker reads all of them.
    fits = size <= min(config.keep_limit_gb * 1e9, _SHARE_OF_STORE * store)
    return config.residency == "keep" or (config.residency == "auto" and fits)


def _smallest_store() -> float:
    """Bytes of the smallest object store among the nodes that can hold a worker."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    able = [found for found in resources if found.get("CPU") or found.get("GPU")]
    return float(min(found.get("object_store_memory", 0) for found in able))


def keep(
    catalog: Catalog,
    domains: Sequence[str],
    config: DataConfig,
    advance: Callable[[int], object] = lambda rows: None,
) -> list[Any]:
    """Decode all images once: images x 3 x side^2 bytes in the object stores of the cluster, references here.

    Args:
        advance: told the number of images of each piece that is done.

    Returns:
        References to blocks in the order of domains and slots, for `kept`.
    """
    windows = [[span] for name in domains for span in spans(catalog, name)]
    references = []
    # One task more than cores: none of these waits while a result is being handed over.
    for bundle in _decoded(windows, config, _tasks() + 1).iter_internal_ref_bundles():
        for block in bundle.blocks:
            references.append(block.ref)
            advance(block.metadata.num_rows or 0)
    return references


def kept(references: list[Any], sizes: Sequence[int]) -> list[Chunks]:
    """What `keep` made, as one array for each domain. Nothing is copied: the processes of a node share the pixels."""
    return Chunks([_column(block, "pixels") for block in ray.get(references)]).split(sizes)


def keep_latents(latents: Latents, domains: Sequence[str]) -> list[list[Any]]:
    """Read all latents once into the object stores of the cluster; for each domain its parts' references, in order."""
    parts = {found.name: found.parts for found in latents.manifest.domains}
    read = ray.remote(num_cpus=1)(Latents.part)
    return [[read.remote(latents, part) for part in parts[name]] for name in domains]


def kept_latents(references: list[list[Any]]) -> list[Chunks]:
    """What `keep_latents` made, as one array (N, V, 2, C, s, s) for each domain, without a copy."""
    return [Chunks(ray.get(parts)) for parts in references]


def stream(
    windows: list[list[Span]], config: DataConfig, workers: int, latents: Latents | None = None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Read windows one after the other, several ahead: of each the pixels (N, 3, side, side) uint8.

    Args:
        workers: how many do this at the same time and share the cluster.
        latents: to be read beside them, (N, V, 2, C, s, s) float16.
    """
    names = ["pixels"] if latents is None else ["pixels", "latents"]
    blocks: list[tuple[np.ndarray, ...]] = []
    waiting = iter(windows)
    window = next(waiting, None)
    data = _decoded(windows, config, max(1, _tasks() // workers), latents)
    for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        blocks.append(tuple(_column(block, name) for name in names))
        # Ray Data cuts a large block in two.
        if window is not None and sum(len(pixels) for pixels, *_ in blocks) == sum(map(len, window)):
            yield blocks[0] if len(blocks) == 1 else tuple(map(np.concatenate, zip(*blocks, strict=True)))
            blocks, window = [], next(waiting, None)


def _decoded(
    windows: list[list[Span]], config: DataConfig, tasks: int, latents: Latents | None = None
) -> ray.data.Dataset:
    """One task a window, results in order. Workers of Ray load neither torch nor this module for it."""
    side, resize = stored_side(config), config.resize

    def work(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (index,) = batch["id"].tolist()
        pixels = {"pixels": decode(windows[index], side, resize)}
        return pixels if latents is None else pixels | {"latents": latents.rows(windows[index])}

    numbers = ray.data.range(len(windows), override_num_blocks=len(windows))
    dataset = numbers.map_batches(work, batch_size=None, concurrency=min(tasks, len(windows)))
    dataset.context.execution_options.preserve_order = True
    dataset.context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error ends the command, in a line
    return dataset


def _column(block: Any, name: str) -> np.ndarray:
    return ray.data.block.BlockAccessor.for_block(block).to_numpy(name)


def _tasks() -> int:
    """Decoding tasks at a time: a Ray of our own has more logical CPUs than this machine has cores."""
    cpus = int(ray.cluster_resources()["CPU"])
    return min(cpus, os.cpu_count() or 1) if len(ray.nodes()) == 1 else cpus
