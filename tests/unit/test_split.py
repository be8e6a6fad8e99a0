"""Domains that lack each other's categories: drawn by seed, written as a catalog, evaluated one way."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import picture
from ucdr_ray import cli
from ucdr_ray.catalog import SCHEMA, Catalog, Domain, Manifest, Part, fingerprint_of
from ucdr_ray.errors import UserError
from ucdr_ray.evaluation.features import split_of
from ucdr_ray.evaluation.protocols import SETTINGS, DomainVectors, draw, evaluate_pairs
from ucdr_ray.files import write_json
from ucdr_ray.images import content_id
from ucdr_ray.ingest.subset import write_subset

LABELS = ["bear", "cat", "dog", "elk", "fox"]
label_sets = st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=9)


@given(label_sets, st.sets(st.text(max_size=4)), st.sampled_from(SETTINGS), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_halves_are_drawn_among_the_labels_in_common(common, others, setting, seed):
    labels = {"a": common | others | {None}, "b": common, "c": [*common, *common]}
    split = draw(labels, setting, "a", ["b", "c"], seed)
    half = len(common) // 2
    assert len(split.query_labels) == (half if setting == "partial" else len(common))
    assert len(split.gallery_labels) == (half if setting == "open" else len(common))
    assert set(split.query_labels) | set(split.gallery_labels) == common
    assert len(split.private) == (len(common) - half if setting == "open" else 0)
    # Neither the order of labels nor what a domain has besides changes the draw.
    again = draw(
        {"a": sorted(common), "b": sorted(common)[::-1], "c": common}, setting, "a", ["b", "c"], seed
    )
    assert again == split


def test_seeds_differ_and_every_label_is_private_to_some():
    splits = [draw({"a": LABELS, "b": LABELS}, "open", "a", ["b"], seed) for seed in range(40)]
    assert {label for split in splits for label in split.private} == set(LABELS)
    assert len({tuple(split.private) for split in splits}) == 10  # of five, three


@pytest.mark.parametrize(
    ("labels", "query", "galleries", "said"),
    [
        ({"a": ["x", "y"], "b": ["y", "z"]}, "a", ["b"], "1 labels in common"),
        ({"a": ["x", None], "b": ["x", None]}, "a", ["b"], "1 labels in common"),
        ({"a": LABELS}, "a", ["a"], "allowed are different domains"),
        ({"a": LABELS, "b": LABELS}, "a", ["b", "b"], "allowed are different domains"),
        ({"a": LABELS}, "a", [], "allowed are different domains"),
    ],
)
def test_what_cannot_be_split(labels, query, galleries, said):
    with pytest.raises(UserError, match=said):
        draw(labels, "open", query, galleries, 0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Catalog:
    """Two parts a domain; one image in twelve has no label, and one label is sketch's alone."""
    path = tmp_path_factory.mktemp("split") / "catalog"
    domains = []
    for number, name in enumerate(["art", "photo", "sketch"]):
        parts = []
        for first in (0, 40):
            slots = list(range(first, first + 40))
            images = [picture(100 * number + slot - (slot % 9 == 8)) for slot in slots]
            labels = [None if slot % 12 == 11 else LABELS[slot % 5] for slot in slots]
            if name == "sketch":
                labels[3] = "gnu"
            rows = {
                "id": [content_id(image) for image in images], "slot": slots, "domain": [name] * 40, "image": images,
                "width": [24] * 40, "height": [24] * 40, "source": [f"{name}/{slot}.png" for slot in slots],
                "label": labels,
            }  # fmt: skip
            file = f"images/{name}/part-{len(parts):05d}.parquet"
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(SCHEMA.empty_table().from_pydict(rows, SCHEMA), path / file)
            parts.append(Part.of(path, file, rows=40, first_slot=first))
        labelled, classes = 80 - 6, 6 if name == "sketch" else 5
        domains.append(Domain(name=name, images=80, labelled=labelled, classes=classes, parts=parts))
    manifest = Manifest(
        fingerprint=fingerprint_of(domains), inputs="0" * 64, max_side=None, domains=domains,
        classes=[*LABELS, "gnu"], duplicates=0, rejects=0, sources=[],
    )  # fmt: skip
    write_json(path / "manifest.json", manifest.model_dump())
    return Catalog.open(path)


