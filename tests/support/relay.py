"""A TCP relay that can fail the way networks do: go silent, cut, refuse."""

from __future__ import annotations

import asyncio
import ssl
from types import TracebackType


class Relay:
    """Forward 127.0.0.1:`port` to 127.0.0.1:`target_port`.

    `silence()` black-holes: connections stay open and new ones are accepted, not a byte passes, not even an end.
    `speak()` ends that; what was sent meanwhile is delivered. `cut()` resets every connection.
    `refuse()` and `accept()` close and open the door for new connections. With `tls` it ends TLS.
    """

    def __init__(self, target_port: int, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.port = port
        self.target_port = target_port
        self._audible = asyncio.Event()
        self._audible.set()
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._writers) // 2

    async def __aenter__(self) -> Relay:
        await self.accept()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None):
        self._audible.set()
        self.refuse()
        self.cut()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def accept(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self._tls)

    def refuse(self) -> None:
        """Stop listening; connections that are there go on."""
        assert self._server is not None
        self._server.close()

    def silence(self) -> None:
        """Let nothing through."""
        self._audible.clear()

    def speak(self) -> None:
        """Let everything through again."""
        self._audible.set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            away_reader, away_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, away_writer}
        self._writers |= pair
        pumps = {
            asyncio.create_task(self._pump(reader, away_writer)),
            asyncio.create_task(self._pump(away_reader, writer)),
        }
        self._pumps |= pumps
        await asyncio.wait(pumps)
        self._pumps -= pumps
        self._writers -= pair

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                await self._audible.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        await self._audible.wait()
        writer.close()
