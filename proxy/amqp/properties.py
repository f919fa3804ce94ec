"""The properties of a message, inside the payload of its content header (section 4.2.6.1).

short class | short weight | long long size of the body | short flags | the properties whose flag is set, in order
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.amqp.wire import U16, Reader, longstr

_FLAGS_AT = 12
_PROPERTIES_AT = 14
_PERSISTENT = 2
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13
_DELIVERY_MODE, _PRIORITY, _CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = (1 << bit for bit in range(12, 6, -1))


class HeadersPlace(NamedTuple):
    """Where the table of headers is, with its length in front; `start == stop` where there is none."""

    start: int
    stop: int
    table: bytes


def headers_place(header: bytes) -> HeadersPlace:
    """Find the table of headers in a content header's payload. Raises `ClientError` for what is no such payload."""
    reader = Reader(header, _FLAGS_AT)
    flags = reader.short()
    if flags & _CONTENT_TYPE:
        reader.shortstr()
    if flags & _CONTENT_ENCODING:
        reader.shortstr()
    start = reader.pos
    table = reader.table() if flags & _HEADERS else b""
    return HeadersPlace(start, reader.pos, table)


def with_headers(header: bytes, place: HeadersPlace, table: bytes) -> bytes:
    """The same payload with another table of headers; an empty one is left out."""
    flags = U16.unpack_from(header, _FLAGS_AT)[0]
    flags = flags | _HEADERS if table else flags & ~_HEADERS
    middle = header[_PROPERTIES_AT : place.start] + (longstr(table) if table else b"")
    return header[:_FLAGS_AT] + U16.pack(flags) + middle + header[place.stop :]


def is_persistent(header: bytes, place: HeadersPlace) -> bool:
    """The property `delivery-mode` is 2. Raises `ClientError`."""
    if not U16.unpack_from(header, _FLAGS_AT)[0] & _DELIVERY_MODE:
        return False
    return Reader(header, place.stop).octet() == _PERSISTENT


def message_id(header: bytes, place: HeadersPlace) -> bytes:
    """The property `message-id`; empty where there is none. Raises `ClientError`."""
    flags = U16.unpack_from(header, _FLAGS_AT)[0]
    if not flags & _MESSAGE_ID:
        return b""
    reader = Reader(header, place.stop)
    reader.skip(bool(flags & _DELIVERY_MODE) + bool(flags & _PRIORITY))
    for flag in (_CORRELATION_ID, _REPLY_TO, _EXPIRATION):
        if flags & flag:
            reader.shortstr()
    return reader.shortstr()
