"""A catalog of some of another catalog's images: those of some domains, with some labels."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ucdr_ray.catalog import REJECTS, SCHEMA, Catalog, Domain, Manifest, Part, fingerprint_of
from ucdr_ray.errors import UserError
from ucdr_ray.files import fingerprint, staged_folder, write_json
from ucdr_ray.ingest.duplicates import duplicates
from ucdr_ray.ingest.part import write_images
from ucdr_ray.records import FileRecord, Record

_ROWS = 512  # images in memory at a time, at most


def write_subset(
    catalog: Catalog,
    out: Path,
    labels: Mapping[str, set[str]],
    why: Record,
    file: str,
    advance: Callable[[int], object] = lambda images: None,
) -> Manifest:
    """Write a catalog of the images of these domains that have these labels, in their order, with slots anew.

    It appears at ``out`` when it is whole. One that is there already, made from the same, is left as it is. The same
    bytes come of the same, anywhere.

    Args:
        labels: domain -> the labels whose images are taken.
        why: what the subset was chosen by; kept in the catalog as ``file``, and checked with it.
        advance: told how many images were looked at.

    Raises:
        UserError: ``out`` holds something else, or a domain has no image with such a label.
    """
    inputs = fingerprint([catalog.fingerprint, why.model_dump(), {k: sorted(v) for k, v in labels.items()}])
    if (there := _there(out, inputs)) is not None:
        return there
    if out.resolve().is_relative_to(catalog.path.resolve()):
        raise UserError(f"--out {out}: lies inside the catalog {catalog.path}")
    with staged_folder(out) as folder:
        domains, classes = [], set()
        for name in sorted(labels):
            domain, found = _domain(catalog, name, labels[name], folder, advance)
            domains.append(domain)
            classes |= found
        pq.write_table(REJECTS.empty_table(), folder / "rejects.parquet")
        twice = duplicates(folder, [(domain.name, part) for domain in domains for part in domain.parts])
        pq.write_table(twice, folder / "duplicates.parquet")
        write_json(folder / file, why.model_dump())
        manifest = Manifest(
            fingerprint=fingerprint_of(domains),
            inputs=inputs,
            max_side=catalog.manifest.max_side,
            domains=domains,
            classes=sorted(classes),
            duplicates=len(twice),
            rejects=0,
            sources=[str(catalog.path)],
            tables=[FileRecord.of(folder, name) for name in ("rejects.parquet", "duplicates.parquet", file)],
        )
        write_json(folder / "manifest.json", manifest.model_dump())
    return manifest


def _there(out: Path, inputs: str) -> Manifest | None:
    """The manifest of a catalog that was made of these inputs; None where nothing is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir() or not (out / "manifest.json").exists():
        raise UserError(f"--out {out}: holds something that is not a catalog")
    manifest = Catalog.open(out).manifest
    if manifest.inputs != inputs:
        raise UserError(
            f"--out {out}: holds a catalog made from other inputs or settings; remove it, or choose another folder"
        )
    return manifest


def _domain(
    catalog: Catalog, name: str, labels: set[str], folder: Path, advance: Callable[[int], object]
) -> tuple[Domain, set[str]]:
    """One domain of the subset, a part for each 512 rows looked at that have some, and the labels it has."""
    parts: list[Part] = []
    counts: Counter[str] = Counter()
    slot, wanted = 0, pa.array(sorted(labels))
    for batch in catalog.batches(name, SCHEMA.names, _ROWS):
        table = pa.Table.from_batches([batch])
        kept = table.filter(pc.is_in(table["label"], value_set=wanted))
        if len(kept):
            slots = pa.array(range(slot, slot + len(kept)), pa.int64())
            kept = kept.set_column(SCHEMA.get_field_index("slot"), SCHEMA.field("slot"), slots).cast(SCHEMA)
            file = f"images/{name}/part-{len(parts):05d}.parquet"
            write_images(folder / file, kept)
            parts.append(Part.of(folder, file, rows=len(kept), first_slot=slot))
            counts.update(kept["label"].to_pylist())
            slot += len(kept)
        advance(len(batch))
    if not parts:
        raise UserError(f"domain {name!r} of {catalog.path}: no image has one of the labels chosen for it")
    return Domain(name=name, images=slot, labelled=slot, classes=len(counts), parts=parts), set(counts)
