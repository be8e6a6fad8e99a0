"""`ucdr ingest` as it is called, on Ray."""

import json

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from tests.pictures import bad_images, catalog, noise, small_tree, tree
from ucdr_ray.catalog import WORK, Catalog
from ucdr_ray.cli import run
from ucdr_ray.images import content_id

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def ingest(capfd):
    """Run the verb; gives exit code, standard output, and the lines of standard error that are not progress."""

    def call(*arguments):
        code = run(["ingest", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out, [line for line in err.splitlines() if not line.startswith("ingest: ")]

    return call


def test_on_many_workers_as_in_one_process(tmp_path, ingest):
    source = tree(tmp_path / "data", {f"{'abcdef'[n % 6]}/x/{n}.png": noise(n) for n in range(300)})
    alone = catalog(tmp_path / "alone", source)
    code, out, errors = ingest(source, "--out", tmp_path / "c", "--json", "-")
    assert (code, errors) == (0, [])
    summary = json.loads(out)
    made = Catalog.open(tmp_path / "c")
    assert summary["fingerprint"] == made.fingerprint == alone.fingerprint
    assert summary["images"] == 300 and summary["domains"]["a"] == {
        "images": 50,
        "labelled": 50,
        "classes": 1,
    }
    assert not (tmp_path / "c" / WORK).exists()


def test_bad_inputs_within_the_limit_are_listed(tmp_path, ingest):
    source = small_tree(tmp_path / "data", per_class=20)
    tree(source, {f"photo/cat/{word}.jpg": data for word, data in bad_images().items()})
    code, out, _ = ingest(source, "--out", tmp_path / "c", "--max-rejects", 0.1)
    assert code == 0 and "6 rejects" in out and "rejects.parquet" in out
    made = Catalog.open(tmp_path / "c")
    assert made.manifest.rejects == 6 == pq.read_table(tmp_path / "c/rejects.parquet").num_rows
    assert made.read("photo", ["slot"]).column("slot").to_pylist() == list(range(40))


def test_over_the_limit_the_job_stops_and_says_where_to_look(tmp_path, ingest):
    source = small_tree(tmp_path / "data", per_class=20)
    tree(source, {"photo/cat/a.jpg": b"no", "photo/dog/b.jpg": b""})
    code, _, (error,) = ingest(source, "--out", tmp_path / "c")
    table = tmp_path / "c/rejects.parquet"
    assert code == 1
    first = pq.read_table(table).to_pylist()[0]
    assert first["path"].endswith("photo/cat/a.jpg")
    assert error == (
        "error: 2 of 82 inputs can't be used, over --max-rejects 0.01; "
        f"the first is {first['path']}: {first['reason']}; all of them: {table}"
    )
    assert {row["reason"] for row in pq.read_table(table).to_pylist()} >= {"empty file"}
    assert run(["catalog", "info", str(tmp_path / "c")]) == 2

    (source / "photo/cat/a.jpg").write_bytes(noise(500))
    (source / "photo/dog/b.jpg").unlink()
    assert ingest(source, "--out", tmp_path / "c")[0] == 0
    assert Catalog.open(tmp_path / "c").fingerprint == catalog(tmp_path / "alone", source).fingerprint


def test_again_with_the_same_inputs_changes_nothing_and_with_others_is_refused(tmp_path, ingest):
    source, out = small_tree(tmp_path / "data"), tmp_path / "c"
    first = ingest(source, "--out", out, "--json", "-")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert ingest(source, "--out", out, "--json", "-") == first
    code, _, (error,) = ingest(source, "--out", out, "--max-side", 8)
    assert code == 2 and "holds a catalog made from other inputs or settings" in error
    (source / "photo/cat/0.png").write_bytes(noise(77))
    assert ingest(source, "--out", out)[0] == 2
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path != out} == {
        path: stamp for path, stamp in before.items() if path != out
    }


def test_what_another_plan_left_behind_is_not_in_the_catalog(tmp_path, ingest):
    source, out = small_tree(tmp_path / "data"), tmp_path / "c"
    tree(source, {"water/1.png": b"no"})
    assert ingest(source, "--out", out)[0] == 1
    (out / "images/photo/.part-00000.parquet.abc.tmp").write_bytes(b"draft of a killed worker")
    assert ingest(source, "--out", out, "--domains", "sketch", "--labels", "none")[0] == 0
    assert [d.name for d in Catalog.open(out).domains] == ["sketch"]
    assert [p.name for p in (out / "images").rglob("*") if p.is_file()] == ["part-00000.parquet"]


def test_expect_names_the_differences_and_writes_nothing(tmp_path, ingest):
    source = small_tree(tmp_path / "data")
    code, _, errors = ingest(
        source, "--out", tmp_path / "c", "--expect", "pacs", "--json", tmp_path / "d.json"
    )
    assert code == 1 and not (tmp_path / "c").exists()
    assert errors[-1] == "error: the sources are not PACS as published (above); nothing was written"
    found = json.loads((tmp_path / "d.json").read_text())["differences"]
    assert {"domain": "photo", "what": "images", "published": "1,670", "found": "6", "hint": ""} in found
    assert {
        "domain": "cartoon",
        "what": "domain",
        "published": "2,344 images",
        "found": "missing",
        "hint": "",
    } in found
    assert any(d["what"] == "missing classes" and "giraffe" in d["found"] for d in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "nothing at missing"),
        (["data", "--domains", "photo,water"], "no domain 'water' in the sources; they have: photo, sketch"),
        (["data", "--classes", "birds.txt"], "--classes birds.txt: No such file"),
        (["data", "--labels", "stems"], "allowed are folder, stem, none"),
        (["data", "--labels", "other.csv"], "gives no image a label"),
        (["data", "--label-base", "2"], "allowed are 0, 1 and auto"),
        (["data", "--expect", "imagenet"], "known are pacs"),
        (["empty"], "no folders in it"),
    ],
)
def test_a_wrong_call_is_one_line_and_leaves_nothing(tmp_path, ingest, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    small_tree(tmp_path / "data")
    tree(tmp_path, {"empty/file.png": b"x", "other.csv": b"name,label\nnone,none\n"})
    code, out, (error,) = ingest(*arguments, "--out", "c")
    assert (code, out) == (2, "") and message in error
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("data", "data/catalog", "lies inside the source data"),
        ("data\udce9", "catalog", "allowed are paths in UTF-8"),
        ("data", "catalog\udce9", "allowed are paths in UTF-8"),
    ],
)
def test_folders_that_could_not_be_used_again_are_refused_first(
    tmp_path, ingest, monkeypatch, source, out, message
):
    monkeypatch.chdir(tmp_path)
    small_tree(tmp_path / source)
    code, _, (error,) = ingest(source, "--out", out)
    assert code == 2 and message in error and not (tmp_path / out).exists()


