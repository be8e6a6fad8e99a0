"""What the service does not answer, and that it says so in one line without a path, a token or a traceback."""

import asyncio
import io
import json
import time
import zlib

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image
from schemathesis.checks import not_a_server_error

from serve.access import Tokens
from serve.guard import refused
from serve.refusal import Refusal
from tests.serving import Site, ask
from tests.tiny import picture
from ucdr_ray.errors import UserError

JSON = {"content-type": "application/json"}
PNG = {"content-type": "image/png"}
FORM = "multipart/form-data"
TOKEN, ADMIN = "a-token-for-searching", "a-token-for-the-admin"


@pytest.fixture(scope="module")
def site(world) -> Site:
    return Site(world.index)


def bomb(side: int) -> bytes:
    """A PNG of side × side black pixels, a thousandth of their size."""
    header = b"IHDR" + side.to_bytes(4) * 2 + b"\x01\x00\x00\x00\x00"
    rows = zlib.compress((b"\0" * (1 + -(-side // 8))) * side, 9)
    chunks = (header, b"IDAT" + rows, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (len(chunk) - 4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) for chunk in chunks
    )


def animation() -> bytes:
    frames = [Image.new("RGB", (8, 8), (number % 256, number // 2, 9)) for number in range(300)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def vector(**wishes):
    return {"json": {"vector": [1.0] * 256} | wishes}


def raw(text):
    return {"content": text, "headers": JSON}


REFUSED = {
    "neither vector nor id": ({"json": {}}, 422, "exactly one of vector, id and text"),
    "both": (vector(id="x"), 422, "exactly one of vector, id and text"),
    "wrong dimension": ({"json": {"vector": [1.0] * 3}}, 422, "has 3 numbers; this index has 256 dimensions"),
    "empty vector": ({"json": {"vector": []}}, 422, "vector"),
    "zero vector": ({"json": {"vector": [0.0] * 256}}, 422, "zero or not finite"),
    "not a number": (raw(b'{"vector": [NaN]}'), 422, "finite"),
    "infinite": (raw(b'{"vector": [' + b",".join([b"1e999"] * 256) + b"]}"), 422, "finite"),
    "words": (raw(b'{"vector": ["1"]}'), 422, "vector.0"),
    "no such image": ({"json": {"id": "../../CURRENT"}}, 404, "no such image"),
    "k of nothing": (vector(k=0), 422, "k"),
    "huge k": (vector(k=10**9), 422, "above the limit of 1000"),
    "k as text": (vector(k="3"), 422, "k"),
    "k far beyond": (raw(b'{"id": "x", "k": 1' + b"0" * 400 + b"}"), 422, "k"),
    "unknown domain": (vector(domains=["moon"]), 422, "it has: Real World, photo, sketch"),
    "no domain": (vector(domains=[]), 422, "domains"),
    "unknown field": (vector(nprobe=3), 422, "nprobe"),
    "score above one": (vector(min_score=2), 422, "min_score"),
    "not JSON": (raw(b"{"), 400, "Invalid JSON"),
    "deep JSON": (raw(b"[" * 100_000), 400, "nesting"),
    "deep JSON in a field": (raw(b'{"vector": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"), 400, "nesting"),
    "empty": (raw(b""), 400, "Invalid JSON"),
    "no content type": ({"content": b"x"}, 415, "multipart/form-data"),
    "another content type": ({"content": b"x", "headers": {"content-type": "text/html"}}, 415, "are allowed"),
    "parameters of JSON": (vector() | {"params": {"k": "3"}}, 422, "body"),
    "form without file": ({"data": {"k": "3"}, "files": {"other": b"x"}}, 422, "image"),
    "two files": ({"files": [("image", picture(0)), ("image", picture(1))]}, 400, "not a form"),
    "broken form": ({"content": b"x", "headers": {"content-type": FORM + "; boundary=b"}}, 400, "not a form"),
    "form without boundary": ({"content": b"x", "headers": {"content-type": FORM}}, 400, "not a form"),
    "large field": ({"files": {"image": picture(0)}, "data": {"domains": "x" * 100_000}}, 400, "not a form"),
    "bare k as words": ({"content": picture(0), "headers": PNG, "params": {"k": "many"}}, 422, "k"),
    "bare k twice": ({"content": picture(0), "headers": PNG, "params": {"k": ["1", "2"]}}, 422, "once"),
    "no image": ({"content": b"", "headers": PNG}, 422, "empty file"),
    "not an image": ({"content": b"hello", "headers": PNG}, 422, "not an image of a known kind"),
    "vector graphics": ({"content": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "headers": PNG}, 422, "not an image"),
    "a page as a picture": ({"content": b"GIF89a<script>alert(1)</script>", "headers": PNG}, 422, "image:"),
    "truncated": ({"content": picture(0, 200)[:-100], "headers": PNG}, 422, "truncated"),
    "animation": ({"content": animation(), "headers": PNG}, 422, "300 frames"),
    "too many pixels": ({"content": bomb(13_000), "headers": PNG}, 413, "over 64000000"),
    "too large": ({"content": b"x" * 20_000_001, "headers": PNG}, 413, "limit of 20000000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_by_name(site, name):
    request, status, words = REFUSED[name]
    response = ask(site, "/v1/search", **request)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    line = response.json()["error"]
    assert words in line and "\n" not in line and len(line) < 300
    assert str(site.settings.index) not in line and "Traceback" not in line


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"vectors": []}, 422, "vectors"),
        ({"vectors": [[1.0] * 256] * 257}, 422, "at most 256 are allowed"),
        ({"vectors": [[1.0] * 256, [1.0]]}, 422, "vector 1: has 1 numbers"),
        ({"vectors": [[1.0] * 256], "k": 1001}, 422, "above the limit of 1000"),
        ({"vector": [1.0] * 256}, 422, "vectors"),
        ({"vectors": [[1.0] * 256] * 200, "k": 200}, 422, "120000 images wanted"),
    ],
)
def test_a_batch_is_refused_by_name(site, asked, status, words):
    response = ask(site, "/v1/search:batch", json=asked)
    assert response.status_code == status and words in response.json()["error"]


def test_a_bomb_is_refused_before_it_is_unpacked(site):
    image = bomb(13_000)
    assert len(image) < 200_000
    took = []
    for _ in range(5):
        start = time.perf_counter()
        assert ask(site, "/v1/search", content=image, headers=PNG).status_code == 413
        took.append(time.perf_counter() - start)
    assert min(took) < 1  # unpacking 169 million pixels takes longer


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/..%2f..%2fCURRENT",
        "/v1/images/%00",
        "/page/../settings.py",
        "/page/%2e%2e/settings.py",
        "/page/..%2fsettings.py",
        "/page//etc/passwd",
    ],
)
def test_no_path_leads_out(site, path):
    response = ask(site, path, "GET")
    assert response.status_code == 404 and "root:" not in response.text and "class " not in response.text


@pytest.mark.parametrize("length", [33, 500, 8000])
def test_a_long_id_is_looked_up_without_harm(site, length):
    assert ask(site, f"/v1/images/{'x' * length}", "GET").status_code in (404, 422)
    assert ask(site, "/v1/search", json={"id": "é" * length}).status_code in (404, 422)


def test_a_body_without_a_length_is_counted(world):
    site = Site(world.index, limits={"body_bytes": 1000})

    async def pieces():
        for _ in range(5):
            yield b"x" * 300

    response = ask(site, "/v1/search", content=pieces(), headers=PNG)
    assert response.status_code == 413 and "limit of 1000 bytes" in response.json()["error"]


def test_a_body_that_does_not_come_is_not_waited_for(world):
    site = Site(world.index, deadline_ms=200)

    async def slowly():
        yield b"x"
        await asyncio.sleep(30)

    start = time.perf_counter()
    response = ask(site, "/v1/search", content=slowly(), headers=PNG)
    assert response.status_code == 408 and time.perf_counter() - start < 5


def test_without_tokens_everyone_may_search_and_nobody_is_admin(site):
    assert ask(site, "/v1/admin/reload").status_code == 403
    assert ask(site, "/v1/index", "GET").status_code == 200


def test_with_tokens_only_who_has_one_may(world):
    site = Site(world.index, tokens=(TOKEN,), admin=(ADMIN,))
    for path in ("/v1/index", "/v1/examples", "/metrics", "/v1/images/x"):
        refusal = ask(site, path, "GET")
        assert refusal.status_code == 401 and refusal.headers["www-authenticate"] == "Bearer"
        for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer é"):
            headers = {"authorization": wrong.encode("latin-1")}
            assert ask(site, path, "GET", headers=headers).status_code == 401
        assert ask(site, path, "GET", headers={"authorization": f"Bearer {TOKEN}"}).status_code in (200, 404)
    for path in ("/", "/page/page.js", "/healthz", "/readyz"):
        assert ask(site, path, "GET").status_code == 200
    for token, status in ((TOKEN, 401), (ADMIN, 200)):
        assert (
            ask(site, "/v1/admin/reload", headers={"authorization": f"Bearer {token}"}).status_code == status
        )


def test_tokens_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "tokens"
    file.write_text(f"# who may\n{TOKEN}\n\n  {ADMIN}  \n")
    assert all(Tokens.read(file, "NONE").allow(f"Bearer {token}") for token in (TOKEN, ADMIN))
    monkeypatch.setenv("SOME", f"{TOKEN}, {ADMIN}")
    assert Tokens.read(None, "SOME").allow(f"bearer {ADMIN}") and not Tokens.read(None, "OTHER")
    for text in ("short\n", "", "# nothing\n"):
        file.write_text(text)
        with pytest.raises(UserError, match="tokens"):
            Tokens.read(file, "NONE")
    with pytest.raises(UserError, match="cannot read"):
        Tokens.read(tmp_path / "missing", "NONE")


def test_only_its_own_names_reach_it(world):
    site = Site(world.index, hosts=["localhost", "[::1]"])
    for host, status in (
        ("localhost:8000", 200),
        ("[::1]:80", 200),
        ("LOCALHOST", 200),
        ("evil.example", 400),
        ("", 400),
    ):
        assert ask(site, "/healthz", "GET", headers={"host": host}).status_code == status


@pytest.mark.parametrize("path", ["/", "/v1/index", "/nowhere", "/page/page.css"])
def test_every_answer_carries_what_protects_the_page(site, path):
    headers = ask(site, path, "GET").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


def test_what_goes_wrong_inside_says_nothing_of_the_inside(world, caplog):
    site = Site(world.index, tokens=(TOKEN,))

    async def broken(*_):
        raise RuntimeError(f"secret {world.index} {TOKEN}")

    site.searcher.search = broken
    headers = {"authorization": f"Bearer {TOKEN}"}
    response = ask(site, "/v1/search", headers=headers, **vector())
    assert (response.status_code, response.json()) == (500, {"error": "an error inside; the log names it"})
    assert "RuntimeError in broken" in caplog.text
    assert TOKEN not in caplog.text and str(world.index) not in caplog.text


def test_a_refusal_says_when_to_come_back():
    response = refused(Refusal(429, "later", 1))
    assert response.headers["retry-after"] == "1" and json.loads(bytes(response.body)) == {"error": "later"}


def test_fuzzing_what_the_openapi_offers_finds_no_server_error(world):
    schema = schemathesis.openapi.from_asgi("/openapi.json", Site(world.index).app)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 8
    for operation in operations:
        calls = 0

        @given(case=operation.as_strategy())
        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def never_fails(case):
            nonlocal calls
            calls += 1
            case.call_and_validate(checks=[not_a_server_error])

        never_fails()
        assert calls
