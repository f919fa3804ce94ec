"""A client that does everything at random, legally, and believes nothing: it checks each frame it is given."""

from __future__ import annotations

import random
from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.amqp.frames import HEARTBEAT, PROTOCOL_HEADER
from tests.simulation.account import Account
from tests.simulation.client_channel import ClientChannel, need
from tests.simulation.cluster import Violation
from tests.simulation.roles import CONFIRMER, CONSUMER, HOMEBODY, MIXED, OWNER, PUBLISHER, ROLES
from tests.support.engine_frames import ALL_CAPABILITIES, channel_of, frames_of, ident_of, on, start_ok


class Client:
    """One connection. `act` does one thing; `received` checks what comes.

    `roles` are the channels it uses, `large_bytes` how large a message can be beyond the usual.
    """

    def __init__(
        self,
        rng: random.Random,
        name: str,
        send: Callable[[bytes], None],
        roles: tuple[int, ...] = (CONFIRMER, PUBLISHER, CONSUMER, OWNER, MIXED),
        large_bytes: int = 0,
    ) -> None:
        self.rng = rng
        self.name = name
        self.send = send
        self.roles = roles
        self.large_bytes = large_bytes
        self.frame_max = 131072
        self.names = False  # its messages have a `message-id`
        self.covered = True  # what it publishes without confirms is promised to arrive
        self.state = "start"
        self.channels: dict[int, ClientChannel] = {}
        self.account = Account()
        self.acks_all = rng.random() < 0.2  # uses only ack(0, multiple), which settles what is still on its way
        self.finishing = False
        self.blocked = False
        # How the connection was closed by the other side, and whether that was honest.
        self.told: tuple[int, str] | None = None
        self.may_be_told: Callable[[int, str], bool] = lambda code, text: False
        self._count = 0
        self._buffer = b""
        send(PROTOCOL_HEADER)

    def number(self) -> int:
        """One that was not used before."""
        self._count += 1
        return self._count

    # What comes.

    def received(self, data: bytes) -> None:
        frames = frames_of(self._buffer + data)
        self._buffer = b""
        for each in frames:
            if len(each) < 8 or len(each) < 8 + int.from_bytes(each[3:7], "big"):
                self._buffer = each
                return
            self._frame(each)

    def _frame(self, data: bytes) -> None:
        kind, number, ident = data[0], channel_of(data), ident_of(data)
        need(data[-1] == 206, "a frame without an end")
        need(len(data) <= self.frame_max, "a frame of {} bytes, {} were agreed", len(data), self.frame_max)
        if kind == HEARTBEAT:
            return
        need(self.state not in ("told", "closed"), "{:#x} on a closed connection", ident)
        if number == 0:
            self._connection(ident, data[7:-1])
            return
        channel = self.channels.get(number)
        need(channel is not None, "{:#x} on channel {}, which is not open", ident, number)
        assert channel is not None
        channel.received(kind, ident, data)

    def _connection(self, ident: int, payload: bytes) -> None:
        if ident == m.method_id(m.ConnectionStart):
            need(self.state == "start", "a second start")
            self.state = "tune"
            self.send(start_ok(*ALL_CAPABILITIES))
        elif ident == m.method_id(m.ConnectionTune):
            need(self.state == "tune", "a second tune")
            self.state = "open"
            tune = m.decode(m.ConnectionTune, payload)
            self.frame_max = min(self.frame_max, tune.frame_max)
            self.send(on(0, m.ConnectionTuneOk(tune.channel_max, self.frame_max, 10), m.ConnectionOpen(b"/")))
        elif ident == m.method_id(m.ConnectionOpenOk):
            need(self.state == "open", "a second open-ok")
            self.state = "running"
        elif ident == m.method_id(m.ConnectionCloseOk):
            need(self.state == "closing", "a close-ok to nothing")
            self.state = "closed"
        elif ident == m.method_id(m.ConnectionBlocked):
            self.blocked = True
        elif ident == m.method_id(m.ConnectionUnblocked):
            need(self.blocked, "unblocked, and was not blocked")
            self.blocked = False
        elif ident == m.method_id(m.ConnectionClose):
            close = m.decode(m.ConnectionClose, payload)
            self.told = (close.reply_code, close.reply_text.decode())
            need(self.may_be_told(*self.told), f"the connection was closed: {self.told}")
            self.send(on(0, m.ConnectionCloseOk()))
            self.state = "told"
        else:
            raise Violation(f"connection: {ident >> 16}.{ident & 65535} {payload!r}")

    # What it does.

    def act(self) -> None:
        """One legal thing at random."""
        if self.state != "running":
            return
        number = self.rng.choice(self.roles)
        channel = self.channels.get(number)
        if channel is None:
            if not self.finishing or number in (CONSUMER, HOMEBODY):
                self.open(number)
        elif channel.half:
            self.send(channel.half.pop(0))
        elif channel.state == "closing":
            return
        elif self.finishing:
            channel.wind_down()
        elif not channel.asked or self.rng.random() < 0.3:
            if self.rng.random() < 0.01 and channel.may_close():
                channel.close()
            else:
                channel.work()

    def open(self, number: int) -> ClientChannel:
        """A channel in the role that its number stands for."""
        channel = self.channels[number] = ROLES[number](self, number)
        channel.open()
        return channel

    @property
    def idle(self) -> bool:
        """Nothing is owed to it."""
        return self.state == "running" and not any(channel.busy for channel in self.channels.values())

    def close(self) -> None:
        self.state = "closing"
        self.send(on(0, m.ConnectionClose(200, b"bye")))
