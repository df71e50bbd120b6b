"""The page's files: what is served, how it is cached, and which origins may read it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from node.gateway import page
from node.gateway.limits import Limits
from node.gateway.page import content_policy, origins
from node.native.protocol import MemberStatus
from tests.unit.node.gateway.harness import Exchange
from tests.waiting import Clock

MEMBERS = [
    MemberStatus("n1", True, 0, http="http://127.0.0.1:7301"),
    MemberStatus("n2", True, 0, http="https://n2.example:443/"),
    MemberStatus("n3", False, 0, http="http://[::1]:7303"),
]
PAGE_OF_N2 = "https://n2.example"


def base(exchange: Exchange) -> str:
    return exchange.client.make_url("")


async def test_every_file_is_served_with_its_type_and_policy(exchange: Exchange) -> None:
    async with ClientSession() as session:
        for name, file in page.load().items():
            async with session.get(f"{base(exchange)}/ui/{name}") as answer:
                assert answer.status == 200
                assert await answer.read() == file.body
                assert answer.headers["Content-Type"] == file.content_type
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy


async def test_a_browser_is_led_from_the_root_to_the_page(exchange: Exchange) -> None:
    async with ClientSession() as session:
        for path in ("/", "/ui"):
            async with session.get(base(exchange) + path, headers={"Accept": "text/html"}, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (302, "/ui/")
        async with session.get(base(exchange) + "/") as answer:
            assert answer.status == 426, "the answer to other clients says that the root speaks WebSocket"
        async with session.get(base(exchange) + "/ui/") as answer:
            assert b"<!doctype html>" in await answer.read()


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../app.py",
        "/ui/%2e%2e/app.py",
        "/ui/..%2fpage.py",
        "/ui/static/index.html",
        "/ui//etc/passwd",
        "/ui/core/../main.js",
        "/ui/core/",
        "/ui/main.js/",
        "/ui/main.js%00",
        "/ui/MAIN.JS",
        "/ui/" + "a" * 4_000,
    ],
)
async def test_nothing_but_the_files_is_served(exchange: Exchange, path: str) -> None:
    async with ClientSession() as session, session.get(URL(base(exchange) + path, encoded=True)) as answer:
        assert answer.status == 404


async def test_a_file_that_the_browser_has_is_not_sent_again(exchange: Exchange) -> None:
    async with ClientSession() as session:
        url = f"{base(exchange)}/ui/main.js"
        async with session.get(url) as answer:
            tag = answer.headers["ETag"]
            assert answer.headers["Cache-Control"] == "no-cache"
        for sent in (tag, f'"other", W/{tag}', "*"):
            async with session.get(url, headers={"If-None-Match": sent}) as answer:
                assert (answer.status, await answer.read()) == (304, b"")
                assert answer.headers["ETag"] == tag
        async with session.get(url, headers={"If-None-Match": '"other"'}) as answer:
            assert answer.status == 200
        async with session.head(url) as answer:
            assert (answer.status, await answer.read()) == (200, b"")


async def test_a_vendored_file_is_kept_for_good_because_its_path_names_its_version(exchange: Exchange) -> None:
    async with ClientSession() as session, session.get(f"{base(exchange)}/ui/vendor/uplot-1.6.32/uPlot.css") as answer:
        assert "immutable" in answer.headers["Cache-Control"]


async def test_files_are_compressed_for_clients_that_accept_it(exchange: Exchange) -> None:
    url = f"{base(exchange)}/ui/vendor/lightweight-charts-5.2.1/lightweight-charts.mjs"
    async with ClientSession(auto_decompress=False) as session:
        async with session.get(url, headers={"Accept-Encoding": "br, gzip"}) as answer:
            packed = await answer.read()
            assert answer.headers["Content-Encoding"] == "gzip"
        async with session.get(url, headers={"Accept-Encoding": "gzip;q=0"}) as answer:
            plain = await answer.read()
            assert "Content-Encoding" not in answer.headers
    assert gzip.decompress(packed) == plain
    assert len(packed) < len(plain) / 2


async def test_only_pages_of_members_may_read_and_the_policy_names_them(exchange: Exchange) -> None:
    exchange.backend.status["members"] = MEMBERS
    await exchange.gateway.monitor.now()
    async with ClientSession() as session:
        async with session.get(f"{base(exchange)}/ui/") as answer:
            policy = answer.headers["Content-Security-Policy"]
            for source in (
                "http://127.0.0.1:7301",
                "ws://127.0.0.1:7301",
                "https://n2.example ",
                "wss://n2.example",
                "http://[::1]:7303",
            ):
                assert source in policy
        async with session.get(f"{base(exchange)}/products", headers={"Origin": PAGE_OF_N2}) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE_OF_N2
            assert "x-quorumbook-sequence" in answer.headers["Access-Control-Expose-Headers"]
        async with session.get(f"{base(exchange)}/products/none", headers={"Origin": PAGE_OF_N2}) as answer:
            assert answer.status == 404
            assert answer.headers["Access-Control-Allow-Origin"] == PAGE_OF_N2
        for stranger in ("https://elsewhere.example", "null", "https://n2.example.evil", "http://n2.example"):
            async with session.get(f"{base(exchange)}/products", headers={"Origin": stranger}) as answer:
                assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_preflight_is_answered_for_members_only(exchange: Exchange) -> None:
    exchange.backend.status["members"] = MEMBERS
    await exchange.gateway.monitor.now()
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "cb-access-key,content-type"}
    async with ClientSession() as session:
        async with session.options(f"{base(exchange)}/orders", headers=asks | {"Origin": PAGE_OF_N2}) as answer:
            assert answer.status == 200
            assert "cb-access-key" in answer.headers["Access-Control-Allow-Headers"]
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        async with session.options(f"{base(exchange)}/orders", headers=asks | {"Origin": "https://elsewhere.example"}) as answer:
            assert answer.status == 405
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_preflights_beyond_the_rate_are_answered_too(exchange: Exchange) -> None:
    """Formerly such a request got no answer, and its connection stayed open for as long as the client kept it."""
    exchange.backend.status["members"] = MEMBERS
    await exchange.gateway.monitor.now()
    exchange.gateway.limits = Limits(1000.0, 1.0, Clock())
    asks = {"Access-Control-Request-Method": "POST", "Origin": PAGE_OF_N2}
    async with ClientSession(timeout=ClientTimeout(total=10)) as session:
        statuses = [(await session.options(f"{base(exchange)}/orders", headers=asks)).status for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_origins_are_those_that_browsers_write() -> None:
    urls = (
        "http://h:80/x",
        "https://H.example:8443",
        "ftp://h",
        "not a url",
        "http://h:99999",
        "http://a;script-src",
        "http://h",
    )
    assert origins(urls) == ("http://h", "https://h.example:8443")
    assert "http://h ws://h" in content_policy(("http://h",)).replace("https", "")


def test_a_file_that_does_not_belong_to_a_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.pem").write_text("x")
    with pytest.raises(ValueError, match=r"secret\.pem is not a file of a page"):
        page.load(tmp_path)


def test_the_files_of_a_page_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.js").write_text("x" * 100)
    monkeypatch.setattr(page, "TOTAL_MAX", 99)
    with pytest.raises(ValueError, match="more than 99 bytes"):
        page.load(tmp_path)


HEADER_TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.dictionaries(
        st.sampled_from(["Origin", "If-None-Match", "Accept-Encoding", "Accept", "Access-Control-Request-Method"]),
        HEADER_TEXTS | st.sampled_from([PAGE_OF_N2, "*", 'W/"', "gzip;q=", ";", ",,", "text/html"]),
    ),
    method=st.sampled_from(["GET", "HEAD", "OPTIONS", "POST"]),
    path=st.sampled_from(["/", "/ui", "/ui/", "/ui/main.js", "/ui/vendor/uplot-1.6.32/uPlot.js", "/ui/none", "/products"]),
)
async def test_no_headers_cause_an_error_or_let_another_origin_read(
    exchange: Exchange, names: dict[str, str], method: str, path: str
) -> None:
    exchange.backend.status["members"] = MEMBERS
    async with (
        ClientSession() as session,
        session.request(method, base(exchange) + path, headers=names, allow_redirects=False) as answer,
    ):
        await answer.read()
        assert answer.status < 500
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert allowed is None or (allowed == names["Origin"] and allowed in origins(tuple(member.http for member in MEMBERS)))