def test_a_folder_that_is_not_ours_is_not_touched(tmp_path, ingest):
    source = small_tree(tmp_path / "data")
    tree(tmp_path / "home", {"letter.txt": b"dear"})
    code, _, (error,) = ingest(source, "--out", tmp_path / "home")
    assert code == 2 and "holds something that is not a catalog" in error
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]

    (tmp_path / "c" / WORK).mkdir(parents=True)
    with FileLock(tmp_path / "c" / WORK / "lock"):
        code, _, (error,) = ingest(source, "--out", tmp_path / "c")
    assert code == 2 and "another ingest is writing there" in error


def test_lists_with_blanks_and_instance_labels(tmp_path, ingest):
    tree(tmp_path, {"Real World/Alarm Clock/1.png": noise(1), "Art/Alarm Clock/1.png": noise(2)})
    tree(tmp_path, {"real.txt": b"Real World/Alarm Clock/1.png 1\n", "art.txt": b"Art/Alarm Clock/1.png 1\n"})
    assert (
        ingest(tmp_path / "real.txt", tmp_path / "art.txt", "--out", tmp_path / "c", "--labels", "stem")[0]
        == 0
    )
    made = Catalog.open(tmp_path / "c")
    assert [d.name for d in made.domains] == ["Art", "Real World"] and made.classes == ["1"]
    assert made.read("Real World", ["id"]).column("id").to_pylist() == [content_id(noise(1))]


def test_a_worker_that_cannot_write_is_one_line(tmp_path, ingest):
    source = small_tree(tmp_path / "data")
    tree(tmp_path / "c", {f"{WORK}/x": b"", "images": b"a file where a folder must be"})
    code, _, (error,) = ingest(source, "--out", tmp_path / "c")
    assert code == 1
    assert error.startswith("error: a part of the catalog could not be written: ") and "images" in error
