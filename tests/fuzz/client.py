"""A client that keeps to the protocol as long as it is spoken to in kind. What it says is bent elsewhere."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import ClassVar

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER
from proxy.amqp.wire import U64
from tests.fuzz.stream import Reader, Violation
from tests.support.engine_frames import (
    ALL_CAPABILITIES,
    HEARTBEAT,
    ack,
    bare,
    bind,
    channel_of,
    consume,
    declare,
    exchange,
    frames_of,
    ident_of,
    nack,
    on,
    publish,
    reject,
    start_ok,
)

CLOSE, CLOSE_OK = m.CHANNEL_CLOSE, m.CHANNEL_CLOSE_OK
BODY_BYTES = (0, 1, 30, 30, 3000, 20_000, 100_000)


@dataclass
class Line:
    """One channel of the client."""

    closing: bool = False
    mode: str = "plain"
    published: int = 0
    unconfirmed: set[int] = field(default_factory=set)
    top: int = 0
    tags: list[int] = field(default_factory=list)
    no_ack: dict[bytes, bool] = field(default_factory=dict)
    gets: list[bool] = field(default_factory=list)
    recovering: int = 0


class Client:
    """`strict`: nobody is hostile but maybe a broker, so that what comes must make sense. `trusting`: nor a broker."""

    def __init__(self, rng: random.Random, *, strict: bool, trusting: bool) -> None:
        self.rng = rng
        self.strict = strict
        self.trusting = trusting
        self.reader = Reader("client")
        self.state = "new"
        self.lines: dict[int, Line] = {}
        self.frame_max = 4096

    # What it hears.

    def hear(self, data: bytes) -> list[bytes]:
        """Take what the engine wrote; what must be answered at once."""
        said: list[bytes] = []
        for frame in self.reader.feed(data):
            number, ident = channel_of(frame), ident_of(frame)
            if number == 0:
                said += self._on_connection(ident, frame)
            elif ident or self.strict:
                said += self._on_channel(number, ident, frame)
        self.reader.at_rest()
        return said

    def _on_connection(self, ident: int, frame: bytes) -> list[bytes]:
        if ident == m.method_id(m.ConnectionStart):
            self.state = "greeted"
            return [start_ok(*self.rng.choice((ALL_CAPABILITIES, ())))]
        if ident == m.method_id(m.ConnectionTune):
            tune = m.decode(m.ConnectionTune, frame[7:-1])
            self.frame_max = min(tune.frame_max, self.rng.choice((4096, 131072)))
            self.state = "tuned"
            beat = self.rng.choice((0, 0, 10))
            return [
                on(0, m.ConnectionTuneOk(min(tune.channel_max, 100), self.frame_max, beat)),
                on(0, m.ConnectionOpen(b"/")),
            ]
        if ident == m.method_id(m.ConnectionOpenOk):
            self.state = "running"
        elif ident == m.method_id(m.ConnectionClose):
            self.state = "over"
            return [on(0, m.ConnectionCloseOk())]
        elif ident == m.method_id(m.ConnectionCloseOk):
            self.state = "over"
        return []

    def _on_channel(self, number: int, ident: int, frame: bytes) -> list[bytes]:
        line = self.lines.get(number)
        if line is None:
            if self.strict:
                raise Violation(f"the client hears of channel {number}, which is not open")
            return []
        if ident == CLOSE:
            if not line.closing:  # closes that have crossed: ours is answered as well
                self.lines.pop(number)
            return [on(number, m.ChannelCloseOk())]
        if ident == CLOSE_OK:
            self.lines.pop(number)
        elif ident in (m.BASIC_DELIVER, m.BASIC_GET_OK):
            self._delivered(number, line, ident, frame)
        elif ident == m.BASIC_GET_EMPTY and line.gets:
            line.gets.pop(0)
        elif ident in (m.BASIC_ACK, m.BASIC_NACK) and len(frame) >= 21:
            self._confirmed(number, line, frame)
        elif ident == m.method_id(m.BasicRecoverOk):
            line.recovering -= 1
        elif ident == m.method_id(m.BasicCancel):
            line.no_ack.pop(m.decode(m.BasicCancel, frame[7:-1]).consumer_tag, None)
        return []

    def _delivered(self, number: int, line: Line, ident: int, frame: bytes) -> None:
        if ident == m.BASIC_DELIVER:
            at = 12 + frame[11]
            no_ack = line.no_ack.get(frame[12:at], False)
        else:
            at = 11
            no_ack = line.gets.pop(0) if line.gets else False
        tag = U64.unpack_from(frame, at)[0]
        if tag <= line.top and self.strict:
            raise Violation(f"delivery tag {tag} after {line.top} on channel {number}")
        line.top = tag
        if not no_ack and line.recovering <= 0:
            line.tags.append(tag)

    def _confirmed(self, number: int, line: Line, frame: bytes) -> None:
        tag, multiple = U64.unpack_from(frame, 11)[0], frame[19] & 1
        if line.mode != "confirm":
            if self.trusting:
                raise Violation(f"a confirm on channel {number}, where none was asked for")
            return
        if self.trusting and tag not in line.unconfirmed and not (multiple and any(n <= tag for n in line.unconfirmed)):
            raise Violation(f"confirm of {tag} on channel {number}, which waits for {sorted(line.unconfirmed)[:9]}")
        line.unconfirmed -= {n for n in line.unconfirmed if n <= tag} if multiple else {tag}

    # What it says by itself.

    def speak(self) -> list[bytes]:
        """One thing that a client may say now; nothing if it is not its turn."""
        rng = self.rng
        if self.state == "new":
            self.state = "waiting"
            return [PROTOCOL_HEADER]
        if self.state != "running":
            return []
        lines = [number for number, line in self.lines.items() if not line.closing]
        if not lines or (len(lines) < 4 and rng.random() < 0.1):
            return self._open()
        number = rng.choice(lines)
        act = rng.choices(list(self.ACTS), list(self.ACTS.values()))[0]
        said: list[bytes] = getattr(self, act)(number, self.lines[number])
        return said

    def _open(self) -> list[bytes]:
        number = self.rng.choice((1, 2, 3, 4, 100))
        if number in self.lines:
            return []
        self.lines[number] = Line()
        return [on(number, m.ChannelOpen())]

    def _publish(self, number: int, line: Line) -> list[bytes]:
        said = b""
        for _ in range(self.rng.choice((1, 1, 2, 20))):
            body = self.rng.randbytes(self.rng.choice(BODY_BYTES))
            line.published += 1
            if line.mode == "confirm":
                line.unconfirmed.add(line.published)
            said += publish(number, body, piece_bytes=self.frame_max - 8)
        return frames_of(said)

    def _settle(self, number: int, line: Line) -> list[bytes]:
        if not line.tags:
            return []
        tag = self.rng.choice(line.tags)
        kind = self.rng.choice(("one", "many", "refuse"))
        line.tags = [n for n in line.tags if n > tag or (kind != "many" and n != tag)]
        if kind == "many":
            return [self.rng.choice((ack(number, tag, True), nack(number, tag, True, True)))]
        return [self.rng.choice((ack(number, tag), nack(number, tag))) if kind == "one" else reject(number, tag)]

    def _declare(self, number: int, line: Line) -> list[bytes]:
        rng = self.rng
        name, nowait, brief = rng.choice((b"", b"x", b"y")), rng.random() < 0.3, rng.random() < 0.5
        return [rng.choice((
            lambda: declare(number, name, exclusive=rng.random() < 0.2, auto_delete=brief, nowait=nowait > (not name)),
            lambda: exchange(number, auto_delete=brief, nowait=nowait),
            lambda: bind(number, nowait=nowait),
            lambda: on(number, m.QueueUnbind(0, b"x", b"e", b"k", b"")),
            lambda: on(number, m.ExchangeBind(0, b"e", b"e2", b"k", nowait, b"")),
            lambda: on(number, m.ExchangeUnbind(0, b"e", b"e2", b"k", nowait, b"")),
            lambda: on(number, m.QueueDelete(0, name, False, False, nowait)),
            lambda: on(number, m.QueuePurge(0, name, nowait)),
            lambda: on(number, m.ExchangeDelete(0, b"e", False, nowait)),
        ))()]  # fmt: skip

    def _consume(self, number: int, line: Line) -> list[bytes]:
        tag = b"c%d" % self.rng.randrange(1000)
        if len(line.no_ack) > 5 or any(tag in each.no_ack for each in self.lines.values()):
            return [on(number, m.BasicQos(0, self.rng.choice((0, 10)), self.rng.random() < 0.3))]
        line.no_ack[tag] = self.rng.random() < 0.2
        return [consume(number, tag=tag, no_ack=line.no_ack[tag], nowait=self.rng.random() < 0.2)]

    def _cancel(self, number: int, line: Line) -> list[bytes]:
        if not line.no_ack:
            return []
        tag = self.rng.choice(list(line.no_ack))
        return [on(number, m.BasicCancel(tag, self.rng.random() < 0.2))]

    def _get(self, number: int, line: Line) -> list[bytes]:
        line.gets.append(self.rng.random() < 0.3)
        return [on(number, m.BasicGet(0, b"q", line.gets[-1]))]

    def _recover(self, number: int, line: Line) -> list[bytes]:
        line.tags.clear()
        line.recovering += 1
        return [bare(number, m.BASIC_RECOVER, b"\x01")]

    def _mode(self, number: int, line: Line) -> list[bytes]:
        if line.mode == "plain" and self.rng.random() < 0.7:
            line.mode, line.published = "confirm", 0
            return [on(number, m.ConfirmSelect(self.rng.random() < 0.3))]
        if line.mode == "confirm":
            return []
        line.mode = "tx"
        return [on(number, m.TxSelect())]

    def _end_tx(self, number: int, line: Line) -> list[bytes]:
        return [bare(number, self.rng.choice((m.TX_COMMIT, m.TX_ROLLBACK)))] if line.mode == "tx" else []

    def _close(self, number: int, line: Line) -> list[bytes]:
        line.closing = True
        return [on(number, m.ChannelClose(200, b"enough"))]

    def _other(self, number: int, line: Line) -> list[bytes]:
        return [self.rng.choice((
            HEARTBEAT, on(0, m.ConnectionUpdateSecret(b"next", b"why")), on(number, m.ChannelFlow(True)),
        ))]  # fmt: skip

    def _leave(self, number: int, line: Line) -> list[bytes]:
        if self.rng.random() < 0.8:
            return []
        self.state = "closing"
        return [on(0, m.ConnectionClose(200, b"bye"))]

    # What it does, and how often.
    ACTS: ClassVar[dict[str, int]] = {
        "_publish": 30, "_settle": 20, "_declare": 12, "_consume": 10, "_cancel": 4, "_get": 6, "_recover": 1,
        "_mode": 5, "_end_tx": 4, "_close": 3, "_other": 3, "_leave": 1,
    }  # fmt: skip
