"""The job behind `ucdr embed`: every part of a catalog through the encoder, on a pool of Ray Data actors."""

from collections.abc import Sequence
from pathlib import Path

from ucdr_ray.catalog import Catalog
from ucdr_ray.cluster.part_embedder import PartEmbedder
from ucdr_ray.cluster.parts import held, rows_of, run
from ucdr_ray.embeddings import CatalogRef, DomainVectors, Embeddings, ModelRef
from ucdr_ray.embeddings_writer import check_folder, publish
from ucdr_ray.errors import UserError
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.parts_writer import clear_foreign, finished_part
from ucdr_ray.progress import progress


def embed(
    encoder: Encoder,
    catalog: Catalog,
    out: Path,
    domains: Sequence[str] | None = None,
    batch: int = 64,
    actors: int | None = None,
) -> Embeddings:
    """Embed ``catalog`` into the folder ``out``. Parts that an earlier, interrupted call finished are kept.

    The vectors do not depend on ``batch`` and ``actors``, up to float rounding.

    Args:
        domains: names; all when None.
        batch: images at a time through the encoder.
        actors: copies of the encoder; without it one for each GPU, or without GPUs for each CPU.

    Raises:
        UserError: an unknown domain, ``out`` holds something else, or another process embeds into it.
        JobError: an image could not be decoded (named), or a worker failed.
    """
    out = out.resolve()  # workers need not stand in this process's folder
    chosen = [d for d in catalog.domains if d.name in set(domains or [d.name for d in catalog.domains])]
    for name in domains or []:
        catalog.domain(name)
    model = ModelRef(name=encoder.name, fingerprint=encoder.fingerprint)
    source = CatalogRef(fingerprint=catalog.fingerprint, path=str(catalog.path.resolve()))
    rows = rows_of(catalog, chosen, out, "vectors", {"model": model.fingerprint})
    check_folder(out)
    with held(out, "embedding"):
        published = _published(out, model, source, [domain.name for domain in chosen])
        found = {row["file"]: finished_part(out, row["file"], row["made_from"], "embeddings") for row in rows}
        done = {file: part for file, part in found.items() if part is not None}
        pending = [row for row in rows if row["file"] not in done]
        encoder_kept = _has_encoder(out, model)
        if published is not None and not pending and encoder_kept and len(published.domains) == len(chosen):
            return published
        (out / "manifest.json").unlink(missing_ok=True)  # from here on the folder is unfinished
        clear_foreign(out, "vectors", set(done))
        if not encoder_kept:
            encoder.save(out / "encoder")
        with progress("embed", "images", sum(row["images"] for row in pending)) as meter:
            for part in run(
                "embedding", pending, PartEmbedder, actors, encoder=str(out / "encoder"), batch=batch
            ):
                done[part.file] = part
                meter.advance(part.rows)
        finished = [
            DomainVectors(
                name=domain.name,
                rows=domain.images,
                parts=[done[row["file"]] for row in rows if row["domain"] == domain.name],
            )
            for domain in chosen
        ]
        return publish(out, encoder.dim, model, source, finished)


def _published(out: Path, model: ModelRef, source: CatalogRef, domains: list[str]) -> Embeddings | None:
    """The finished embeddings in ``out``, if any; UserError if going on would lose something of them."""
    if not (out / "manifest.json").exists():
        return None
    found = Embeddings.open(out, verify=False)
    if found.model != model or found.catalog.fingerprint != source.fingerprint:
        raise UserError(f"--out {out}: holds embeddings of another model or catalog; choose another folder")
    if lost := [domain.name for domain in found.domains if domain.name not in domains]:
        raise UserError(
            f"--out {out}: also holds {', '.join(lost)}; name these domains too, or choose another folder"
        )
    return found


def _has_encoder(out: Path, model: ModelRef) -> bool:
    try:
        return Encoder.load(out / "encoder").fingerprint == model.fingerprint
    except UserError:
        return False
