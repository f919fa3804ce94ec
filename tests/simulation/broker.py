"""A broker's side of a connection: its link, its handshake, its frames."""

from __future__ import annotations

import random
from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.amqp.frames import HEARTBEAT, HEARTBEAT_FRAME, OVERHEAD_BYTES, PROTOCOL_HEADER
from proxy.amqp.wire import U32
from tests.simulation.broker_channel import Channel
from tests.simulation.clock import Wire
from tests.simulation.cluster import Node, Violation
from tests.support.engine_frames import BROKER_OPEN_OK, BROKER_START, frames_of, ident_of, on

CHANNEL_OPEN = m.method_id(m.ChannelOpen)


def whole(frame: bytes) -> bool:
    """Whether the last frame of a stream is all here."""
    if frame[:1] == b"A":
        return len(frame) == len(PROTOCOL_HEADER)
    return len(frame) >= OVERHEAD_BYTES and len(frame) == OVERHEAD_BYTES + U32.unpack_from(frame, 3)[0]


class Connection:
    """One connection to one node. What may not be said on it is a `Violation`."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self.node = node
        self.cluster = node.cluster
        self.rng = rng
        self.out: Wire
        self.on_reset: Callable[[], None]
        self.state = "header"
        self.crashed = False
        self.closed = False
        self.blocked = False
        self.publishes = False
        self.frame_max = node.frame_max
        self.channels: dict[int, Channel] = {}
        self.exclusive: set[bytes] = set()
        self._buffer = b""
        node.connections.append(self)
        self._beat()

    # The link.

    @property
    def deaf(self) -> bool:
        return self.node.frozen or self.closed or self.blocked

    def received(self, data: bytes) -> None:
        self._buffer += data
        if self.deaf:
            return
        frames = frames_of(self._buffer)
        read = 0
        for each in frames:
            if self.deaf or (each is frames[-1] and not whole(each)):
                break
            read += len(each)
            self._frame(each)
        self._buffer = self._buffer[read:]

    def reset(self) -> None:
        """The connection breaks for both sides."""
        self.drop()
        self.out.cut()
        self.on_reset()

    def drop(self) -> None:
        """The peer is gone: what it held returns to the queues."""
        if self.closed:
            return
        self.closed = True
        self.node.connections.remove(self)
        for channel in list(self.channels.values()):
            channel.end()
        for name in self.exclusive:
            self.cluster.delete(name)

    def _beat(self) -> None:
        if not self.closed:
            if self.state == "running" and not self.node.frozen:
                self.out.send(HEARTBEAT_FRAME)
            self.cluster.clock.after(2.5, self._beat)

    def force(self, code: int, text: str) -> bool:
        """Say `connection.close`; nothing but its close-ok counts from here on. False if it cannot be said now."""
        if self.closed or self.state != "running" or self.node.frozen:
            return False
        self.state = "forcing"
        self.out.send(on(0, m.ConnectionClose(code, text.encode())))
        if self.blocked:
            self.blocked = False
            self.received(b"")
        return True

    def block(self) -> None:
        if not self.blocked and self.state == "running":
            self.blocked = True
            self.out.send(on(0, m.ConnectionBlocked(b"low on memory")))

    def unblock(self) -> None:
        if self.blocked:
            self.blocked = False
            self.out.send(on(0, m.ConnectionUnblocked()))
            self.received(b"")

    def say(self, data: bytes) -> None:
        if not self.closed and self.state == "running":
            self.out.send(data)

    # Frames.

    def need(self, fact: object, text: str, *facts: object) -> None:
        """`facts` are put into the text if it is said at all: nearly always it is not."""
        if not fact:
            raise Violation(f"the engine made a broker's protocol error: {text.format(*facts) if facts else text}")

    def _frame(self, data: bytes) -> None:
        if self.state == "forcing":
            if ident_of(data) == m.method_id(m.ConnectionCloseOk):
                self.state = "done"
            return  # a broker that has said close reads nothing but close-ok
        if self.state == "done":
            return
        if self.state == "header":
            self.need(data == PROTOCOL_HEADER, "no protocol header")
            self.state = "start"
            self.out.send(BROKER_START)
            return
        self.need(len(data) <= self.frame_max, "501 frame_too_large, {} of {} bytes", len(data), self.frame_max)
        kind, number = data[0], int.from_bytes(data[1:3], "big")
        if kind == HEARTBEAT:
            return
        ident = ident_of(data)
        if number == 0:
            self._connection(ident, data[7:-1])
            return
        self.need(self.state == "running", "method {:#x} while {}", ident, self.state)
        channel = self.channels.get(number)
        if ident == CHANNEL_OPEN:
            self.need(channel is None, "504 second channel.open")
            self.channels[number] = Channel(self, number)
            self.out.send(on(number, m.ChannelOpenOk()))
            return
        self.need(channel is not None, "504 expected channel.open on {}, got {:#x}", number, ident)
        assert channel is not None
        channel.received(kind, ident, data)

    def _connection(self, ident: int, payload: bytes) -> None:
        expected = {"start": m.ConnectionStartOk, "tune": m.ConnectionTuneOk, "open": m.ConnectionOpen}
        if self.state in expected:
            self.need(ident == m.method_id(expected[self.state]), f"503 {ident:#x} while {self.state}")
        match self.state:
            case "start":
                self.state = "tune"
                self.out.send(on(0, m.ConnectionTune(2047, self.node.frame_max, 60)))
            case "tune":
                self.frame_max = m.decode(m.ConnectionTuneOk, payload).frame_max
                self.need(4096 <= self.frame_max <= self.node.frame_max, f"530 frame_max {self.frame_max}")
                self.state = "open"
            case "open":
                self.state = "running"
                self.out.send(BROKER_OPEN_OK)
            case _:
                self.need(ident == m.method_id(m.ConnectionClose), f"503 {ident:#x} on channel 0")
                self.state = "done"
                self.out.send(on(0, m.ConnectionCloseOk()))
                self.drop()
