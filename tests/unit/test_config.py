"""`ucdr config` and the settings behind it, as a person at the command line meets them."""

import json
from pathlib import Path

import pytest
import yaml

from ucdr_ray import drawings
from ucdr_ray.cli import run
from ucdr_ray.config import RunConfig, config_fingerprint, dump_config, load_config
from ucdr_ray.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [*sorted((ROOT / "jobs" / "configs").glob("*.yaml")), drawings.ALIGNMENT, drawings.DUDE]


def wrong(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(None, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_field_is_named_with_its_neighbour_and_what_is_allowed() -> None:
    message = wrong("train.bach=3")
    assert "train.bach" in message
    assert "did you mean batch?" in message
    assert "workers" in message


def test_an_unknown_section_is_named_too() -> None:
    assert "did you mean train?" in wrong("trian.batch=3")


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("train.batch=0", "train.batch", "0"),
        ("train.device=tpu", "train.device", "'tpu'"),
        ("method.temperature=-1", "method.temperature", "-1"),
        ("augment.grey_p=1.5", "augment.grey_p", "1.5"),
        ("data.size=wide", "data.size", "'wide'"),
        ("train.lr=.inf", "train.lr", "inf"),
        ("train.weight_decay=nan", "train.weight_decay", "nan"),
    ],
)
def test_a_bad_value_is_named_with_its_field(override: str, field: str, value: str) -> None:
    message = wrong(override)
    assert message.startswith(field + ":")
    assert f"got {value}" in message


def test_contradictions_name_both_sides() -> None:
    assert "stored_size=32 is smaller than size=64" in wrong("data.size=64", "data.stored_size=32")
    assert "train.workers=8 exceeds train.batch=4" in wrong("train.workers=8", "train.batch=4")
    assert "at least one stage" in wrong(
        "method.stages.instance=0", "method.stages.in_domain=0", "method.stages.cross_domain=0"
    )


def test_a_stage_without_its_loss_and_a_warm_up_beyond_the_end_are_refused() -> None:
    assert "stages.in_domain=30 with weight_in=0" in wrong("method.weight_in=0")
    assert "stages.cross_domain=20 with weight_cross=0" in wrong("method.weight_cross=0")
    load_config(None, ["method.weight_in=0", "method.stages.in_domain=0"])
    stages = ["method.stages.instance=3", "method.stages.in_domain=0", "method.stages.cross_domain=4"]
    assert "train.warmup_epochs=7.5; allowed: up to the 7 epochs" in wrong("train.warmup_epochs=7.5", *stages)
    load_config(None, ["train.warmup_epochs=7", *stages])


def test_random_weights_are_normalised_unless_asked_otherwise() -> None:
    def norm(*overrides: str) -> str:
        return load_config(None, list(overrides)).model.batch_norm

    assert norm() == norm("model.backbone=random:resnet18") == "train"
    assert norm("model.backbone=weights") == norm("model.batch_norm=frozen") == "frozen"


@pytest.mark.parametrize("override", ["train.lr", "=3", "train.lr.deep=3", "train.lr=[1,", "train=3"])
def test_an_override_that_cannot_be_is_one_clear_line(override: str) -> None:
    assert wrong(override)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train: {lr: 0.5, seed: 7}\n")
    config = load_config(file, ["train.lr=1e-3", "data.domains=[photo, Real World]"])
    assert (config.train.lr, config.train.seed) == (1e-3, 7)
    assert config.data.domains == ["photo", "Real World"]


@pytest.mark.parametrize(
    ("content", "key", "lines"),
    [
        ("train: {seed: 1}\ndata: {size: 64}\ntrain: {lr: 0.1}\n", "train", (3, 1)),
        ('train:\n  lr: 0.1\n  batch: 8\n  "lr": 0.2\n', "lr", (4, 2)),
    ],
)
def test_a_key_that_stands_twice_is_named(tmp_path: Path, content: str, key: str, lines: tuple) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "c.yaml")
    said = f"c.yaml: key {key} on line {lines[0]} again, first on line {lines[1]}; allowed: once in a section"
    assert str(caught.value).endswith(said)
    assert "key k_in on line 1 again" in wrong("method={k_in: 1, k_in: 2}")


def test_what_yaml_merges_may_be_set_anew(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "train: &all {seed: 1}\nmethod: {stages: {<<: &s {instance: 3}, instance: 4}}\n"
    )
    assert load_config(tmp_path / "c.yaml").method.stages.instance == 4


