"""A broker that answers what it is asked and says this and that by itself. What it says is bent elsewhere."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import ClassVar

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER
from proxy.amqp.wire import U64
from tests.fuzz.stream import Reader, Violation
from tests.support.engine_frames import (
    BROKER_OPEN_OK,
    BROKER_START,
    CLASS_BASIC,
    HEARTBEAT,
    ack,
    bare,
    channel_of,
    consume_ok,
    deliver,
    frames_of,
    get_empty,
    get_ok,
    ident_of,
    nack,
    on,
    returned,
)

CLOSE, CLOSE_OK = m.CHANNEL_CLOSE, m.CHANNEL_CLOSE_OK
# Answers that carry nothing of the question.
PLAIN_ANSWERS = {
    request: answers[0] for request, answers in m.REPLIES.items() if request not in (m.method_id(m.BasicGet), CLOSE)
}


@dataclass
class Line:
    """One channel at the broker."""

    closing: bool = False
    transactional: bool = False
    confirming: bool = False
    published: int = 0
    unconfirmed: list[int] = field(default_factory=list)
    top: int = 0
    unsettled: set[int] = field(default_factory=set)
    consumers: dict[bytes, bool] = field(default_factory=dict)
    left: int = -1


class Broker:
    """`honest`: its words are not bent, so that what it hears must make sense. `client_honest`: nor the client's."""

    def __init__(self, rng: random.Random, *, honest: bool, client_honest: bool) -> None:
        self.rng = rng
        self.honest = honest
        self.client_honest = client_honest
        self.reader = Reader("broker")
        self.lines: dict[int, Line] = {}
        self.waiting: list[bytes] = [BROKER_START]
        self.closing = False
        self.limit = rng.choice((131072, 131072, 131072, 8192, 0))

    # What it hears.

    def hear(self, data: bytes) -> None:
        for frame in self.reader.feed(data):
            number, ident = channel_of(frame), ident_of(frame)
            if self.closing and ident != m.method_id(m.ConnectionClose):
                continue  # as RabbitMQ: what comes behind its close is not read
            if number == 0:
                self._on_connection(ident)
            elif ident:
                self._on_channel(number, ident, frame)
            elif number in self.lines:
                self._content(number, self.lines[number], frame)
        self.reader.at_rest()

    def _on_connection(self, ident: int) -> None:
        if ident == m.method_id(m.ConnectionStartOk):
            self.waiting.append(on(0, m.ConnectionTune(2047, self.limit, 60)))
        elif ident == m.method_id(m.ConnectionOpen):
            self.waiting.append(BROKER_OPEN_OK)
        elif ident == m.method_id(m.ConnectionUpdateSecret):
            self.waiting.append(bare(0, m.CONNECTION_UPDATE_SECRET_OK))
        elif ident == m.method_id(m.ConnectionClose):
            self.waiting.append(on(0, m.ConnectionCloseOk()))

    def _on_channel(self, number: int, ident: int, frame: bytes) -> None:
        line = self.lines.get(number)
        if ident == m.CHANNEL_OPEN:
            if line is not None:
                self._unexpected(f"channel {number} is opened twice")
            self.lines[number] = Line()
            self.waiting.append(on(number, m.ChannelOpenOk()))
        elif line is None:
            if ident not in (CLOSE_OK, CLOSE):
                self._unexpected(f"method {ident >> 16}.{ident & 65535} on channel {number}, which is not open")
        elif ident == CLOSE:
            del self.lines[number]
            self.waiting.append(on(number, m.ChannelCloseOk()))
        elif line.closing:
            if ident == CLOSE_OK:
                del self.lines[number]
        else:
            self._asked(number, line, ident, frame)

    def _unexpected(self, what: str) -> None:
        """Nobody has a right to that; a hostile client hears what RabbitMQ says."""
        if self.honest and self.client_honest:
            raise Violation(what)
        if self.honest:
            self.closing = True
            self.waiting.append(on(0, m.ConnectionClose(504, b"CHANNEL_ERROR - " + what.encode())))

    def _asked(self, number: int, line: Line, ident: int, frame: bytes) -> None:
        if ident in (m.BASIC_ACK, m.BASIC_NACK, m.BASIC_REJECT):
            self._settled(number, line, ident, frame)
        elif ident == m.BASIC_PUBLISH:
            line.left = -1
        elif ident == m.method_id(m.QueueDeclare):
            name = m.decode(m.QueueDeclare, frame[7:-1]).queue
            self.waiting.append(on(number, m.QueueDeclareOk(name, 0, 0)))
        elif ident == m.method_id(m.BasicConsume):
            asked = m.decode(m.BasicConsume, frame[7:-1])
            line.consumers[asked.consumer_tag] = asked.no_ack
            self.waiting.append(consume_ok(number, asked.consumer_tag))
        elif ident == m.method_id(m.BasicCancel):
            tag = m.decode(m.BasicCancel, frame[7:-1]).consumer_tag
            line.consumers.pop(tag, None)
            self.waiting.append(on(number, m.BasicCancelOk(tag)))
        elif ident == m.method_id(m.BasicGet):
            self._got(number, line, m.decode(m.BasicGet, frame[7:-1]).no_ack)
        elif ident == m.method_id(m.ConfirmSelect):
            if not line.confirming:
                line.confirming, line.published = True, 0
            if not m.decode(m.ConfirmSelect, frame[7:-1]).nowait:
                self.waiting.append(on(number, m.ConfirmSelectOk()))
        elif ident in PLAIN_ANSWERS:
            line.transactional = line.transactional or ident == m.method_id(m.TxSelect)
            if ident == m.BASIC_RECOVER:
                line.unsettled.clear()
            extra = b"\0\0\0\0" if ident in (m.method_id(m.QueuePurge), m.method_id(m.QueueDelete)) else b""
            self.waiting.append(bare(number, PLAIN_ANSWERS[ident], extra or (b"\x01" if ident >> 16 == 20 else b"")))

    def _got(self, number: int, line: Line, no_ack: bool) -> None:
        if self.rng.random() < 0.5:
            self.waiting.append(get_empty(number))
            return
        line.top += 1
        if not no_ack:
            line.unsettled.add(line.top)
        self.waiting.append(get_ok(number, line.top, self._body()))

    def _settled(self, number: int, line: Line, ident: int, frame: bytes) -> None:
        tag = U64.unpack_from(frame, 11)[0]
        multiple = ident != m.BASIC_REJECT and frame[19] & 1
        known = {n for n in line.unsettled if n <= tag or not tag} if multiple else line.unsettled & {tag}
        if not known and not line.transactional and not (multiple and tag == 0):
            if self.honest and self.client_honest:
                raise Violation(f"tag {tag} on channel {number} was never given, or is settled already")
            line.closing = True
            self.waiting.append(on(number, m.ChannelClose(406, b"PRECONDITION_FAILED - unknown delivery tag", 60, 80)))
        line.unsettled -= known

    def _content(self, number: int, line: Line, frame: bytes) -> None:
        if frame[0] == HEADER:
            line.left = CLASS_BASIC.unpack_from(frame, 7)[2]
        elif frame[0] == BODY:
            line.left -= len(frame) - 8
        if line.left == 0 and not line.closing:
            line.published += 1
            if line.confirming:
                line.unconfirmed.append(line.published)

    # What it says.

    def speak(self) -> list[bytes]:
        """Answers that are due, or something of its own."""
        rng = self.rng
        if self.waiting and rng.random() < 0.8:
            count = rng.randrange(len(self.waiting)) + 1
            said, self.waiting = self.waiting[:count], self.waiting[count:]
            return frames_of(b"".join(said))
        lines = [number for number, line in self.lines.items() if not line.closing]
        if self.waiting or self.closing or not lines:
            return [HEARTBEAT] if rng.random() < 0.3 and not self.waiting else []
        number = rng.choice(lines)
        act = rng.choices(list(self.ACTS), list(self.ACTS.values()))[0]
        said = getattr(self, act)(number, self.lines[number])
        return frames_of(b"".join(said))

    def _body(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 1, 50, 50, 9000, 70_000)))

    def _deliver(self, number: int, line: Line) -> list[bytes]:
        if not line.consumers or len(line.unsettled) > 40:
            return []
        said = []
        for _ in range(self.rng.choice((1, 1, 5))):
            tag = self.rng.choice(list(line.consumers))
            line.top += 1
            if not line.consumers[tag]:
                line.unsettled.add(line.top)
            said.append(deliver(number, line.top, self._body(), to=tag, piece_bytes=self.rng.choice((4000, 100_000))))
        return said

    def _confirm(self, number: int, line: Line) -> list[bytes]:
        if not line.unconfirmed:
            return []
        tag = self.rng.choice(line.unconfirmed)
        multiple = self.rng.random() < 0.5
        line.unconfirmed = [n for n in line.unconfirmed if n > tag or (not multiple and n != tag)]
        return [nack(number, tag, multiple) if self.rng.random() < 0.1 else ack(number, tag, multiple)]

    def _return(self, number: int, line: Line) -> list[bytes]:
        return [returned(number)] if line.published else []

    def _cancel(self, number: int, line: Line) -> list[bytes]:
        if not line.consumers:
            return []
        tag = self.rng.choice(list(line.consumers))
        del line.consumers[tag]
        return [on(number, m.BasicCancel(tag, True))]

    def _close_channel(self, number: int, line: Line) -> list[bytes]:
        line.closing = True
        return [on(number, m.ChannelClose(self.rng.choice((404, 405, 406, 403, 541)), b"no queue 'x'", 50, 10))]

    def _close(self, number: int, line: Line) -> list[bytes]:
        self.closing = True
        code, text = self.rng.choice((
            (320, b"CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"),
            (320, b"CONNECTION_FORCED - Closed via management plugin"), (541, b"INTERNAL_ERROR"),
            (530, b"NOT_ALLOWED - vhost '/' is deleted"), (505, b"UNEXPECTED_FRAME"),
        ))  # fmt: skip
        return [on(0, m.ConnectionClose(code, text))]

    def _other(self, number: int, line: Line) -> list[bytes]:
        return [self.rng.choice((
            HEARTBEAT, on(number, m.ChannelFlow(True)), on(0, m.ConnectionBlocked(b"memory")),
            on(0, m.ConnectionUnblocked()),
        ))]  # fmt: skip

    # What it does, and how often.
    ACTS: ClassVar[dict[str, int]] = {
        "_deliver": 40, "_confirm": 40, "_return": 3, "_cancel": 3, "_close_channel": 3, "_close": 2, "_other": 5,
    }  # fmt: skip
