"""What is far too much costs the service little, whatever it is."""

from pathlib import Path

import pytest

from tests.serving import Site, ask

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def site(world) -> Site:
    return Site(world.index)


@pytest.mark.parametrize(
    "body",
    [
        b"{" + b",".join(b'"%x":1' % number for number in range(1_000_000)) + b"}",
        b'{"domains":[' + b"1," * 2_000_000 + b"1]}",
        b'{"vectors":[' + b"[]," * 5_000_000 + b"[]]}",
    ],
    ids=["unknown names", "no names", "no vectors"],
)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/search:batch"])
def test_a_body_of_a_million_faults_costs_little(site, path, body):
    """It would be parsed to a gigabyte, with a message for each fault."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted anew
    before = most_memory()
    response = ask(site, path, content=body, headers=JSON)
    assert response.status_code == 413 and "numbers" in response.json()["error"]
    assert most_memory() - before < 10 * len(body)


def most_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@pytest.mark.parametrize("length", [1_000, 100_000])
def test_many_unknown_names_are_refused_with_one_line(site, length):
    asked = {f"name-{number}": 1 for number in range(length // 15)}
    response = ask(site, "/v1/search", json=asked)
    assert response.status_code == 422 and len(response.content) < 300
