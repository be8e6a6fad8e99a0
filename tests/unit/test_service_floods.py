"""What is far too much costs the service little, whatever it is."""

import asyncio
from pathlib import Path

import httpx
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


def test_thumbnails_have_a_bound_of_their_own(world):
    """A page asks for dozens; searches are not kept waiting by them."""
    site = Site(world.index, queue=2)
    row = site.searcher.row

    async def slow(*asked):
        await asyncio.sleep(0.2)
        return await row(*asked)

    site.searcher.row = slow
    path = f"/v1/images/{world.embeddings.ids('photo')[0]}"

    async def many():
        async with site.client() as client:
            thumbnails = asyncio.gather(*(client.get(path) for _ in range(10)))
            await asyncio.sleep(0.05)
            vector = world.embeddings.vectors("photo")[7].tolist()
            return await client.post("/v1/search", json={"vector": vector}), await thumbnails

    search, thumbnails = asyncio.run(many())
    assert search.status_code == 200
    assert sorted(response.status_code for response in thumbnails) == [200] * 8 + [429] * 2
    assert "already answers 8 requests" in next(r for r in thumbnails if r.status_code == 429).text


def test_rights_and_bounds_hold_under_a_prefix_too(world):
    """Behind `serve run --route-prefix /x` an application sees /x before every path."""
    site = Site(world.index, tokens=("reader",), admin=("boss",))

    async def once(path, token):
        transport = httpx.ASGITransport(site.app, root_path="/x")
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, headers={"authorization": f"Bearer {token}"})

    for path in ("/x/v1/admin/reload", "/v1/admin/reload"):
        assert asyncio.run(once(path, "reader")).status_code == 401
        assert asyncio.run(once(path, "boss")).status_code == 200
    assert asyncio.run(once("/x/healthz", "nobody")).status_code == 405
    assert asyncio.run(once("/xv1/index", "nobody")).status_code == 401
