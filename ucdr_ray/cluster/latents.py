"""The job behind `ucdr latents`: every part of a catalog through a generator's VAE, on a pool of Ray Data actors."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from ucdr_ray.catalog import Catalog
from ucdr_ray.cluster.parts import Row, held, rows_of, run
from ucdr_ray.embeddings import CatalogRef, DomainVectors, ModelRef
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.images import Reject, to_array
from ucdr_ray.latents import Latents, Manifest, Settings, publish, write_part
from ucdr_ray.models.backbone import absolute
from ucdr_ray.models.codec import Codec
from ucdr_ray.models.device import fastest_device
from ucdr_ray.models.generator_files import load_codec, model_name
from ucdr_ray.parts_writer import check_out, clear_foreign, finished_part
from ucdr_ray.progress import progress


def settings(
    generator: str, size: int | None = None, resize: str = "squash", flipped: bool = True
) -> Settings:
    """What latents for a generator are to be made by. UserError: there is no such generator, or not of this size."""
    codec, own = load_codec(generator)
    return settings_for(codec, generator, size or own, resize, flipped)


def settings_for(
    codec: Codec, generator: str, side: int, resize: str = "squash", flipped: bool = True
) -> Settings:
    """What latents by a codec are to be made by. UserError: it takes no images of this side."""
    if side % codec.stride:
        raise UserError(f"size={side}: generator {generator} takes multiples of {codec.stride}")
    name = ModelRef(name=model_name(generator), fingerprint=codec.fingerprint)
    return Settings.model_validate({"codec": name, "size": side, "resize": resize, "flipped": flipped})


def make_latents(
    generator: str,
    catalog: Catalog,
    out: Path,
    made_by: Settings,
    batch: int = 16,
    actors: int | None = None,
    wait: bool = False,
) -> Latents:
    """Write the latents of ``catalog`` into ``out``. Parts that an earlier, interrupted call finished are kept, and
    so is all of it if nothing has changed.

    Args:
        batch: images at a time through the VAE.
        actors: copies of the VAE; without it one for each GPU, or without GPUs for each CPU.
        wait: for another process that writes to ``out``.

    Raises:
        UserError: ``out`` holds something else or latents of other settings, or another process writes to it and is
            not waited for.
        JobError: an image could not be decoded (named), or a worker failed.
    """
    out = out.resolve()
    check_out(out, "latents", {"latents", ".lock"})
    rows = rows_of(catalog, catalog.domains, out, "latents", {"settings": made_by.model_dump()})
    if (found := _finished(catalog, out, made_by)) is not None:
        return found
    _refuse_others(out, made_by)
    with held(out, "writing latents", wait):
        if (found := _finished(catalog, out, made_by)) is not None:
            return found  # by another process, in the meantime
        known = {row["file"]: finished_part(out, row["file"], row["made_from"], "latents") for row in rows}
        done = {file: part for file, part in known.items() if part is not None}
        pending = [row for row in rows if row["file"] not in done]
        (out / "manifest.json").unlink(missing_ok=True)  # from here on the folder is unfinished
        clear_foreign(out, "latents", set(done))
        with progress("latents", "images", sum(row["images"] for row in pending)) as meter:
            arguments = {"generator": absolute(generator), "settings": made_by.model_dump(), "batch": batch}
            for part in run("making latents", pending, LatentMaker, actors, **arguments):
                done[part.file] = part
                meter.advance(part.rows)
        domains = [
            DomainVectors(
                name=domain.name,
                rows=domain.images,
                parts=[done[row["file"]] for row in rows if row["domain"] == domain.name],
            )
            for domain in catalog.domains
        ]
        source = CatalogRef(fingerprint=catalog.fingerprint, path=str(catalog.path.resolve()))
        shape = latents_shape(load_codec(generator)[0], made_by)
        return publish(out, Manifest(made_by=made_by, shape=shape, catalog=source, domains=domains))


def _finished(catalog: Catalog, out: Path, made_by: Settings) -> Latents | None:
    """The latents, where they are whole and of these images and settings; of others, parts may still fit."""
    if not (out / "manifest.json").exists():
        return None
    try:
        found = Latents.open(out)
        found.check(catalog, made_by)
    except UserError:
        return None
    return found


def _refuse_others(out: Path, made_by: Settings) -> None:
    """Latents that a catalog has outgrown are made anew where it changed; finished ones of other settings stay."""
    try:
        there = Latents.open(out, verify=False).manifest.made_by
    except UserError:
        return
    for field in ("size", "resize", "flipped"):
        if (other := getattr(there, field)) != (wanted := getattr(made_by, field)):
            raise UserError(
                f"--out {out}: holds latents of {field}={other}, not {wanted}; choose another folder"
            )
    if there.codec.fingerprint != made_by.codec.fingerprint:
        raise UserError(f"--out {out}: holds latents made by another generator; choose another folder")


def latents_shape(codec: Codec, made_by: Settings) -> list[int]:
    """[V, 2, C, s, s] of one image."""
    side = made_by.size // codec.stride
    return [1 + made_by.flipped, 2, codec.channels, side, side]


class LatentMaker:
    """Called by Ray Data with one row for each part; writes the part and returns its record, or what went wrong."""

    def __init__(self, generator: str, settings: dict[str, Any], batch: int, threads: int) -> None:
        threads = min(threads, os.cpu_count() or 1)
        torch.set_num_threads(threads)
        self.device, self.settings, self.batch = fastest_device(), Settings.model_validate(settings), batch
        self.codec = load_codec(generator)[0].to(self.device)
        self.threads = ThreadPoolExecutor(threads)

    def __call__(self, row: Row) -> dict[str, str]:
        table = pq.read_table(row["source"], columns=["id", "image", "source"])
        ids = table["id"].to_pylist()
        try:
            pixels = self.threads.map(self._pixels, table["image"].to_pylist(), table["source"].to_pylist())
            latents = []
            while some := list(islice(pixels, self.batch)):  # the threads decode what comes next
                latents.append(self._encode(torch.from_numpy(np.stack(some))))
            part = write_part(
                Path(row["out"]),
                row["file"],
                row["domain"],
                row["first_slot"],
                ids,
                np.concatenate(latents),
                row["made_from"],
            )
        except (JobError, UserError) as error:
            return {"part": "", "error": str(error)}
        return {"part": part.model_dump_json(), "error": ""}

    def _encode(self, images: torch.Tensor) -> np.ndarray:
        """(n, V, 2, C, s, s) float16."""
        views = [images, images.flip(-1)] if self.settings.flipped else [images]
        found = [torch.stack(self.codec.encode(view.to(self.device)), dim=1) for view in views]
        return torch.stack(found, dim=1).half().cpu().numpy()

    def _pixels(self, image: bytes, source: str) -> np.ndarray:
        try:
            return to_array(image, self.settings.size, self.settings.resize, max_pixels=None)
        except Reject as reject:
            raise JobError(f"cannot encode the image from {source}: {reject.reason}") from None
