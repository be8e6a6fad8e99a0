"""What every verb shares: help, exit codes, one-line errors."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from tests.tiny import make_catalog, make_embeddings, picture
from ucdr_ray import cli
from ucdr_ray.errors import JobError, UserError

VERBS = [
    "demo",
    "draw",
    "ingest",
    "catalog",
    "config",
    "train",
    "embed",
    "index",
    "search",
    "evaluate",
    "neighbors",
    "report",
]
HEAVY = {"torch", "ray", "mlflow", "faiss", "transformers", "pandas", "PIL", "matplotlib", "sklearn", "scipy"}


def test_help_names_every_verb_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert sorted(VERBS, key=lambda verb: text.index(f"│ {verb} ")) == VERBS


@pytest.mark.parametrize("verb", [["generator", "train"], ["disentangle"], ["report"]])
def test_help_keeps_words_in_brackets(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*verb, "--help"]) == 0
    assert "[z]" in capsys.readouterr().out


def leaves(command: Any, path: str) -> dict[str, Any]:
    """Every command under ``command``, by what is typed for it."""
    below = getattr(command, "commands", None)
    if below is None:
        return {path: command}
    return {
        typed: leaf
        for name, child in below.items()
        for typed, leaf in leaves(child, f"{path} {name}").items()
    }


COMMANDS = leaves(get_command(cli.app), "ucdr")


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_teaches_by_an_example(typed: str) -> None:
    assert f"Example: {typed}" in COMMANDS[typed].help


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_option_is_explained(typed: str) -> None:
    assert [parameter.name for parameter in COMMANDS[typed].params if not parameter.help] == []


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, ucdr_ray.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(answer.stdout.split()) == set()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ucdr-ray 0.")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["fly"], "No such command 'fly'; see ucdr --help"),
        (
            ["config", "chek"],
            "No such command 'chek'. Did you mean 'check', 'schema'?; see ucdr config --help",
        ),
        (["config", "show", "--bogus"], "No such option: --bogus; see ucdr config show --help"),
        (["train"], "Missing option '--out'; see ucdr train --help"),
        (["ingest", "--out"], "Option '--out' requires an argument; see ucdr --help"),
        (["search", "x", "y.png", "-k", "few"], "Invalid value for '-k': "),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith(f"error: {line}")


@pytest.mark.parametrize("arguments", [[], ["config"]])
def test_a_call_of_nothing_shows_the_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    said = capsys.readouterr()
    assert "Usage: ucdr" in said.out + said.err
    assert "error: " not in said.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no catalog at x"), 2, "error: no catalog at x\n"),
        (JobError("the worker\ndied"), 1, "error: the worker; died\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyError("epoch"), 1, "error: KeyError: 'epoch'; ucdr --debug shows where\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.delenv("UCDR_DEBUG", raising=False)
    assert cli.run([]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "x/y"), 2, "x/y: No such file or directory"),
        (PermissionError(13, "Permission denied", "x"), 2, "x: Permission denied"),
        (OSError(28, "No space left on device", "x"), 1, "x: No space left on device"),
        (ConnectionError("no answer\nfrom x"), 1, "no answer; from x"),
    ],
)
def test_what_the_file_system_refuses_is_one_line(
    error: OSError, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test_errors_are_one_line_and_an_exit_code(error, code, f"error: {line}\n", monkeypatch, capsys)


def test_results_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UCDR_DEBUG", raising=False)
    made = make_catalog(tmp_path / "catalog", {"photo": 3})
    embeddings = make_embeddings(tmp_path / "embeddings", made)
    query = tmp_path / "query.png"
    query.write_bytes(picture(0))
    assert cli.run(["index", "build", str(embeddings.path), "--out", str(tmp_path / "index")]) == 0
    search = ["search", str(tmp_path / "index"), str(query)]
    embed = ["embed", "--backbone", "random:resnet-mini", "--catalog", str(made.path)]
    calls = [
        (f"{tmp_path}: Is a directory", ["catalog", "info", str(made.path), "--json", str(tmp_path)]),
        (f"{query}", ["catalog", "info", str(made.path), "--json", f"{query}/x.json"]),
        (f"{tmp_path}: Is a directory", [*search, "--sheet", str(tmp_path)]),
        (f"{query}", ["index", "build", str(embeddings.path), "--out", str(query)]),
        (f"--out {query}: is a file", [*embed, "--out", str(query)]),
    ]
    capsys.readouterr()
    for message, arguments in calls:
        assert cli.run(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert said.splitlines()[-1].startswith(f"error: {message}"), said


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCDR_DEBUG", "1")
    with pytest.raises(UserError):
        cli.run(["config", "show", "--set", "nothing"])


def test_an_error_that_came_through_ray_is_still_one_line() -> None:
    from ray.exceptions import RayTaskError

    remote = RayTaskError("decode", "a long remote traceback\n  File …", UserError("no image at x"))
    wrapped = remote.as_instanceof_cause()
    assert isinstance(wrapped, UserError)
    assert cli._line(wrapped) == "no image at x"
