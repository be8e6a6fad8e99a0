"""`ucdr neighbors` as a user types it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny import make_catalog
from tests.training import tiny_config, train_alone
from ucdr_ray import cli
from ucdr_ray.checkpoint import checkpoints, save_checkpoint
from ucdr_ray.files import write_json
from ucdr_ray.images import decode
from ucdr_ray.neighbors.memory import LocalMemory
from ucdr_ray.neighbors.sparsity import BINS, sparsity
from ucdr_ray.run import Run, begin, check_folder

SETTINGS = ["method.k_in=2", "method.k_cross=4", "method.centre=true", "method.stages.cross_domain=1"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Pictures go to the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("n") / "catalog", {"one": 1, "photo": 30, "sketch": 21})


@pytest.fixture(scope="module")
def trained(catalog, tmp_path_factory):
    """A run folder, and the domains' banks at its end."""
    banks = {}

    def keep(_, trainer):
        banks.update((n, b.keys.clone()) for n, b in zip(trainer.memory.names, trainer.memory.banks))

    run = check_folder(tmp_path_factory.mktemp("n") / "run", resume=False)
    begin(run, tiny_config(SETTINGS), catalog, resume=False)
    with run.going():
        train_alone(catalog, run.path, SETTINGS, keep)
    return run.path, banks


