"""Direct reply-to that survives its broker: replies come to a queue of the client's own instead of to its channel.

RabbitMQ's own reply address names a channel process, so a reply to a request of before a failover finds nobody. An
exclusive queue under a name of ours is declared again under it; only what arrives while there is none is lost.
"""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.amqp.frames import FRAME_END, HEAD, HEADER, METHOD, OVERHEAD_BYTES, frame, method_frame
from proxy.amqp.wire import U16, U32, Reader, shortstr
from proxy.errors import ClientError
from proxy.session.journal import Journal
from proxy.session.ledger import DIRECT_REPLY_TO

_CONSUME = m.method_id(m.BasicConsume)

# A content header: class, weight, size of the body, then a flag for each property, the first one on top.
_FLAGS_AT = 12
_STRINGS_BEFORE, _HEADERS, _DELIVERY_MODE, _PRIORITY = (1 << 15, 1 << 14), 1 << 13, 1 << 12, 1 << 11
_CORRELATION_ID, _REPLY_TO = 1 << 10, 1 << 9


class Replies:
    """Looks only at regions in which RabbitMQ's name for "reply to me" occurs, and only if emulation is asked for."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def readdress(self, buf: bytes, pos: int) -> tuple[bytes, int]:
        """A region of the client's frames in which its reply address is a queue of its own, and where it begins.

        What is no whole frame stays as it is with all that follows: it is the scanner's to judge.
        """
        pieces: list[bytes] = []
        mark = pos
        while len(buf) - pos >= OVERHEAD_BYTES:
            kind, number, size = HEAD.unpack_from(buf, pos)
            stop = pos + size + OVERHEAD_BYTES
            if stop > len(buf) or buf[stop - 1] != FRAME_END:
                break
            if kind in (HEADER, METHOD) and buf.find(DIRECT_REPLY_TO, pos, stop) >= 0:
                pieces += [buf[mark:pos], self._readdressed(kind, number, buf[pos:stop])]
                mark = stop
            pos = stop
        return b"".join((*pieces, buf[mark:])), 0

    def _readdressed(self, kind: int, number: int, whole: bytes) -> bytes:
        queues = self._journal.reply_queues
        payload = whole[7:-1]
        if kind == HEADER:
            return frame(HEADER, number, replying_to(payload, queues[number])) if number in queues else whole
        if len(payload) < 4 or U32.unpack_from(payload)[0] != _CONSUME:
            return whole
        q = m.decode(m.BasicConsume, payload)
        if q.queue != DIRECT_REPLY_TO or not q.no_ack:
            return whole  # the broker says best what is wrong with it
        queues[number] = b"gen.reply-" + self._journal.token()
        return method_frame(number, q._replace(queue=queues[number]))


def replying_to(header: bytes, queue: bytes) -> bytes:
    """A content header with another `reply_to`, if that was RabbitMQ's name; as it was if it is none at all."""
    try:
        flags = U16.unpack_from(header, _FLAGS_AT)[0]
        properties = Reader(header, _FLAGS_AT + 2)
        for flag in _STRINGS_BEFORE:
            if flags & flag:
                properties.shortstr()
        if flags & _HEADERS:
            properties.table()
        for flag in (_DELIVERY_MODE, _PRIORITY):
            if flags & flag:
                properties.octet()
        if flags & _CORRELATION_ID:
            properties.shortstr()
        at = properties.pos
        if not flags & _REPLY_TO or properties.shortstr() != DIRECT_REPLY_TO:
            return header
    except ClientError:
        return header
    return header[:at] + shortstr(queue) + header[properties.pos :]
