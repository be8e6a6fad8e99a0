"""From files to a catalog, part by part and without Ray; and what an opened catalog gives and refuses."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.pictures import bad_images, catalog, noise, plan, small_tree, tree
from ucdr_ray.catalog import REJECTS, SCHEMA, WORK, Catalog
from ucdr_ray.cli import run
from ucdr_ray.errors import JobError, UserError
from ucdr_ray.images import DEFAULT_MAX_PIXELS, content_id, decode
from ucdr_ray.ingest import plan as plans
from ucdr_ray.ingest.part import Settings, finished, make_part


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(plans, "CHUNK_ROWS", 4)


def test_a_catalog_holds_every_image_as_it_came(tmp_path):
    source = small_tree(tmp_path / "data")
    made = catalog(tmp_path / "c", source)
    assert [(d.name, d.images, d.labelled, d.classes) for d in made.domains] == [
        ("photo", 6, 6, 2),
        ("sketch", 6, 6, 2),
    ]
    assert made.classes == ["cat", "dog"]
    table = made.read("sketch", SCHEMA.names)
    assert table.schema.remove_metadata() == SCHEMA
    for row in table.to_pylist():
        original = (source / row["source"]).read_bytes()
        assert row["image"] == original and row["id"] == content_id(original)
        assert (row["width"], row["height"], row["domain"]) == (12, 10, "sketch")
        assert row["label"] == row["source"].split("/")[1]
    assert table.column("slot").to_pylist() == list(range(6))
    assert not (made.path / WORK).exists()


def test_batches_and_take_agree_with_read(tmp_path, small_chunks):
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data", per_class=9))
    assert [part.rows for part in made.domain("photo").parts] == [4, 4, 4, 4, 2]
    ids = made.read("photo", ["id"]).column("id").to_pylist()
    assert [row["id"] for batch in made.batches("photo", ["id"], rows=3) for row in batch.to_pylist()] == ids
    slots = [17, 0, 5, 5, 4, 11]
    taken = made.take("photo", slots, ["slot", "id"])
    assert taken.column("slot").to_pylist() == slots
    assert taken.column("id").to_pylist() == [ids[slot] for slot in slots]
    assert made.take("photo", [], ["id"]).num_rows == 0
    with pytest.raises(UserError, match="run from 0 to 17"):
        made.take("photo", [18], ["id"])


def test_every_bad_input_is_listed_and_leaves_no_gap_in_the_slots(tmp_path, small_chunks):
    source = small_tree(tmp_path / "data", per_class=5)
    tree(
        source,
        {f"photo/cat/{number}-{word}.jpg": data for number, (word, data) in enumerate(bad_images().items())},
    )
    (source / "photo/dog/9.png").symlink_to(tmp_path)
    made = catalog(tmp_path / "c", source)
    assert made.domain("photo").images == 10
    assert made.read("photo", ["slot"]).column("slot").to_pylist() == list(range(10))
    rejects = pq.read_table(made.path / "rejects.parquet", schema=REJECTS).to_pylist()
    assert made.manifest.rejects == len(rejects) == 7
    for row, word in zip(rejects, bad_images()):
        assert word in row["reason"] and row["domain"] == "photo"
        assert row["path"].startswith(str(source)) and word in row["path"]
    assert "outside" in rejects[-1]["reason"]


def test_a_part_moved_is_the_part_that_would_have_been_made_there(tmp_path, small_chunks):
    images = {f"a/x/{n:02}.png": noise(n) for n in range(11)}
    clean = catalog(tmp_path / "clean", tree(tmp_path / "1", images))
    dirty = catalog(
        tmp_path / "dirty", tree(tmp_path / "2", images | {f"a/x/!{n}.png": b"no" for n in range(4)})
    )
    assert dirty.fingerprint == clean.fingerprint
    assert [part.file for part in dirty.domain("a").parts] != [part.file for part in clean.domain("a").parts]


def test_duplicates_by_content_are_kept_counted_and_listed(tmp_path, small_chunks):
    picks = np.random.default_rng(0).integers(0, 12, 40)
    images = {f"{'ab'[n % 2]}/x/{n:02}.png": noise(int(seed)) for n, seed in enumerate(picks)}
    made = catalog(tmp_path / "c", tree(tmp_path / "data", images))
    first, expected = {}, []
    for name in sorted(images):
        key = content_id(images[name])
        if key in first:
            expected.append((key, name[0], name, first[key][0], first[key]))
        first.setdefault(key, name)
    table = pq.read_table(made.path / "duplicates.parquet")
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    assert made.manifest.duplicates == len(expected) == 40 - len(set(picks.tolist()))
    assert sum(domain.images for domain in made.domains) == 40


def test_equal_sources_give_equal_catalogs_wherever_they_lie(tmp_path):
    source = small_tree(tmp_path / "data")
    shutil.copytree(source, tmp_path / "copy")
    one = catalog(tmp_path / "1", source)
    assert catalog(tmp_path / "2", tmp_path / "copy").fingerprint == one.fingerprint
    assert catalog(tmp_path / "3", source, max_side=8).fingerprint != one.fingerprint
    (source / "photo/cat/0.png").write_bytes(noise(99))
    assert catalog(tmp_path / "4", source).fingerprint != one.fingerprint


def test_max_side_shrinks_what_is_larger_and_keeps_the_id_of_the_original(tmp_path):
    source = tree(tmp_path / "data", {"a/x/large.jpg": noise(1, 90, 60, "JPEG"), "a/x/small.png": noise(2)})
    large, small = catalog(tmp_path / "c", source, max_side=30).read("a", SCHEMA.names).to_pylist()
    assert (large["width"], large["height"]) == decode(large["image"]).size == (30, 20)
    assert large["id"] == content_id(noise(1, 90, 60, "JPEG"))
    assert small["image"] == noise(2)


def test_domains_of_one_image_and_of_different_classes_work(tmp_path):
    made = catalog(
        tmp_path / "c",
        tree(tmp_path / "d", {"a/1.png": noise(1), "b/x/1.png": noise(2), "b/y/1.png": noise(3)}),
    )
    assert [(d.images, d.labelled, d.classes) for d in made.domains] == [(1, 0, 0), (2, 2, 2)]
    assert made.read("a", ["label"]).column("label").to_pylist() == [None]


def test_a_domain_of_which_nothing_can_be_read_ends_the_job(tmp_path):
    with pytest.raises(JobError, match="no image of domain 'b' can be read; see .*rejects.parquet"):
        catalog(tmp_path / "c", tree(tmp_path / "data", {"a/1.png": noise(1), "b/1.png": b"no"}))
    assert (tmp_path / "c/rejects.parquet").exists()
    with pytest.raises(UserError, match="did not finish; run the same"):
        Catalog.open(tmp_path / "c")


def test_selecting_domains_and_classes(tmp_path):
    source = small_tree(tmp_path / "data")
    made = catalog(tmp_path / "c", source, domains=["sketch"], classes=["dog"])
    assert [(d.name, d.images) for d in made.domains] == [("sketch", 3)] and made.classes == ["dog"]
    for taken, message in [
        ({"domains": ["photo", "water"]}, "no domain 'water' in the sources; they have: photo, sketch"),
        ({"classes": ["dogs"]}, "no class 'dogs' in the sources; did you mean dog?"),
        ({"classes": ["whale"]}, "no class 'whale' in the sources; they have: cat, dog"),
    ]:
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            plan(tmp_path / "none", source, **taken)


def test_classes_select_by_the_sources_class_even_where_labels_are_stems(tmp_path):
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data"), labels="stem", classes=["dog"])
    assert made.classes == ["0", "1", "2"] and made.domain("photo").images == 3


def test_an_empty_source_and_a_bad_domain_name_are_clear_errors(tmp_path):
    (tmp_path / "data/a/x").mkdir(parents=True)
    with pytest.raises(UserError, match="hold no images"):
        plan(tmp_path / "c", tmp_path / "data")
    tree(tmp_path / "data", {"a,b/1.png": b"x"})
    with pytest.raises(UserError, match="a,b/1.png: 'a,b' can't name a domain"):
        plan(tmp_path / "c", tmp_path / "data")


def test_an_image_that_could_not_be_read_is_tried_again(tmp_path):
    source, out = small_tree(tmp_path / "data"), tmp_path / "c"
    settings = Settings(max_side=None, max_pixels=DEFAULT_MAX_PIXELS)
    chunk = plan(out, source).chunks[0]
    (source / "photo/cat/0.png").rename(tmp_path / "away")
    receipt = make_part(out, chunk, settings)
    assert [reject.reason for reject in receipt.rejects] == ["unreadable file: No such file or directory"]
    (tmp_path / "away").rename(source / "photo/cat/0.png")
    assert make_part(out, chunk, settings).rejects == []


def test_parts_are_taken_over_only_if_inputs_settings_and_file_are_the_same(tmp_path):
    source, out = small_tree(tmp_path / "data"), tmp_path / "c"
    settings = Settings(max_side=None, max_pixels=DEFAULT_MAX_PIXELS)
    chunk = plan(out, source).chunks[0]
    receipt = make_part(out, chunk, settings)
    assert finished(out, chunk, settings) == receipt
    assert finished(out, chunk, Settings(max_side=9, max_pixels=DEFAULT_MAX_PIXELS)) is None

    part = out / receipt.part.file
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"x")
    assert finished(out, chunk, settings) is None
    assert make_part(out, chunk, settings) == receipt and part.read_bytes() == whole

    (source / "photo/cat/0.png").write_bytes(noise(99))
    shutil.rmtree(out / WORK / "plan")
    changed = plan(out, source).chunks
    assert [finished(out, chunk, settings) for chunk in changed] == [None, None]


def test_a_damaged_catalog_is_refused_by_name(tmp_path):
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data"))
    part = made.path / made.domain("sketch").parts[0].file
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(UserError, match=f"damaged catalog: {part} does not match its checksum"):
        Catalog.open(made.path)
    assert Catalog.open(made.path, verify=False).domain("photo").images == 6
    part.unlink()
    with pytest.raises(UserError, match="cannot read"):
        Catalog.open(made.path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version"),
        ("format", "ucdr-index", "format"),
        ("fingerprint", "0" * 64, "does not match its own fingerprint"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(tmp_path, field, value, message):
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data"))
    manifest = json.loads((made.path / "manifest.json").read_text())
    (made.path / "manifest.json").write_text(json.dumps(manifest | {field: value}))
    with pytest.raises(UserError, match=message):
        Catalog.open(made.path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no catalog manifest at"):
        Catalog.open(tmp_path / "nowhere")
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data"))
    with pytest.raises(UserError, match="no domain 'clipart' in .*; it has: photo, sketch"):
        made.domain("clipart")


@pytest.mark.parametrize("name", ["rejects.parquet", "duplicates.parquet"])
def test_a_damaged_table_is_found_by_verify(tmp_path, name):
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data"))
    table = made.path / name
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    with pytest.raises(UserError, match=f"damaged catalog: .*{name} does not match"):
        Catalog.open(made.path)
    table.unlink()
    with pytest.raises(UserError, match=f"damaged catalog: cannot read .*{name}"):
        made.verify()


def test_a_catalog_of_before_tables_were_recorded_opens(tmp_path):
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data"))
    manifest = json.loads((made.path / "manifest.json").read_text())
    del manifest["tables"]
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    (made.path / "rejects.parquet").unlink()
    assert Catalog.open(made.path).fingerprint == made.fingerprint


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest["domains"][0].update(labelled=1),
        lambda manifest: manifest["domains"][0].update(classes=77),
        lambda manifest: manifest.update(classes=["cat", "zzz"]),
        lambda manifest: manifest.update(rejects=5),
    ],
    ids=["labelled", "classes of a domain", "classes", "rejects"],
)
def test_verify_counts_anew(tmp_path, edit, capsys):
    made = catalog(tmp_path / "c", small_tree(tmp_path / "data"))
    assert run(["catalog", "verify", str(made.path)]) == 0
    manifest = json.loads((made.path / "manifest.json").read_text())
    edit(manifest)
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    assert run(["catalog", "verify", str(made.path)]) == 2
    assert "has other counts than its parts" in capsys.readouterr().err
