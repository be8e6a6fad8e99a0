"""The report: one page that holds all it shows, says what happened, and takes any name for what it is."""

import base64
import io
import re
from dataclasses import replace
from html import unescape
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from tests.categories import made
from ucdr_ray.evaluation import report_maps, report_tables
from ucdr_ray.evaluation.contact import RIGHT, WRONG, contact_sheet, stack
from ucdr_ray.evaluation.disentangle import Disentangled, Probed
from ucdr_ray.evaluation.protocols import DomainVectors
from ucdr_ray.evaluation.report import About, build_report
from ucdr_ray.evaluation.report_examples import choose, search

NAMES = ["photo", "sketch", "<script>alert('art')</script>"]
CLASSES = ["cat", "dog", "<img src=x onerror=alert(1)>"]
ABOUT = About("run <1>", {"catalog": "a & b"}, [(name, 24, 24, 3) for name in NAMES], "train: {lr: <0.1>}")
EPOCHS = [
    {"epoch": 1, "stage": "instance", "loss": 3.0, "loss_aug": 3.0},
    {
        "epoch": 2,
        "stage": "in_domain",
        "loss": 4.0,
        "loss_aug": 2.5,
        "loss_in": 1.5,
        "share/photo->photo": 0.9,
    },
    {"epoch": 3, "stage": "cross_domain", "loss": 3.5, "loss_cross": 1.0, "share/photo->sketch": 0.3},
]


def domains(shift, noise=0.6, seed=0):
    """Vectors with a direction per class, and one per domain that hides it as ``shift`` grows."""
    rng = np.random.default_rng(seed)
    content, style = rng.standard_normal((2, 3, 16))
    made = {}
    for index, name in enumerate(NAMES):
        vectors = np.repeat(content, 8, axis=0) + shift * style[index] + noise * rng.standard_normal((24, 16))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = [CLASSES[row // 8] for row in range(24)]
        made[name] = DomainVectors(
            vectors.astype(np.float32), labels, [f"{index}-{row:02d}" for row in range(24)]
        )
    return made


def pictures(domain, slots):
    return [Image.new("RGB", (20 + slot, 30), (10 * slot, 100, 50)) for slot in slots]


@pytest.fixture(scope="module")
def page():
    return build_report(ABOUT, EPOCHS, domains(shift=4), domains(shift=0), pictures)


def test_a_page_needs_nothing_but_itself(page):
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page)
    for attribute in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert attribute.startswith(("data:image/", "#")), attribute[:60]
    images = re.findall(r"data:image/\w+;base64,([\w+/=]+)", page)
    for data in images:
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    assert len(images) == 4 + 3 + 6 * 3 * 2  # maps, curves, and three queries of each pair before and after


def test_a_page_shows_names_as_text(page):
    assert "<script" not in page
    assert "<img src=x" not in page
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    assert all(name in text for name in [*NAMES, "run <1>", "a & b", "train: {lr: <0.1>}"])


def test_a_page_says_what_training_changed(page):
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page)))
    found = re.search(
        r"Mean map@all is ([\d.]+) % after training: \+([\d.]+) points .* \(([\d.]+) %\),", text
    )
    after, gain, before = (float(value) for value in found.groups())
    assert after - before == pytest.approx(gain, abs=0.11)
    assert "6 of 6 pairs got better" in text
    mixed = re.search(r"know domains: ([\d.]+) before, ([\d.]+) after", text)
    assert float(mixed[1]) < 0.2 < 0.8 < float(mixed[2])


def test_the_same_seed_gives_the_same_page(page):
    assert build_report(ABOUT, EPOCHS, domains(shift=4), domains(shift=0), pictures) == page
    assert build_report(ABOUT, EPOCHS, domains(shift=4), domains(shift=0), pictures, seed=1) != page


def test_two_small_domains_and_no_epochs_are_enough():
    tiny = {
        "a": DomainVectors(np.eye(2, 4, dtype=np.float32), ["x", "y"], ["1", "2"]),
        "b": DomainVectors(np.eye(3, 4, dtype=np.float32), ["x", None, "y"], ["1", "2", "3"]),
    }
    page = build_report(ABOUT, [], tiny, tiny, pictures)
    assert "5 queries" not in page
    assert "4 queries over all pairs; 0 of them have nothing to find" in page
    assert "1 images without a label" in page


