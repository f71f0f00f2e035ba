"""The relay over real connections of this machine."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from typing import Self

import pytest

from hpcvlm.reach.model import Kind, Route
from hpcvlm.reach.relay import Relay
from hpcvlm.reach.ways import Way
from tests.reach_fixtures import Served, Serving, run, until, where


class Bench:
    """A relay with one way, which a test may take away, to a server of the test's own."""

    def __init__(self, serve: Served | None) -> None:
        self.serve = serve
        self.serving = Serving()
        self.failures = 0
        self.way: Way | None = None
        self.relay = Relay(self.pick, self.failed, lambda: "it is restarting")

    async def __aenter__(self) -> Self:
        port = 9  # discard: nobody listens there
        if self.serve is not None:
            serve = self.serving.watched(self.serve)
            self.server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = self.server.sockets[0].getsockname()[1]
        self.way = Way(where(), Route(Kind.TCP, f"127.0.0.1:{port}"))
        self.port = await self.relay.listen(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.relay.close()
        if self.serve is not None:
            self.server.close()
            await self.serving.over()

    async def pick(self) -> Way | None:
        return self.way

    def failed(self, _way: Way) -> None:
        self.failures += 1

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await self.dial()
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer


def refused(answer: bytes) -> str:
    """The message of a refusal, as OpenAI's clients read it."""
    head, body = answer.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert f"Content-Length: {len(body)}" in lines
    assert any(line.startswith("Retry-After: ") for line in lines)
    assert "Connection: close" in lines
    return str(json.loads(body)["error"]["message"])


REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


def test_bytes_go_both_ways_unchanged_and_so_do_ends() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        writer.close()

    async def work() -> None:
        sent = bytes(range(256)) * 40_000  # 10 MB: more than any buffer
        async with Bench(serve) as bench:
            reader, writer = await bench.dial()

            async def send() -> None:
                writer.write(sent)
                await writer.drain()
                writer.write_eof()

            _, answer = await asyncio.gather(send(), reader.read())
            assert answer == sent[::-1]
            writer.close()
            assert bench.way is not None
            await until(lambda: bench.way is not None and bench.way.open_connections == 0)

    run(work)


def test_without_a_way_a_request_is_refused_in_http() -> None:
    async def work() -> None:
        async with Bench(None) as bench:
            bench.way = None
            assert refused(await bench.ask(REQUEST)) == "it is restarting"

    run(work)


def test_a_large_request_that_is_refused_still_gets_its_answer() -> None:
    async def work() -> None:
        async with Bench(None) as bench:
            bench.way = None
            reader, writer = await bench.dial()
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n")
            for _ in range(80):
                writer.write(b"x" * 100_000)
                await writer.drain()
            assert refused(await reader.read()) == "it is restarting"
            writer.close()

    run(work)


def test_an_engine_that_takes_no_connection_is_a_refusal_and_is_told() -> None:
    async def work() -> None:
        async with Bench(None) as bench:
            assert refused(await bench.ask(REQUEST)) == "it is restarting"
            assert bench.failures == 1

    run(work)


def test_a_forwarded_connection_that_just_ends_is_a_refusal() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    async def work() -> None:
        async with Bench(serve) as bench:
            assert refused(await bench.ask(REQUEST)) == "it is restarting"
            assert bench.failures == 1

    run(work)


def test_a_client_that_sends_nothing_is_no_failure() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def work() -> None:
        async with Bench(serve) as bench:
            _, writer = await bench.dial()
            writer.close()
            assert bench.way is not None
            way = bench.way
            await until(lambda: way.open_connections == 0)
            assert bench.failures == 0

    run(work)


def test_an_answer_that_breaks_off_never_looks_whole() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf of")
        await writer.drain()
        await asyncio.sleep(0.05)
        end = writer.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def work() -> None:
        async with Bench(serve) as bench:
            with pytest.raises(ConnectionResetError):
                await bench.ask(REQUEST)

    run(work)


def test_the_engine_learns_that_its_client_has_gone() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while await reader.read(100):
                pass
        gone.set()
        writer.close()

    async def work() -> None:
        async with Bench(serve) as bench:
            _, writer = await bench.dial()
            writer.write(REQUEST)
            await writer.drain()
            writer.transport.abort()
            await asyncio.wait_for(gone.wait(), 10)

    run(work)


def test_an_answer_before_the_end_of_the_request_arrives() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\n")
        writer.write_eof()
        while await reader.read(100_000):
            pass

    async def work() -> None:
        async with Bench(serve) as bench:
            reader, writer = await bench.dial()
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n")
            for _ in range(30):
                writer.write(b"x" * 100_000)
                await asyncio.sleep(0.001)
            assert (await reader.read()).startswith(b"HTTP/1.1 413")
            writer.close()

    run(work)


def test_its_end_closes_connections_that_are_open() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def work() -> None:
        async with Bench(serve) as bench:
            reader, writer = await bench.dial()
            writer.write(REQUEST)
            way = bench.way
            await until(lambda: way is not None and way.open_connections == 1)
            await bench.relay.close()
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(work)


def test_it_listens_on_loopback_alone() -> None:
    async def work() -> None:
        async with Bench(None) as bench:
            assert bench.relay._server is not None
            assert [s.getsockname()[0] for s in bench.relay._server.sockets] == ["127.0.0.1"]

    run(work)
