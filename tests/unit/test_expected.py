"""Published counts, and what a difference is called."""

import pytest

from ucdr_ray.errors import UserError
from ucdr_ray.expected import NAMES, differences, published, read_classes, recognise


def as_published(name, **changed):
    """Counts that agree with a benchmark; where only a domain's total is known, its first class makes it up."""
    benchmark = published(name)
    counts = {}
    for domain, facts in benchmark.domains.items():
        most = facts.per_class or dict.fromkeys(benchmark.classes, (benchmark.over_per_class or 0) + 1)
        rest = (facts.images or sum(most.values())) - sum(most.values())
        first = benchmark.classes[0]
        counts[domain] = dict(most) | {first: most[first] + rest}
    return counts | changed


@pytest.mark.parametrize(
    ("name", "classes", "images"),
    [
        ("pacs", 7, [2048, 2344, 1670, 3929]),
        ("office31", 31, [2817, 498, 795]),
        ("office_home", 65, [2427, 4365, 4439, 4357]),
        ("domainnet", 345, [48_833, 53_201, 75_759, 172_500, 175_327, 70_386]),
    ],
)
def test_the_counts_that_are_shipped_are_the_published_ones(name, classes, images):
    benchmark = published(name)
    assert len(set(benchmark.classes)) == classes
    assert [domain.images for domain in benchmark.domains.values()] == images
    for domain in benchmark.domains.values():
        assert not domain.per_class or sum(domain.per_class.values()) == domain.images


def test_domainnet7_is_a_selection_of_domainnet():
    seven = published("domainnet7")
    assert seven.classes == read_classes("domainnet7")
    assert set(seven.classes) < set(published("domainnet").classes)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_does_not_differ_from_itself(name):
    assert differences(published(name), as_published(name)) == []
    assert recognise(as_published(name)) == name


def test_other_spellings_are_the_same_domains_and_classes():
    counts = as_published("office_home")
    spelt = {
        k.lower().replace(" ", "_"): {c.replace("_", " ").lower(): n for c, n in v.items()}
        for k, v in counts.items()
    }
    spelt["real"] = spelt.pop("real_world")
    assert differences(published("office_home"), spelt) == []


def found(name, **changed):
    return [
        (d.domain, d.what, d.published, d.found, d.hint)
        for d in differences(published(name), as_published(name, **changed))
    ]


def test_a_missing_class_and_a_short_one_are_named():
    counts = dict(as_published("pacs")["photo"])
    counts["dog"] -= 1
    del counts["house"]
    assert found("pacs", photo=counts) == [
        ("photo", "images", "1,670", "1,389", ""),
        ("photo", "missing classes", "0", "1: house", ""),
        ("photo", "images of dog", "189", "188", ""),
    ]


def test_a_known_split_is_recognised():
    (images, *_) = found("pacs", photo={"dog": 1499})
    assert images == ("photo", "images", "1,670", "1,499", "as in the official train lists (kfold)")


def test_a_missing_and_a_strange_domain_are_named():
    counts = as_published("pacs")
    counts["watercolour"] = counts.pop("sketch")
    lines = [(d.domain, d.published, d.found) for d in differences(published("pacs"), counts)]
    assert lines == [("watercolour", "none", "3,929 images"), ("sketch", "3,929 images", "missing")]


def test_all_of_domainnet_as_the_seven_says_how_to_select():
    counts = as_published("domainnet")
    hints = {
        d.hint for d in differences(published("domainnet7"), counts) if d.what == "classes that are not of it"
    }
    assert hints == {"the benchmark is a selection: add --classes domainnet7"}


def test_images_without_classes_and_numbered_classes():
    assert [d[1] for d in found("pacs", photo={None: 1670})] == ["images without class"]
    assert found("pacs", photo={str(n): 1670 // 7 + (n < 4) for n in range(7)}) == []
    assert found("pacs", photo={"0": 1670}) == [("photo", "classes", "7", "1", "labels are numbers here")]


def test_class_files(tmp_path):
    (tmp_path / "c.txt").write_text("# birds\n\nbird\n  ice cream \n")
    assert read_classes(str(tmp_path / "c.txt")) == ["bird", "ice cream"]
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="no class in it"):
        read_classes(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="No such file.*domainnet7"):
        read_classes("domainnet8")
    with pytest.raises(UserError, match="known are pacs"):
        published("pcas")
