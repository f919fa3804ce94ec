"""By what a message is known when it comes a second time.

A publisher's sidecar can mark each publish with an id (`x-sidehop-id`); then there is no doubt. Without it a
`message-id` will do for a message that a broker delivers again: it must be the same in all that its publisher gave it.
Who sets neither may mean two equal messages as two.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from proxy.amqp.frames import HEADER, OVERHEAD_BYTES, Buffer, frame
from proxy.amqp.properties import HeadersPlace, headers_place, message_id, with_headers
from proxy.amqp.wire import U16, U32, U64, Reader, Table, pack_table, parse_table
from proxy.errors import ClientError
from proxy.session.stream import OFFSET

ID = b"x-sidehop-id"

# What a mark looks like at the beginning of a table, where a sidecar puts it.
_ID_ENTRY = bytes((len(ID),)) + ID + b"S"
_DEATHS = b"x-death"
_PROPERTIES_AT = 12
_COUNTED_BY_BROKERS = (b"x-delivery-count", b"x-acquired-count")


class Identity(NamedTuple):
    """`queue` and `what` are the same for all copies. `exact`: no other message has it, flagged as a copy or not."""

    queue: bytes
    what: bytes
    exact: bool


def unmarked(content: list[Buffer]) -> bytes:
    """Take the mark off a content, each piece of which is one frame; returns it, empty if there is none.

    A client that saw it might publish it again with headers that it copies, and mean another message.
    """
    header = bytes(content[1])
    if ID not in header:
        return b""
    payload = header[OVERHEAD_BYTES - 1 : -1]
    try:
        place = headers_place(payload)
        mark, rest = _parted(place.table)
    except ClientError:
        return b""  # not ours to judge: the client gets it as it is
    if mark:
        content[1] = frame(HEADER, U16.unpack_from(header, 1)[0], with_headers(payload, place, rest))
    return mark


def mark_in(payload: bytes) -> bytes:
    """The mark in the payload of a content header; empty if there is none."""
    try:
        return _parted(headers_place(payload).table)[0]
    except ClientError:
        return b""


def _parted(raw: bytes) -> tuple[bytes, bytes]:
    """The mark in a table of headers, and the rest of the table."""
    if raw.startswith(_ID_ENTRY):
        start = len(_ID_ENTRY) + U32.size
        stop = start + int(U32.unpack_from(raw, len(_ID_ENTRY))[0])
        if stop <= len(raw) and ID not in raw[stop:]:
            return raw[start:stop], raw[stop:]
    table = parse_table(raw)
    value = table.pop(ID, b"")
    return (value[5:], pack_table(table)) if value[:1] == b"S" else (b"", raw)


def identity_of(queue: bytes, mark: bytes, content: list[Buffer]) -> Identity | None:
    """What a delivery is known by, whose mark has been taken off; None if by nothing.

    A message of a stream is known by its place there, and may be wanted again. One that came back as a dead letter is
    another one each time: who refused it wants to see it again.
    """
    payload = bytes(content[1])[OVERHEAD_BYTES - 1 : -1]
    try:
        place = headers_place(payload)
        table = parse_table(place.table)
        if OFFSET in table:
            return None
        if mark:
            return Identity(queue, mark + _deaths(table.get(_DEATHS, b"")), exact=True)
        if not message_id(payload, place):
            return None
    except ClientError:
        return None
    return Identity(queue, _digest(content, payload, place, table), exact=False)


def _deaths(value: bytes) -> bytes:
    """How often it died, where and of what; not when, since copies of a message die one after the other."""
    if value[:1] != b"A":
        return value
    reader = Reader(value, 5)
    found = []
    while reader.pos < len(value):
        if reader.octet() != ord("F"):
            return value
        death = parse_table(reader.table())
        found.append(b"".join(death.get(name, b"") for name in (b"queue", b"reason", b"count")))
    return b"".join(found)


def _digest(content: list[Buffer], payload: bytes, place: HeadersPlace, table: Table) -> bytes:
    """Route, properties and body, without what a broker adds when it delivers again."""
    method = bytes(content[0])
    route = method[12 + method[11] + 9 : -1]
    headers = pack_table(dict(sorted(item for item in table.items() if item[0] not in _COUNTED_BY_BROKERS)))
    # A message whose only headers are those of the broker had none.
    properties = with_headers(payload, place, headers)[_PROPERTIES_AT:]
    body = b"".join(piece[OVERHEAD_BYTES - 1 : -1] for piece in content[2:])
    digest = blake2b(digest_size=16)
    for part in (route, properties, body):
        digest.update(U64.pack(len(part)))
        digest.update(part)
    return digest.digest()