def test_an_emptied_section_means_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train:\n  # lr: 0.1\nmethod:\n  k_in: 7\n  stages:\n")
    assert load_config(tmp_path / "c.yaml") == load_config(None, ["method.k_in=7"])
    assert load_config(tmp_path / "c.yaml", ["train.seed=5"]).train.seed == 5


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [\n", "train: 3\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_config_is_one_clear_line(tmp_path: Path, content: str | bytes) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_changes_with_what_decides_the_weights_alone() -> None:
    plain = config_fingerprint(load_config())
    assert config_fingerprint(load_config(None, ["train.lr=0.5"])) != plain
    assert config_fingerprint(load_config(None, ["method.k_in=3"])) != plain
    assert config_fingerprint(load_config(None, ["bank.exact_up_to=1000"])) != plain
    assert (
        config_fingerprint(load_config(None, ["tracking.enabled=false", "train.checkpoint_every=9"])) == plain
    )
    dude = config_fingerprint(load_config(None, ["method.name=dude"]))
    assert dude != plain
    assert dude != config_fingerprint(load_config(None, ["method.name=dude", "method.od_every=2"]))
    assert dude == config_fingerprint(load_config(None, ["method.name=dude", "method.latents=elsewhere"]))


def test_the_fields_of_a_method_are_its_own() -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, ["method.name=dude", "method.weight_odd=1"])
    assert str(caught.value).startswith(
        "method.weight_odd: unknown field; did you mean weight_od? allowed here:"
    )
    with pytest.raises(UserError) as caught:
        load_config(None, ["method.stages.warm_up=1"])
    assert str(caught.value).startswith(
        "method.stages.warm_up: unknown field; allowed here: cross_domain, in_domain"
    )
    with pytest.raises(UserError) as caught:
        load_config(None, ["method.name=dud"])
    assert "method" in str(caught.value) and "'alignment', 'dude', 'uem'" in str(caught.value)
    with pytest.raises(UserError) as caught:
        load_config(None, ["method.name=dude", "method.time_low=0.9", "method.time_high=0.5"])
    assert str(caught.value) == "method: time_low=0.9 with time_high=0.5; allowed: time_low below time_high"


@pytest.mark.parametrize(
    ("setting", "counts"),
    [
        ("model.batch_norm=train", True),
        ("model.batch_norm=frozen", False),
        ("data.residency=stream", True),
    ],
)
def test_several_workers_count_where_they_change_what_is_computed(setting: str, counts: bool) -> None:
    none, one, two, three = (
        config_fingerprint(load_config(None, ["model.batch_norm=frozen", setting, f"train.workers={n}"]))
        for n in range(4)
    )
    assert none == one and (one != two) == (two != three) == counts


def test_dump_and_load_are_inverse(tmp_path: Path) -> None:
    config = load_config(None, ["data.domains=[photo, Real World]", "train.lr=1e-7"])
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


def test_show_prints_what_config_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--set", "train.lr=1e-7", "--set", "data.domains=[photo, Real World]"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(text)
    shown = load_config(tmp_path / "shown.yaml")
    assert shown == load_config(None, ["train.lr=1e-7", "data.domains=[photo, Real World]"])
    assert "# Where to compute. Allowed: auto, cpu, cuda." in text
    assert "# Momentum of the key encoder. Allowed: from 0, below 1." in text


def test_every_field_says_what_it_means() -> None:
    definitions = RunConfig.model_json_schema()["$defs"].items()
    bare = [
        f"{section}.{name}"
        for section, definition in definitions
        for name, field in definition["properties"].items()
        if "description" not in field and "$ref" not in field
    ]
    assert bare == []


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == set(RunConfig.model_fields)


def test_check_gives_one_line_for_each_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("train: {seed: 1}\n")
    bad.write_text(yaml.safe_dump({"train": {"batch": 0, "bach": 3}, "data": {"resize": "stretch"}}))
    assert run(["config", "check", str(good), str(bad), str(tmp_path / "none.yaml")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"ok: {good}")
    lines = captured.err.splitlines()
    assert len(lines) == 5
    for line, field in zip(
        lines, ["data.resize", "train.batch", "train.bach", "no config at", "error: 2 of 3"], strict=True
    ):
        assert field in line


def test_check_takes_overrides_and_needs_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("train: {seed: 1}\n")
    assert run(["config", "check", str(tmp_path / "c.yaml"), "--set", "train.lr=0.5"]) == 0
    expected = config_fingerprint(load_config(None, ["train.seed=1", "train.lr=0.5"]))[:12]
    assert capsys.readouterr().out == f"ok: {tmp_path / 'c.yaml'} (fingerprint {expected})\n"
    assert run(["config", "check"]) == 0
    assert config_fingerprint(load_config())[:12] in capsys.readouterr().out
    for files in ([], [str(tmp_path / "c.yaml")]):
        assert run(["config", "check", *files, "--set", "train.bach=3"]) == 2
        assert "did you mean batch?" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_right(recipe: Path) -> None:
    method = load_config(recipe).method
    assert (method.name == "dude") == ("dude" in recipe.stem)
    assert (method.name == "uem") == ("uem" in recipe.stem)
    if recipe.stem.startswith("uem_"):  # the paper's values
        assert (*method.stages.model_dump().values(), method.temperature) == (100, 50, 0.07)
        assert load_config(recipe).bank.momentum == 0.99
    if recipe.stem.startswith("dude_"):  # the paper's values
        assert tuple(method.stages.model_dump().values()) == (50, 30, 20)
        assert (method.k_in, method.k_cross, method.temperature, method.momentum) == (50, 50, 0.2, 0.999)


@pytest.mark.parametrize("value", ["2024-99-99", "!!int x", "!!float x", "[" * 2000, "9" * 5000])
def test_what_yaml_cannot_read_is_one_line(value: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(f"train: {{lr: {value}}}")
    assert run(["config", "show", "--set", f"train.lr={value}"]) == 2
    assert run(["config", "show", "--config", str(tmp_path / "c.yaml")]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == "" and len(lines) == 2 and all(line.startswith("error: ") for line in lines)


def test_only_numbers_become_numbers() -> None:
    assert load_config(None, ["tracking.experiment=infinity"]).tracking.experiment == "infinity"
    assert load_config(None, ["train.lr=1e-7"]).train.lr == 1e-7
