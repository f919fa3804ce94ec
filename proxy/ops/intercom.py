"""What a sidecar and its workers say to each other, over a pair of sockets that nobody else can reach.

The first word is the worker's `Settings`. Then each `Question` gets one answer, in order, but for the
one that tells the brokers, which gets none. The end of either process
ends it, which the other one notices at once.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Literal, TypeVar

import msgspec

from proxy.upstream.endpoint import Snapshot

_LENGTH_BYTES = 4

Subject = Literal["brokers", "headcount", "condition", "loads", "metrics", "sessions", "close"]
T = TypeVar("T")


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of the worker's `Plane`. `offset` and `limit` belong to sessions, `snapshot` to brokers (`apply`)."""

    about: Subject
    offset: int = 0
    limit: int = 0
    snapshot: Snapshot | None = None


class Intercom:
    """One end of it. Words are whole objects."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Intercom:
        """Use one socket of a pair."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def say(self, word: object) -> None:
        """Send something that msgspec can encode. To nobody, if the other side has gone."""
        body = msgspec.msgpack.encode(word)
        self._writer.write(len(body).to_bytes(_LENGTH_BYTES) + body)

    async def hear(self, kind: type[T]) -> T:
        """Wait for the next word. Raises `EOFError` when the other side has gone."""
        return msgspec.msgpack.decode(await self.hear_raw(), type=kind)

    async def hear_raw(self) -> bytes:
        """Wait for the next word, and leave to others what it is."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            return await self._reader.readexactly(length)
        except ConnectionError as error:
            raise EOFError from error

    def close(self) -> None:
        """Say no more. What was said still arrives."""
        self._writer.close()
