"""Two sockets of a session: the client's and the broker's. Callbacks of the event loop in, bytes out.

Backpressure, the whole rule: if the broker's socket is full, stop reading the client; if the client's is full, stop
reading the broker. The engine's own limits (parked, unsettled) stop reading the client as well.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Protocol, cast

from proxy.amqp.frames import Buffer

# uvloop's default of 64 KiB would pause a sender several times for one burst of a fast publisher.
WRITE_HIGH_WATER_BYTES = 512 * 1024
# How long a peer may take to read what was written before a close; a hung one would keep its socket for ever.
LINGER_S = 10.0
# A connection's state as Linux numbers it (include/net/tcp_states.h). Where no system tells, a client that has left is
# noticed when it is read again.
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None)
_TCP_LEFT = (7, 8)  # reset; closed by the peer


class LinkOwner(Protocol):
    """Who is told what happens on a link."""

    def link_received(self, link: Link, chunk: bytes) -> None:
        """Bytes came."""
        ...

    def link_lost(self, link: Link, reason: str) -> None:
        """The peer closed, or the connection broke. Not called for a close of our own."""
        ...

    def link_full(self, link: Link, full: bool) -> None:
        """The socket's output is full, or has room again."""
        ...


class Link(asyncio.Protocol):
    """One connected socket. `peer` is the `host:port` of a client, for people. Event loops set TCP_NODELAY."""

    __slots__ = ("_closed", "_linger", "_owner", "_transport", "_unread", "full", "generation", "peer")

    def __init__(self, owner: LinkOwner | None = None, generation: int = 0) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._unread = False
        self._closed = False
        self._linger: asyncio.TimerHandle | None = None
        self.generation = generation
        self.full = False
        self.peer = ""

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        # uvloop's transports have the methods, not the base class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if not self._closed and self._owner is not None:
            self._owner.link_received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by whomever."""
        self.full = False
        self._transport = None
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        owner, self._owner = self._owner, None
        if not self._closed and owner is not None:
            self._closed = True
            owner.link_lost(self, str(exc) if exc else "connection closed by peer")

    def pause_writing(self) -> None:
        """Too much waits to be written."""
        self.full = True
        if not self._closed and self._owner is not None:
            self._owner.link_full(self, True)

    def resume_writing(self) -> None:
        """There is room again."""
        self.full = False
        if not self._closed and self._owner is not None:
            self._owner.link_full(self, False)

    # What the driver calls.

    @property
    def waiting_bytes(self) -> int:
        """What was written and the peer's socket has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def left(self) -> bool:
        """The peer has closed the connection, and that is not read yet: event loops do not tell before."""
        if not self._unread or self._transport is None or _TCP_INFO is None:
            return False
        connected = self._transport.get_extra_info("socket")
        if connected is None:  # of TLS that is over, for one turn of the loop
            return True
        try:
            state: bytes = connected.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)
        except (OSError, ValueError):
            return True
        return state[0] in _TCP_LEFT

    def write(self, pieces: list[Buffer]) -> None:
        """Write slices of immutable bytes: the transport may keep them as they are."""
        if self._transport is not None and not self._transport.is_closing():
            if len(pieces) == 1:
                self._transport.write(pieces[0])
            else:
                self._transport.writelines(pieces)

    def read(self, wanted: bool) -> None:
        """Go on reading, or let the peer wait."""
        if self._transport is None or self._transport.is_closing() or self._unread is not wanted:
            return
        self._unread = not wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        """Close after what is written; nothing more is heard of this link."""
        self._closed = True
        if self._transport is not None and self._linger is None:
            self._transport.close()
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """Close at once, for a peer that does not answer."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()


@dataclass(slots=True)
class Leg:
    """A session's link to a broker. Until the session is attached by it, it holds a place of the dialler."""

    link: Link
    endpoint: str
    connected_at: float
    attached: bool = False
