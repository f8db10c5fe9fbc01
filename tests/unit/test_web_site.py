# SPDX-License-Identifier: Apache-2.0
"""The page and its API: what is answered, to whom, and who is turned away."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from pathlib import Path

import pytest
from remote_world import pool
from web_site_world import (
    API,
    GUARDED,
    HOST,
    TOKEN,
    World,
    ask,
    get,
    served,
)

from harp.metrics.server import Server
from harp.remote.tenants import tenant_name
from harp.web import Door
from harp.web.site import FIELDS
from harp.web.state import is_lease

#: in the order in which the page names them
SCRIPTS = ["/known.js", "/charts.js", "/page.js"]


@pytest.mark.parametrize("path", ["/", "/page.css", *SCRIPTS, "/favicon.ico", *API[:2], "/none"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_answer_has_the_fields_that_keep_other_sites_out(path: str, method: str) -> None:
    async def what(_world: World, _server: Server, port: int) -> None:
        status, head, body = await ask(port, f"{method} {path} HTTP/1.1\n{HOST}\n")
        assert status == {"/none": 404, "/favicon.ico": 204}.get(path, 200)
        for name, value in FIELDS:
            assert f"\r\n{name}: {value}" in head
        assert "default-src 'self'" in head
        assert "Access-Control-" not in head
        assert "unsafe-" not in head
        assert (body == b"") == (method == "HEAD" or status == 204)

    served(what)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(method: str) -> None:
    async def what(_world: World, _server: Server, port: int) -> None:
        for path in ("/", *API):
            status, head, _ = await ask(port, f"{method} {path} HTTP/1.1\n{HOST}\n")
            assert status == 405
            assert "Content-Security-Policy" in head

    served(what)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9403", 200),
        ("127.0.0.1:9403", 200),
        ("127.9.9.9", 200),
        ("[::1]:9403", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.1", 421),
        ("0.0.0.0", 421),
        ("localhost, evil.example", 421),
        ("evil.example\nHost: localhost", 421),
        ("localhost@evil.example", 421),
        ("localhost:evil", 421),
        ("", 421),
    ],
)
def test_on_loopback_no_other_name_reads_it(host: str, status: int) -> None:
    """A name of somebody else's that stands for 127.0.0.1 is his page, in the user's browser."""

    async def what(_world: World, _server: Server, port: int) -> None:
        for path in ("/", *API[:2]):
            assert (await get(port, path, f"Host: {host}\n"))[0] == status
        if status != 200:
            found, _, body = await get(port, API[2], f"Host: {host}\n")
            assert found == status
            assert b"localhost" in body

    served(what)


def test_without_a_name_it_is_refused_as_well() -> None:
    async def what(_world: World, _server: Server, port: int) -> None:
        assert (await get(port, "/", ""))[0] == 421

    served(what)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (f"Authorization: Bearer {TOKEN}\n", 200),
        (f"authorization:bearer  {TOKEN} \n", 200),
        ("", 401),
        (f"Authorization: {TOKEN}\n", 401),
        (f"Authorization: Basic {TOKEN}\n", 401),
        (f"Authorization: Bearer {TOKEN}x\n", 401),
        (f"Authorization: Bearer {TOKEN[:-1]}\n", 401),
        ("Authorization: Bearer\n", 401),
        ("Authorization: Bearer \u00e9\n", 401),
        (f"Authorization: Bearer {TOKEN}\nAuthorization: Bearer {TOKEN}\n", 401),
        (f"X-Authorization: Bearer {TOKEN}\n", 401),
    ],
)
def test_where_there_is_a_token_the_api_is_for_who_has_it(words: str, status: int) -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        for path in API[:2]:
            found, head, body = await get(port, path, f"Host: gpu1.example\n{words}")
            assert found == status
            assert (b"tiny" in body or b"samples" in body) == (status == 200)
            assert ("WWW-Authenticate: Bearer" in head) == (status == 401)
        assert (await get(port, "/api/v1/none", words))[0] == (404 if status == 200 else 401)
        assert (await get(port, f"{API[0]}?token={TOKEN}", ""))[0] == 401
        if status == 401:
            assert (await get(port, API[2], words))[0] == 401
        assert (await get(port, "/page.js", ""))[0] == 200

    served(what, GUARDED)


def test_over_tls_it_is_the_same(tmp_path: Path) -> None:
    folder = pool(tmp_path / "p") / "node-n1"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    door = Door("127.0.0.1", 0, loopback=False, token=TOKEN, tls=context)
    client = ssl.create_default_context(cafile=folder / "ca.crt")
    client.check_hostname = False

    async def what(world: World, _server: Server, port: int) -> None:
        await world.tick()
        fields = f"Host: gpu1\nAuthorization: Bearer {TOKEN}\n"
        status, _, body = await ask(port, f"GET {API[0]} HTTP/1.1\n{fields}\n", client)
        assert (status, json.loads(body)["node"]) == (200, "n1")
        plain = await asyncio.open_connection("127.0.0.1", port)
        plain[1].write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await plain[0].read()
        plain[1].close()

    served(what, door)


def test_the_state_is_what_ps_tells_and_no_more() -> None:
    async def what(world: World, _server: Server, port: int) -> None:
        early = json.loads((await get(port, API[0]))[2])
        assert (early["arbiter_up"], early["devices"], early["sample"]) == (False, [], 0)
        await world.tick()
        world.share_ppm = 0
        (unasked,) = json.loads(world.feed.state())["tenants"]
        assert unasked["share_ratio"] == 0.3  # as it was at the last look
        await world.tick()
        (unasked,) = json.loads(world.feed.state())["tenants"]
        assert unasked["share_ratio"] is None
        world.share_ppm = 300_000
        await world.tick()
        state = json.loads((await get(port, API[0]))[2])
        assert set(state) == {
            *("version", "node", "epoch", "period_s", "arbiter_up", "sample", "now_s"),
            *("devices", "tenants", "uncovered", "estimates"),
        }
        (device,), (tenant,), (other,) = state["devices"], state["tenants"], state["uncovered"]
        assert (device["gpu"], device["kind"]) == (3, "software")
        assert (tenant["name"], tenant["user"], tenant["share_ratio"]) == ("train", "ann", 0.3)
        assert (tenant["limit_ratio"], tenant["mem_limit_bytes"]) == (None, None)
        assert tenant["processes"] == [{"pid": 7, "program": "python", "draining": False}]
        assert tenant["uses"][0]["gpu"] == 3
        assert (other["pid"], other["gpu"], other["tenant"]) == (9, 3, None)
        (target,) = state["estimates"]["targets"]
        assert (target["judged"], target["coverage_ratio"]) == (4, 0.75)

    served(what)


@pytest.mark.parametrize("asked", ["train", "", "a-b.c", "Ünï"])
def test_leases_of_other_hosts_are_known_by_their_name(asked: str) -> None:
    assert is_lease(tenant_name(asked, "0123456789abcdef"))
    assert not is_lease(asked)
    assert not is_lease("remote-control")


STATIC = Path(__file__).resolve().parents[2] / "harp" / "web" / "static"


def test_the_files_make_no_markup_of_texts_and_name_nothing_elsewhere() -> None:
    assert sorted(p.name for p in STATIC.iterdir()) == sorted(
        ["index.html", "page.css", *(path[1:] for path in SCRIPTS)]
    )
    for path in STATIC.iterdir():
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert word not in text, (path, word)
        assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(", text), path
    page = (STATIC / "index.html").read_text()
    # What the policy forbids would be an error in the browser: code and style within the page.
    told = re.findall(r"<script src=\"([a-z]+\.js)\" defer></script>", page)
    assert [f"/{name}" for name in told] == SCRIPTS  # what the next ones use comes first
    assert page.count("<script") == len(told)
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=", page) == []
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    script = "".join((STATIC / name).read_text() for name in told)
    assert set(re.findall(r'\$\("([^"]+)"\)', script)) <= set(ids)
    for name in re.findall(r'(?:for|aria-labelledby)="([^"]+)"|href="#([^"]+)"', page):
        assert set(filter(None, name)) <= set(ids)
