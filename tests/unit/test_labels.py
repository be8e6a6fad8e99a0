"""Labels by folder, stem and CSV."""

import pytest

from tests.pictures import plan, small_tree, tree
from ucdr_ray.errors import UserError
from ucdr_ray.ingest.part import plan_folder
from ucdr_ray.ingest.plan import read_chunk
from ucdr_ray.labels import labeller


def labels(out, source, rule):
    planned = plan(out, source, labels=rule)
    return {
        item.source: item.label for chunk in planned.chunks for item in read_chunk(plan_folder(out), chunk)
    }


def test_folder_stem_and_none(tmp_path):
    source = small_tree(tmp_path / "data", per_class=1)
    assert labels(tmp_path / "1", source, "folder")["photo/dog/0.png"] == "dog"
    assert labels(tmp_path / "2", source, "stem")["photo/dog/0.png"] == "0"
    assert set(labels(tmp_path / "3", source, "none").values()) == {None}


def test_a_csv_labels_by_path_then_name_then_stem(tmp_path):
    source = tree(
        tmp_path / "data", {"a/x/1.png": b"1", "a/x/2.png": b"2", "a/x/3.png": b"3", "a/x/4.png": b"4"}
    )
    table = "code,group,name\n1,games,joker\n2.png,tools,saw\na/x/3.png,tools,axe\n3,wrong,wrong\n"
    (tmp_path / "t.csv").write_text(table)
    expected = ["games", "tools", "tools", None]
    assert list(labels(tmp_path / "1", source, str(tmp_path / "t.csv")).values()) == expected
    by_name = labels(tmp_path / "2", source, f"{tmp_path}/t.csv:code:name")
    assert list(by_name.values()) == ["joker", "saw", "axe", None]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("stems", "allowed are folder, stem, none, FILE.csv"),
        ("missing.csv", "No such file"),
        ("t.csv:code:none", "no column 'none'; it has: code, label"),
        ("twice.csv", "two labels for '1': 'a' and 'b'"),
        ("one.csv", "at least two columns"),
    ],
)
def test_a_wrong_rule_is_one_clear_line(tmp_path, monkeypatch, rule, message):
    monkeypatch.chdir(tmp_path)
    tree(
        tmp_path,
        {"t.csv": b"code,label\n1,a\n", "twice.csv": b"code,label\n1,a\n1,b\n", "one.csv": b"code\n1\n"},
    )
    with pytest.raises(UserError, match=message) as caught:
        labeller(rule)
    assert "\n" not in str(caught.value)
