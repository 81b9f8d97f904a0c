"""The HTTP of /metrics and the probes: what is served, what is refused, and that no bytes break it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metallb_common.obs import http

ROUTES: Mapping[str, http.Route] = {
    "/livez": lambda: http.text(200, "ok\n"),
    "/status": lambda: http.as_json({"a": [1]}),
    "/broken": lambda: 1 // 0,  # type: ignore[dict-item, return-value]
    "/large": lambda: http.text(200, "x" * 3_000_000),
}
HOST = b"Host: h\r\n"


def test_reads_a_request() -> None:
    assert http.parse_request(b"GET /livez?x=1 HTTP/1.1\r\n" + HOST + b"\r\n") == http.Request("GET", "/livez")
    assert http.parse_request(b"HEAD http://h:1/a#b HTTP/1.1\n" + HOST + b"\n") == http.Request("HEAD", "/a")
    assert http.parse_request(b"GET http://h HTTP/1.0\r\n\r\n") == http.Request("GET", "/")


@pytest.mark.parametrize("cut", range(len(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")))
def test_waits_for_the_rest(cut: int) -> None:
    assert http.parse_request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[:cut]) is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00", 400),  # a TLS client
        (b"GET /\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * http.MAX_HEAD, 431),
    ],
)
def test_refuses(data: bytes, status: int) -> None:
    with pytest.raises(http.BadRequest) as refusal:
        http.parse_request(data)
    assert refusal.value.status == status
    answer = http.answer(data, ROUTES)
    assert answer is not None
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@given(st.binary(max_size=300) | st.text(alphabet="GET /HTP1.\r\n:ahost", max_size=200).map(str.encode))
def test_any_bytes_are_answered_or_waited_for(data: bytes) -> None:
    answer = http.answer(data, ROUTES)
    assert answer is None or answer.startswith(b"HTTP/1.1 ")


def test_answers() -> None:
    assert http.answer(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n", ROUTES).endswith(b"\r\n\r\nok\n")  # type: ignore[union-attr]
    head = http.answer(b"HEAD /livez HTTP/1.1\r\n" + HOST + b"\r\n", ROUTES)
    assert head is not None
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 3\r\n" in head
    missing = http.answer(b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n", ROUTES)
    assert missing is not None
    assert missing.startswith(b"HTTP/1.1 404 ")
    assert b"/livez" in missing


def test_a_broken_page_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    answer = http.answer(b"GET /broken HTTP/1.1\r\n" + HOST + b"\r\n", ROUTES)
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in json.loads(capsys.readouterr().out)["error"]


def served(body: Callable[[int], Awaitable[None]], host: str = "127.0.0.1") -> None:
    async def main() -> None:
        server = await http.serve(host, 0, ROUTES)
        try:
            await body(server.ports[0])
        finally:
            server.close()
            await asyncio.sleep(0)

    asyncio.run(main())


async def fetch(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


def test_serves_both_families_when_no_host_is_given() -> None:
    async def body(port: int) -> None:
        for host in ("127.0.0.1", "::1"):
            assert (await fetch(port, b"GET /status HTTP/1.1\r\n" + HOST + b"\r\n", host)).startswith(b"HTTP/1.1 200")

    served(body, host="")


def test_serves_large_pages_and_heads_in_pieces() -> None:
    async def body(port: int) -> None:
        assert len(await fetch(port, b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n")) > 3_000_000
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await reader.read()).endswith(b"ok\n")
        writer.close()

    served(body)


def test_slow_senders_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_TIMEOUT", 0.05)

    async def body(port: int) -> None:
        assert (await fetch(port, b"GET /li")).startswith(b"HTTP/1.1 408 ")

    served(body)


def test_many_idle_connections_do_not_keep_a_probe_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 5)

    async def body(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        assert b" 200 OK" in await fetch(port, b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
        for _, writer in idle:
            writer.close()

    served(body)


def test_a_taken_port_is_an_error() -> None:
    async def body(port: int) -> None:
        with pytest.raises(OSError, match="in use"):
            await http.serve("127.0.0.1", port, ROUTES)

    served(body)