def split(whole: Catalog, out: Path, *more: str) -> int:
    words = ["--setting", "open", "--query", "sketch", "--gallery", "photo,art", "--seed", "7"]
    return cli.run(["split", str(whole.path), "--out", str(out), *words, *more])


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(whole, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "open"
    assert split(whole, out) == 0
    return out


def test_the_catalog_has_the_chosen_images_as_they_were(whole, made):
    opened = Catalog.open(made)
    opened.verify_counts()
    drawn = split_of(opened, ["art", "photo", "sketch"])
    assert drawn is not None and len(drawn.gallery_labels) == 2 and drawn.query_labels == LABELS
    for name in ("art", "photo", "sketch"):
        columns = ["id", "image", "width", "height", "source", "label"]
        expected = [
            row for row in whole.read(name, columns).to_pylist() if row["label"] in set(drawn.labels[name])
        ]
        found = opened.read(name, [*columns, "slot", "domain"]).to_pylist()
        assert [row.pop("slot") for row in found] == list(range(len(expected)))
        assert {row.pop("domain") for row in found} == {name}
        assert found == expected
    ids = [id_ for name in ("art", "photo", "sketch") for id_ in opened.read(name, ["id"])["id"].to_pylist()]
    assert opened.manifest.duplicates == len(ids) - len(set(ids)) > 0
    assert len(pq.read_table(made / "duplicates.parquet")) == opened.manifest.duplicates


def test_the_same_split_is_the_same_bytes_and_is_not_made_twice(whole, made, tmp_path):
    assert split(whole, tmp_path / "again") == 0
    assert files(tmp_path / "again") == files(made)
    moment = (made / "manifest.json").stat().st_mtime_ns
    assert split(whole, made) == 0
    assert (made / "manifest.json").stat().st_mtime_ns == moment
    assert not [path for path in made.parent.iterdir() if path.name != made.name]  # nothing half-made is left


def test_an_interrupted_split_leaves_nothing(whole, made, tmp_path):
    drawn = split_of(Catalog.open(made), ["art", "photo", "sketch"])
    labels = {name: set(some) for name, some in drawn.labels.items()}

    def stop(images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_subset(whole, tmp_path / "half", labels, drawn, "split.json", stop)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="'photo' .* no image has one of the labels"):
        write_subset(whole, tmp_path / "half", labels | {"photo": {"unicorn"}}, drawn, "split.json")
    assert not list(tmp_path.iterdir())


def test_what_stands_in_the_way_is_refused_and_stays(whole, made, tmp_path, capsys):
    before = files(made)
    assert split(whole, made, "--seed", "8") == 2
    assert "other inputs" in capsys.readouterr().err and files(made) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert split(whole, tmp_path / "mine") == 2
    assert "not a catalog" in capsys.readouterr().err and len(files(tmp_path / "mine")) == 1
    assert split(whole, whole.path / "inside") == 2
    assert "lies inside" in capsys.readouterr().err and not (whole.path / "inside").exists()
    assert split(whole, tmp_path / "new", "--gallery", "clipart") == 2
    assert "it has: art, photo, sketch" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_evaluate_lets_the_query_domain_alone_search(made, tmp_path, capsys):
    out = tmp_path / "found.json"
    words = ["evaluate", "--catalog", made, "--backbone", "random:resnet-mini", "--size", "32", "--null"]
    assert cli.run([str(word) for word in [*words, "--json", out]]) == 0
    assert "open, seed 7" in capsys.readouterr().out
    found = json.loads(out.read_text())
    pairs = ["sketch->photo", "sketch->art"]
    assert list(found["pairs"]) == list(found["open_set"]) == pairs
    assert found["split"]["private"] == sorted(set(LABELS) - set(found["split"]["gallery_labels"]))
    sketch = Catalog.open(made).read("sketch", ["label"])["label"].to_pylist()
    private = sum(label in found["split"]["private"] for label in sketch)
    assert found["queries"][pairs[0]] == {
        "used": len(sketch), "unlabelled": 0, "without_relevant": private
    }  # fmt: skip
    assert cli.run([str(word) for word in [*words, "--domains", "sketch,photo"]]) == 2
    assert "missing: art" in capsys.readouterr().err


def test_map_is_that_of_the_labels_that_both_have():
    rng = np.random.default_rng(3)
    labels = [LABELS[i % 5] for i in range(50)]
    query, gallery = (
        DomainVectors(rng.standard_normal((50, 8)).astype(np.float32), labels, [rng.bytes(8).hex() for _ in labels])
        for _ in range(2)
    )  # fmt: skip

    def only(domain, some):
        rows = [row for row, label in enumerate(domain.labels) if label in some]
        kept = [labels[row] for row in rows]
        return DomainVectors(domain.vectors[rows], kept, [domain.ids[row] for row in rows])

    has = ["bear", "fox"]
    found = evaluate_pairs({"q": query, "g": only(gallery, has)}, pairs=[("q", "g")])
    shared = evaluate_pairs({"q": only(query, has), "g": only(gallery, has)}, pairs=[("q", "g")])
    assert list(found["pairs"]) == ["q->g"]
    assert found["mean"]["map@all"] == shared["mean"]["map@all"]
    assert found["mean"]["precision@1"] < shared["mean"]["precision@1"]  # to private queries, all is wrong


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_damaged_split_is_named(made, tmp_path, harm):
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    if harm == "gone":
        (copy / "split.json").unlink()
    else:
        text = (copy / "split.json").read_text()
        (copy / "split.json").write_text(text.replace('"seed": 7', '"seed": 8'))
    with pytest.raises(UserError, match=r"split\.json"):
        Catalog.open(copy)
