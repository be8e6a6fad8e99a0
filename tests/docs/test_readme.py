"""The README's commands do what it says: those on drawn images are run, the others at least exist.

A block follows the line `<!-- not run by the tests: REASON -->` where it needs foreign data or minutes.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ucdr_ray.cli import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(<!-- not run by the tests: [^\n]+ -->\n+)?```bash\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    text: str
    line: int
    runs: bool


BLOCKS = [
    Block(match[2], README[: match.start(2)].count("\n") + 1, match[1] is None)
    for match in BLOCK.finditer(README)
]


def commands(block: Block) -> list[list[str]]:
    """The block's command lines, split into words up to a pipe, a redirection or a comment."""
    lines = [shlex.split(line, comments=True) for line in block.text.replace("\\\n", " ").splitlines()]
    return [
        words[: next((i for i, word in enumerate(words) if word in "|<>&&;"), None)]
        for words in lines
        if words
    ]


EVERY_COMMAND = [
    pytest.param(words, id=f"line {block.line}: {' '.join(words[:3])}")
    for block in BLOCKS
    for words in commands(block)
]


def options(words: list[str]) -> set[str]:
    """Every option of the command that ``words`` (after `ucdr`) begin with."""
    command: Any = get_command(app)
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    assert not hasattr(command, "commands"), f"ucdr {' '.join(words)} names no command"
    return {option for parameter in command.params for option in parameter.opts} | {"--help"}


@pytest.mark.parametrize("words", EVERY_COMMAND)
def test_every_command_exists_with_its_options(words: list[str]) -> None:
    tool, *rest = words
    assert [
        word for word in rest if word.startswith(("jobs/", "benchmarks/")) and not (ROOT / word).is_file()
    ] == []
    if tool == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert [target for target in rest if "=" not in target and f"\n{target}:" not in makefile] == []
    elif tool.endswith("ucdr"):
        given = {word for word in rest if re.fullmatch("--[a-z].*|-[a-z]", word)}
        assert given - options(rest) - {"--help", "--version"} == set()


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/adding-a-method.md"]
)
def test_links_lead_somewhere(document: str) -> None:
    file = ROOT / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text(encoding="utf-8"))
    assert [link for link in links if not (file.parent / link).exists()] == []


@pytest.mark.timeout(900)
def test_the_commands_on_drawn_images_work_in_their_order(tmp_path: Path) -> None:
    for folder in ("jobs", "ucdr_ray"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for block in (block for block in BLOCKS if block.runs):
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, (
            f"README line {block.line}:\n{block.text}\n{answer.stdout}\n{answer.stderr}"
        )
        assert "Traceback" not in answer.stderr
    made = {
        name: json.loads((tmp_path / name).read_text())
        for name in ("found.json", "before.json", "after.json")
    }
    assert (
        made["found.json"]["queries"]
        and made["before.json"]["mean"].keys() == made["after.json"]["mean"].keys()
    )
    assert (tmp_path / "search.png").stat().st_size and "data:image" in (tmp_path / "report.html").read_text()
