"""What the long campaigns found, as a table at the end and as JSON: `build/chaos.json`."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "build" / "chaos.json"
# Where these tests run in the background, Ctrl-C is switched off, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
_rows: dict[str, dict[str, int]] = {}


@pytest.fixture
def tell() -> Callable[..., None]:
    """`tell("what", tried=20, recovered=20)`: one row of the table."""

    def add(campaign: str, **counts: int) -> None:
        _rows[campaign] = counts

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(_rows, indent=2) + "\n")
    terminalreporter.section("campaigns")
    for campaign, counts in _rows.items():
        terminalreporter.write_line(
            f"{campaign:42}" + "  ".join(f"{name} {count:,}" for name, count in counts.items())
        )
    terminalreporter.write_line(f"written to {FILE}")
