"""Latents on disk: what a generator's VAE makes of every image of a catalog, by domain and slot.

```
LATENTS/
  manifest.json                              what is here and what made it, with checksums; written last
  latents/<domain dir>/part-NNNNN.parquet    id, domain, slot, latents fixed_size_list<float16>[V * 2 * C * s * s]
  latents/<domain dir>/part-NNNNN.json       receipt of a finished part, by which an interrupted job goes on
```

Of V views (the image, and flipped) the mean and the log-variance, each (C, s, s). A part holds the images of one part
of the catalog, under the same name.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PositiveInt

from ucdr_ray.catalog import Catalog
from ucdr_ray.decoded import Span, read
from ucdr_ray.embeddings import CatalogRef, DomainVectors, ModelRef, Part
from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint, write_json
from ucdr_ray.parts_writer import write_rows
from ucdr_ray.records import Record, read_record

_ROW_GROUP = 128  # images read together, as in a catalog
_BY = {"size": " (method.generator_size, else the generator's own)", "resize": " (data.resize)"}


class Settings(Record):
    """What latents depend on, besides the images: the codec, the side of the images, and the views."""

    codec: ModelRef
    size: PositiveInt
    resize: Literal["squash", "crop"]
    flipped: bool


class Manifest(Record):
    """The content of ``manifest.json``; ``checksum`` covers every other field."""

    format: Literal["ucdr-latents"] = "ucdr-latents"
    version: Literal[1] = 1
    made_by: Settings
    shape: list[PositiveInt]
    catalog: CatalogRef
    domains: list[DomainVectors]
    checksum: str = ""

    def digest(self) -> str:
        """Hex SHA-256 of all fields but ``checksum``."""
        return fingerprint(self.model_dump(exclude={"checksum"}))


class Latents:
    """An opened latents folder."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Self:
        """Open a finished folder; ``verify`` holds every file against its checksum.

        Raises:
            UserError: no manifest, an unknown format, or a file that is missing or damaged (named).
        """
        manifest = read_record(Manifest, Path(path) / "manifest.json", "latents manifest")
        if manifest.checksum != manifest.digest():
            raise UserError(f"damaged latents: {path}/manifest.json does not match its checksum")
        for part in [part for domain in manifest.domains for part in domain.parts] if verify else []:
            part.check(Path(path), "latents")
        return cls(Path(path), manifest)

    def check(self, catalog: Catalog, made_by: Settings) -> None:
        """See that they are of this catalog, as it is now, and of these settings.

        Raises:
            UserError: they are stale or foreign; says in what.
        """
        again = "; make them again with ucdr latents"
        if self.manifest.catalog.fingerprint != catalog.fingerprint:
            raise UserError(
                f"latents {self.path}: made from another catalog, or from {catalog.path} before it changed{again}"
            )
        ours = self.manifest.made_by
        if ours.codec.fingerprint != made_by.codec.fingerprint:
            raise UserError(
                f"latents {self.path}: made by {ours.codec.name}, not by {made_by.codec.name}{again}"
            )
        for field in ("size", "resize", "flipped"):
            if getattr(ours, field) != getattr(made_by, field):
                there, wanted = getattr(ours, field), getattr(made_by, field)
                raise UserError(
                    f"latents {self.path}: {field}={there}, and {field}={wanted} is wanted{_BY.get(field, '')}{again}"
                )

    def part(self, part: Part) -> np.ndarray:
        """(n, V, 2, C, s, s) float16 of one part."""
        return self._shaped(pq.read_table(self.path / part.file, columns=["latents"])["latents"])

    def rows(self, spans: Sequence[Span]) -> np.ndarray:
        """(n, V, 2, C, s, s) float16 of the images of spans of the catalog; only their row groups are read."""
        files = [self.path / Path("latents", *Path(span.file).parts[-2:]) for span in spans]
        return np.concatenate([
            self._shaped(read(replace(span, file=str(file)), "latents"))
            for span, file in zip(spans, files, strict=True)
        ])  # fmt: skip

    def _shaped(self, column: pa.ChunkedArray) -> np.ndarray:
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), *self.manifest.shape)


def write_part(
    folder: Path, file: str, domain: str, first_slot: int, ids: list[str], latents: np.ndarray, receipt: dict
) -> Part:
    """Write a part of (n, V, 2, C, s, s) float16, and its receipt.

    Raises:
        UserError: a number is not finite: the model is of another kind, or half precision can't hold its latents.
    """
    if not np.isfinite(latents).all():
        raise UserError(f"{file}: latents that are not finite")
    columns = {
        "id": pa.array(ids, pa.string()),
        "domain": pa.array([domain] * len(ids), pa.string()),
        "slot": pa.array(np.arange(first_slot, first_slot + len(ids)), pa.int64()),
        "latents": pa.FixedSizeListArray.from_arrays(
            pa.array(latents.reshape(-1), pa.float16()), int(np.prod(latents.shape[1:]))
        ),
    }
    return write_rows(folder, file, first_slot, pa.table(columns), receipt, group=_ROW_GROUP)


def publish(folder: Path, manifest: Manifest) -> Latents:
    """Write the manifest, which makes the folder readable."""
    manifest = manifest.model_copy(update={"checksum": manifest.digest()})
    write_json(folder / "manifest.json", manifest.model_dump())
    return Latents(folder, manifest)
