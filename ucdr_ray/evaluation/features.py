"""Vectors, labels and ids of a catalog's domains: embedded in this process, or read from an embeddings folder."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ucdr_ray.catalog import Catalog
from ucdr_ray.config import RunConfig
from ucdr_ray.embeddings import Embeddings, check_unit
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.evaluation.protocols import DomainVectors, Split
from ucdr_ray.images import Reject, to_array
from ucdr_ray.models.backbone import build_backbone
from ucdr_ray.models.encoder import Encoder
from ucdr_ray.progress import progress
from ucdr_ray.records import read_record

SPLIT = "split.json"  # in a catalog that `ucdr split` has made


def untrained(config: RunConfig) -> Encoder:
    """What a run is compared with: its backbone before training, without a head. UserError: it can't be loaded."""
    backbone = build_backbone(config.model.backbone, config.train.seed)
    return Encoder(backbone, config.data.size, config.data.resize)


def chosen_domains(catalog: Catalog, wanted: Sequence[str] | None) -> list[str]:
    """The domains to compare: those ``wanted``, or all; checked before anything is embedded.

    Raises:
        UserError: one is not in the catalog or is named twice, or fewer than two are left.
    """
    domains = [catalog.domain(name) for name in wanted] if wanted else catalog.domains
    names = [domain.name for domain in domains]
    if len(set(names)) < len(names):
        raise UserError(f"domains {', '.join(names)}: one is named twice")
    if len(names) < 2:
        raise UserError(f"domains search each other, so there must be at least 2; got {', '.join(names)}")
    return names


def split_of(catalog: Catalog, names: Sequence[str]) -> Split | None:
    """What `ucdr split` drew for this catalog; None where it was not made so.

    Raises:
        UserError: ``names`` lack a domain of it, or it is damaged.
    """
    if all(table.file != SPLIT for table in catalog.manifest.tables):
        return None
    split = read_record(Split, catalog.path / SPLIT, "split")
    if missing := sorted(set(split.labels) - set(names)):
        raise UserError(
            f"{catalog.path} was split for {', '.join(split.labels)}; missing: {', '.join(missing)}"
        )
    return split


def check_labelled(catalog: Catalog, names: Sequence[str]) -> None:
    """Raise UserError where a domain has no labels to evaluate by."""
    for name in names:
        if not catalog.domain(name).labelled:
            raise UserError(
                f"domain {name!r} of {catalog.path} has no labels, and only labels say what is right"
            )


def embed_domain(
    encoder: Encoder,
    catalog: Catalog,
    domain: str,
    batch: int = 128,
    advance: Callable[[int], object] = lambda rows: None,
) -> DomainVectors:
    """Embed all images of a domain, in slot order, on the encoder's device.

    Args:
        batch: images at a time.
        advance: told the number of images after each batch.

    Raises:
        JobError: an image cannot be decoded (an ingested catalog has none such).
        UserError: the encoder's vectors are not finite and of unit length.
    """
    device = next(encoder.parameters()).device
    vectors: list[np.ndarray] = []

    def pixels(data: bytes) -> np.ndarray:
        return to_array(data, encoder.size, encoder.resize, max_pixels=None)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for rows in catalog.batches(domain, ["image"], batch):
            try:
                images = np.stack(list(pool.map(pixels, rows["image"].to_pylist())))
            except Reject as reject:
                raise JobError(f"an image of domain {domain!r} in {catalog.path}: {reject.reason}") from None
            vectors.append(encoder.encode(torch.from_numpy(images).to(device)).cpu().numpy())
            advance(len(images))
    whole = np.concatenate(vectors)
    check_unit(whole, f"{encoder.name}, images of domain {domain!r}")
    return _with_labels(whole, catalog, domain)


def embed_domains(encoder: Encoder, catalog: Catalog, domains: Sequence[str]) -> dict[str, DomainVectors]:
    """`embed_domain` of several, with progress on standard error."""
    total = sum(catalog.domain(domain).images for domain in domains)
    with progress(f"embed with {encoder.name}", "images", total) as meter:
        return {domain: embed_domain(encoder, catalog, domain, advance=meter.advance) for domain in domains}


def read_domain(embeddings: Embeddings, catalog: Catalog, domain: str) -> DomainVectors:
    """A domain's vectors from an embeddings folder, with the labels of the catalog that it was made from.

    Raises:
        UserError: the embeddings were made from another catalog.
    """
    if embeddings.catalog.fingerprint != catalog.fingerprint:
        raise UserError(
            f"{embeddings.path} was made from another catalog than {catalog.path}; run `ucdr embed` on it"
        )
    return _with_labels(embeddings.vectors(domain), catalog, domain)


def _with_labels(vectors: np.ndarray, catalog: Catalog, domain: str) -> DomainVectors:
    table = catalog.read(domain, ["id", "label"])
    return DomainVectors(vectors, table["label"].to_pylist(), table["id"].to_pylist())
