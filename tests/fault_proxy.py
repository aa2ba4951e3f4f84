"""A proxy in front of an S3 server that makes the faults of a store under load.

It passes bytes on as they are, with the client's Host header, so signatures stay valid. What it
does to them is in `faults`, which may be set while it runs; what it did is in `injected`.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_METHODS = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")
_ANSWERS = (
    (
        "slow_down",
        b"503 Slow Down",
        b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    ),
    (
        "expired",
        b"403 Forbidden",
        b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>",
    ),
)
"""Fault, status and body of what the store itself would answer."""


@dataclass
class Faults:
    """What happens to requests. Rates are from 0 to 1, of requests unless said otherwise."""

    latency: float = 0
    """Seconds before each request."""
    slow_down: float = 0
    """Answered with 503 SlowDown."""
    expired: float = 0
    """Answered with 403 ExpiredToken, as when a session's credentials have run out."""
    reset: float = 0
    """The connection is reset before an answer."""
    cut: float = 0
    """Of pieces of answers longer than 1 kB: half is passed on, then the connection is reset."""
    lost_answer: float = 0
    """Of writes: they are done, and the connection is reset instead of the answer."""
    stall: bool = False
    """No request is answered."""
    refuse: bool = False
    """No connection is accepted."""


class FaultProxy:
    """One proxy; it runs in a thread of its own until `stop`.

    Attributes:
        faults: what happens now.
        injected: how often each fault was made, by the names of `Faults`; and `requests`.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.faults = Faults()
        self.injected: Counter[str] = Counter()
        self._upstream = port
        self._random = random.Random(seed)
        self._decks: dict[tuple[str, float], list[bool]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _strikes(self, fault: str) -> bool:
        """Drawn from a shuffled deck with one hit, so that a rare fault does come."""
        rate = float(getattr(self.faults, fault))
        if not rate:
            return False
        deck = self._decks.setdefault((fault, rate), [])
        if not deck:
            deck += [True] + [False] * (round(1 / rate) - 1)
            self._random.shuffle(deck)
        hit = deck.pop()
        self.injected[fault] += hit
        return hit

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        try:
            if self._strikes("refuse"):
                return connection.reset()
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            with contextlib.closing(up_writer):
                there = asyncio.create_task(self._requests(reader, up_writer, connection))
                back = asyncio.create_task(self._answers(up_reader, connection))
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                for task in (there, back):
                    task.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except OSError:
            connection.reset()
        except asyncio.CancelledError:
            pass  # the proxy stops; asyncio's streams would print a task that ends as cancelled
        finally:
            writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, client: "_Connection"
    ) -> None:
        while data := await reader.read(1 << 16):
            if data.startswith(_METHODS):  # one request at a time is on a connection
                self.injected["requests"] += 1
                if not await self._let_pass(data, client):
                    return
            upstream.write(data)
            await upstream.drain()

    async def _let_pass(self, head: bytes, client: "_Connection") -> bool:
        await asyncio.sleep(self.faults.latency)
        if self._strikes("stall"):
            await asyncio.Event().wait()
        if self._strikes("reset"):
            client.reset()
            return False
        for fault, status, body in _ANSWERS:
            if self._strikes(fault):
                client.writer.write(
                    b"HTTP/1.1 %b\r\nContent-Type: application/xml\r\n"
                    b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
                )
                client.writer.write(b"" if head.startswith(b"HEAD") else body)
                await client.writer.drain()
                return False
        client.losing = head.startswith(b"PUT ") and self._strikes("lost_answer")
        return True

    async def _answers(self, upstream: asyncio.StreamReader, client: "_Connection") -> None:
        while data := await upstream.read(1 << 16):
            if client.losing and not data.startswith(b"HTTP/1.1 100"):
                return client.reset()
            if len(data) > 1024 and self._strikes("cut"):
                client.writer.write(data[: len(data) // 2])
                await client.writer.drain()
                return client.reset()
            client.writer.write(data)
            await client.writer.drain()


class _Connection:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.losing = False

    def reset(self) -> None:
        """End it with a TCP reset rather than in order."""
        linger_zero = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            raw: socket.socket = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
        self.writer.transport.abort()


@contextlib.contextmanager
def fault_proxy(port: int) -> Iterator[FaultProxy]:
    """A proxy in front of a server on loopback."""
    proxy = FaultProxy(port)
    try:
        yield proxy
    finally:
        proxy.stop()