@pytest.mark.parametrize("bare", [NAMES, NAMES[:1]], ids=["no labels", "one domain without"])
def test_without_labels_the_page_shows_what_needs_none(bare):
    before, after = (
        {name: replace(d, labels=[None] * 24) if name in bare else d for name, d in domains(shift).items()}
        for shift in (4, 0)
    )
    page = build_report(ABOUT, EPOCHS, before, after, pictures)
    assert "nothing here is counted as right or wrong" in page and "train: {lr:" in page
    for word in ("map@all", "precision", "Green with a tick", "right before", "classes part", 'id="figures"'):
        assert word not in page
    images = re.findall(r"data:image/\w+;base64,([\w+/=]+)", page)
    assert len(images) == 2 + 3 + 6 * 3 * 2  # maps by domain, curves, queries


def test_a_page_of_a_run_with_a_generator_shows_what_z_says(page):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 0, 0)).save(buffer, "PNG")
    found = Disentangled(
        buffer.getvalue(),
        (Probed(0.912, 0.304), Probed(0.455, 0.618)),
        (Probed(0.803, 0.251), Probed(0.377, 0.529)),
    )
    both = [domains(shift=4), domains(shift=0)]
    with_it = build_report(ABOUT, EPOCHS, *both, pictures, disentangled=found)
    assert base64.b64encode(buffer.getvalue()).decode() in with_it and 'href="#disentangled"' in with_it
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", with_it)))
    assert "domain, embedding 91.2 45.5 lower" in text and "object, embedding 30.4 61.8 higher" in text
    assert "domain, [z] 80.3 37.7 lower" in text and "object, [z] 25.1 52.9 higher" in text
    assert "What [z] says" not in page
    bare = [{name: replace(d, labels=[None] * 24) for name, d in made.items()} for made in both]
    text = re.sub(r"<[^>]+>", " ", build_report(ABOUT, EPOCHS, *bare, pictures, disentangled=found))
    assert "91.2" in text and "61.8" not in text


def test_domains_without_a_common_class_are_said_so():
    apart = {
        "a": DomainVectors(np.eye(2, 4, dtype=np.float32), ["x", "x"], ["1", "2"]),
        "b": DomainVectors(np.eye(3, 4, dtype=np.float32), ["y", "y", "y"], ["1", "2", "3"]),
    }
    assert "No pair of domains has a class in common" in build_report(ABOUT, [], apart, apart, pictures)


def test_what_a_gallery_lacks_is_told_and_drawn(page):
    rows, labels = made()
    both = {
        name: DomainVectors(
            some, [f"kind {one}" for one in labels[name]], [f"{name}-{row}" for row in range(len(some))]
        )
        for name, some in rows.items()
    }
    pairs = [("sketch", "photo")]
    lacking = build_report(ABOUT, EPOCHS, both, both, pictures, pairs=pairs)
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", lacking)))
    assert "sketch → photo 100.0 100.0 100.0 100.0" in text and "photo → sketch" not in text
    assert 'href="#nothing"' in lacking and 'id="nothing"' not in page  # there, nothing lacks anything
    curve = re.search(r'"data:image/png;base64,([\w+/=]+)" alt="private', lacking)
    assert curve is not None and Image.open(io.BytesIO(base64.b64decode(curve[1]))).width > 500
    # Where all is private there is no trade-off to draw.
    apart = dict(both, photo=replace(both["photo"], labels=["elsewhere"] * len(rows["photo"])))
    nowhere = build_report(ABOUT, EPOCHS, apart, apart, pictures, pairs=pairs)
    assert 'id="nothing"' in nowhere and "against shared ones refused" not in nowhere