def json_of(capsys, *words: object) -> dict:
    assert cli.run(["neighbors", *map(str, words), "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words: object) -> str:
    assert cli.run(["neighbors", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def plain(found):
    """What the JSON holds of pairs."""
    return json.loads(json.dumps({
        f"{p.domain}->{p.other}": {
            "rows": p.rows,
            **{kind: {k: vars(d) for k, d in getattr(p, kind).items()} for kind in ("mutual", "named")},
        }
        for p in found
    }))  # fmt: skip


def test_embeddings_as_they_are_or_centred(world, capsys):
    path = world.embeddings.path
    rows = [(d.name, torch.from_numpy(world.embeddings.vectors(d.name))) for d in world.embeddings.domains]
    for option, centre in ((), False), (("--no-centre",), False), (("--centre",), True):
        made = json_of(capsys, path, "-k", "10, 1,3,3", *option)
        assert made["pairs"] == plain(sparsity(rows, [1, 3, 10], centre))
        assert made["centred"] is centre and made["k"] == [1, 3, 10] and made["bins"] == list(BINS)
        assert made["domains"] == {"Real World": 1, "photo": 40, "sketch": 23}
        assert (made["checkpoint"], made["k_in"], made["k_cross"]) == (None, None, None)
    some = json_of(capsys, path, "--domains", "sketch, photo", "-k", 3)
    assert list(some["domains"]) == ["sketch", "photo"]
    assert list(some["pairs"]) == ["sketch->sketch", "sketch->photo", "photo->sketch", "photo->photo"]


def test_a_run_is_searched_as_its_training_searches(trained, capsys):
    run, banks = trained
    made = json_of(capsys, run, "-k", "1,3")
    assert made["k"] == [1, 2, 3, 4] and (made["k_in"], made["k_cross"]) == (2, 4)
    assert made["centred"] is True and made["domains"] == {"one": 1, "photo": 30, "sketch": 21}
    assert made["checkpoint"] == checkpoints(run / "checkpoints")[-1].name
    assert made["pairs"] == plain(sparsity(list(banks.items()), [1, 2, 3, 4], centre=True))
    other = json_of(capsys, run, "-k", 4, "--no-centre", "--domains", "photo,sketch")
    assert other["pairs"] == plain(sparsity([(n, banks[n]) for n in ("photo", "sketch")], [2, 4], False))


def save(root, step, memory):
    values = {"epoch": 9, "domains": memory.names}
    return save_checkpoint(root, step, {"weight": torch.zeros(1)}, values, 1, memory.save)


def memory_of(banks):
    memory = LocalMemory([(name, len(rows)) for name, rows in banks.items()], rows_of(banks).shape[1])
    for index, bank in enumerate(memory.banks):
        bank.keys.copy_(list(banks.values())[index])
        bank.filled[:] = True
    return memory


def rows_of(banks):
    return next(iter(banks.values()))


def test_rows_that_no_key_has_come_for_are_left_out(trained, capsys, tmp_path):
    run, banks = Path(shutil.copytree(trained[0], tmp_path / "run")), trained[1]
    memory = memory_of(banks)
    memory.banks[1].filled[5:] = False
    save(run / "checkpoints", 10_000, memory)
    made = json_of(capsys, run, "--domains", "photo,sketch", "-k", 2)
    assert made["domains"] == {"photo": 5, "sketch": 21}
    left = [("photo", banks["photo"][:5]), ("sketch", banks["sketch"])]
    assert made["pairs"] == plain(sparsity(left, [2, 4], centre=True))
    memory.banks[1].filled[:] = False
    save(run / "checkpoints", 10_001, memory)
    assert "the bank of 'photo' is empty" in refused(capsys, run)


def test_the_names_of_a_runs_banks_are_those_that_training_chose(catalog, tmp_path, capsys):
    run = check_folder(tmp_path / "run", resume=False)
    begin(run, tiny_config(SETTINGS), catalog, resume=False)
    # Domains in another order than the catalog's.
    banks = {
        name: torch.nn.functional.normalize(torch.randn(catalog.domain(name).images, 4), dim=1)
        for name in ("sketch", "photo")
    }
    save(run.checkpoints, 1, memory_of(banks))
    assert json_of(capsys, run.path)["domains"] == {"sketch": 21, "photo": 30}


def test_the_tables_and_the_picture_show_it(trained, capsys):
    run, _ = trained
    assert cli.run(["neighbors", str(run), "-k", "1,3", "--json", "made.json"]) == 0
    text = capsys.readouterr().out
    pairs = json.loads(Path("made.json").read_text())["pairs"]
    assert f"{run}, checkpoint" in text and ", centred" in text and "plot: neighbors.png" in text
    assert "* of the run: k_in = 2, k_cross = 4" in text and "images, k = 4" in text
    lines = [line.split() for line in text.splitlines()]
    row = [line[3:] for line in lines if line[:3] == ["photo", "→", "sketch"]]
    by_k = pairs["photo->sketch"]
    assert row[0] == [f"{100 * d['share']:.1f}" for d in by_k["mutual"].values()]
    assert row[1] == [f"{d['mean']:.2f}" for d in by_k["mutual"].values()]
    assert row[2] == [f"{100 * (1 - d['share']):.1f}" for d in by_k["named"].values()]
    counts = [f"{100 * rows / 30:.1f}" for rows in by_k["mutual"]["4"]["histogram"]]
    assert row[3] == counts[: len(row[3])] and set(counts[len(row[3]) :]) <= {"0.0"}
    assert decode(Path("neighbors.png").read_bytes())


def test_a_picture_is_written_unless_a_program_reads(world, capsys):
    json_of(capsys, world.embeddings.path)
    assert not Path("neighbors.png").exists()
    json_of(capsys, world.embeddings.path, "--plot", "asked.png")
    assert decode(Path("asked.png").read_bytes())


def test_wrong_calls_are_one_line(world, trained, catalog, capsys, tmp_path):
    path, run = world.embeddings.path, trained[0]
    for k in ("0", "1,,2", "-1", "1001", "ten", "1.5"):
        assert f"-k {k}: allowed are whole numbers from 1 to 1,000" in refused(capsys, path, "-k", k)
    assert "no folder at" in refused(capsys, tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "no folder at" in refused(capsys, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "is neither a run of `ucdr train` nor what `ucdr embed`" in refused(capsys, tmp_path / "empty")
    assert "bad embeddings manifest" in refused(capsys, catalog.path)
    for source, known in ((path, "Real World, photo, sketch"), (run, "one, photo, sketch")):
        message = refused(capsys, source, "--domains", "photo,paint")
        assert f"no domain 'paint' in {source}; it has: {known}" in message
        assert "one is named twice" in refused(capsys, source, "--domains", "photo,photo")
    for option, place, message in (
        ("--plot", tmp_path / "a.pdf", "allowed: a name that ends in .png"),
        ("--plot", tmp_path / "file" / "a.png", "file is no folder that may be written to"),
        ("--json", tmp_path, "is a folder; allowed: a file"),
        ("--json", "", "is a folder; allowed: a file"),
    ):
        assert message in refused(capsys, path, option, place)
    assert "both a.png" in refused(capsys, path, "--json", "a.png", "--plot", "a.png")
    assert not list(tmp_path.glob("*.png"))


def test_a_run_that_cannot_be_searched_says_why(trained, catalog, capsys, tmp_path):
    new = check_folder(tmp_path / "new", resume=False)
    begin(new, tiny_config(SETTINGS), catalog, resume=False)
    assert "has no checkpoint yet" in refused(capsys, new.path)
    run = Run(Path(shutil.copytree(trained[0], tmp_path / "run")))
    write_json(run.path / "run.json", {"format": "something"})
    assert "is not a run of version 1" in refused(capsys, run.path)
    shutil.copy(trained[0] / "run.json", run.path)
    (newest,) = checkpoints(run.checkpoints)[-1:]
    (newest / "bank.safetensors").write_bytes(b"")
    assert "is damaged" in refused(capsys, run.path)
