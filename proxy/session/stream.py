"""A consumer's place in a stream: read from what is delivered, and asked for when the consumer comes back.

Every delivery from a stream carries its offset in the header `x-stream-offset`; a stream keeps what was delivered, so
its broker delivers nothing again by itself. A publisher cannot forge the header in a stream, since the broker replaces
it, but a message that an application copied to another queue may carry it there. Source: RabbitMQ 3.10.
"""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.amqp.frames import method_frame
from proxy.amqp.wire import U16, U64, Reader, pack_table, parse_table
from proxy.errors import ClientError

# Instead of an offset: nothing was delivered that tells; what was delivered did not come from a stream.
UNPLACED = -1
NO_STREAM = -2

OFFSET = b"x-stream-offset"

_PROPERTY_FLAGS_AT = 12
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13


def offset_in(header: bytes) -> int:
    """The offset that a delivery's content header names; `NO_STREAM` if none. `header` is the frame's payload."""
    if OFFSET not in header:
        return NO_STREAM
    try:
        flags = U16.unpack_from(header, _PROPERTY_FLAGS_AT)[0]
        properties = Reader(header, _PROPERTY_FLAGS_AT + 2)
        for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
            if flags & flag:
                properties.shortstr()
        value = parse_table(properties.table()).get(OFFSET, b"") if flags & _HEADERS else b""
    except ClientError:
        return NO_STREAM  # not ours to judge: the client gets it as it is
    if value[:1] != b"l" or value[1] > 0x7F:
        return NO_STREAM
    offset: int = U64.unpack_from(value, 1)[0]
    return offset


def read_on(consume: bytes, offset: int) -> bytes:
    """The frame of a `basic.consume` that begins at an offset, and is otherwise as it was."""
    number = U16.unpack_from(consume, 1)[0]
    asked = m.decode(m.BasicConsume, consume[7:-1])
    arguments = parse_table(asked.arguments) | {OFFSET: b"l" + U64.pack(offset)}
    return method_frame(number, asked._replace(arguments=pack_table(arguments)))