def test_examples_are_drawn_from_queries_that_have_something_to_find_and_do_not_depend_on_the_model():
    before, after = domains(shift=4), domains(shift=0)
    pairs = list(permutations(NAMES, 2))
    found = choose(before, after, pairs, per_pair=3, seed=5)
    assert len(found) == 18
    assert [(e.query_domain, e.gallery_domain, e.slot) for e in found] == [
        (e.query_domain, e.gallery_domain, e.slot) for e in choose(after, before, pairs, per_pair=3, seed=5)
    ]
    lonely = dict(
        before, photo=DomainVectors(before["photo"].vectors, ["nowhere"] * 23 + ["cat"], before["photo"].ids)
    )
    found = choose(lonely, lonely, pairs, 3, 0)
    assert {e.slot for e in found if e.query_domain == "photo"} == {23}


def test_search_is_exact_and_breaks_ties_as_the_metrics_do():
    query = DomainVectors(np.eye(1, 3, dtype=np.float32), ["cat"], ["q"])
    gallery = DomainVectors(
        np.array([[0, 1, 0], [0.6, 0.8, 0], [0.6, 0, 0.8]], np.float32),
        ["dog", "cat", "dog"],
        ["c", "b", "a"],
    )
    found = search(query, 0, gallery, k=2)
    assert (found.slots, found.right, found.hits) == ([2, 1], [False, True], 1)
    assert found.scores == pytest.approx([0.6, 0.6])


def test_a_map_gives_every_domain_its_share_and_its_named_classes():
    many = {
        name: DomainVectors(
            np.eye(600, dtype=np.float32), [str(row) for row in range(600)], [str(r) for r in range(600)]
        )
        for name in ("a", "b", "c")
    }
    sample = report_maps.draw_sample(many, many, seed=0)
    assert {name: int((sample.domains == name).sum()) for name in many} == {"a": 333, "b": 333, "c": 333}
    assert all((sample.labels == name).sum() == 3 for name in sample.named)


def test_mixing_is_nought_for_domains_apart_and_one_for_chance():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, 8))
    names = np.repeat(["a", "b"], 200)
    assert report_maps.mixing(vectors + 50 * np.where(names == "a", 1, -1)[:, None], names) == 0
    assert report_maps.mixing(vectors, names) == pytest.approx(1, abs=0.05)


def test_a_difference_is_coloured_by_its_sign_and_size():
    small, large, lost, none, same = (
        report_tables.difference(a, b)
        for a, b in [(0.2, 0.21), (0.2, 0.3), (0.3, 0.2), (None, 0.2), (0.2, 0.2001)]
    )
    assert (small.text, large.text, lost.text, none.text, same.text) == ("+1.0", "+10.0", "-10.0", "–", "0.0")
    assert small.colour.startswith("rgba(26,150,65,0.1") and large.colour == "rgba(26,150,65,0.55)"
    assert lost.colour == "rgba(215,48,31,0.55)"
    assert none.colour == same.colour == ""


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def colours(sheet):
    return {colour for _, colour in sheet.getcolors(maxcolors=10**6)}


def test_a_contact_sheet_frames_right_and_wrong():
    query, results = Image.new("RGB", (40, 20), "blue"), [Image.new("RGB", (10, 30), "yellow")] * 7
    framed = contact_sheet(query, results, ["x"] * 7, [True] * 6 + [False])
    assert {rgb(RIGHT), rgb(WRONG), (0, 0, 255), (255, 255, 0)} <= colours(framed)
    assert rgb(WRONG) not in colours(contact_sheet(query, results, ["x"] * 7, [True] * 7))
    assert not {rgb(RIGHT), rgb(WRONG)} & colours(contact_sheet(query, results, ["x"] * 7))


@pytest.mark.parametrize("count", [0, 1, 5, 11])
def test_a_contact_sheet_takes_any_number_of_images_of_any_shape(count):
    results = [Image.new("RGB", (1 + 300 * (place % 2), 301 - 300 * (place % 2))) for place in range(count)]
    sheet = contact_sheet(
        Image.new("L", (1, 500)), results, ["a very long caption → é"] * count, title="q" * 500
    )
    both = stack([sheet, sheet])
    assert both.size == (sheet.width, 2 * sheet.height)
    assert np.array_equal(np.asarray(both)[: sheet.height], np.asarray(sheet))
