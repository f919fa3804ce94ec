"""The mark on each publish of a session, by which whoever gets it can tell a copy. Compiled with the relay.

A publish that is sent again keeps its mark, and says that it may be a copy.
"""

from __future__ import annotations

from proxy.amqp import peek
from proxy.amqp.frames import FRAME_END, HEAD, HEADER, OVERHEAD_BYTES, Buffer, frame
from proxy.amqp.properties import headers_place, with_headers
from proxy.amqp.wire import U16, U32, bool_value, pack_table, parse_table, shortstr
from proxy.errors import ClientError
from proxy.session.identity import ID

REPLAY = b"x-sidehop-replay"
_OURS = b"x-sidehop-"
_ID_HEAD = shortstr(ID) + b"S"
_REPLAY_ENTRY = shortstr(REPLAY) + bool_value(True)

_HEADER_BYTES_MIN = 14
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _MORE_FLAGS = 1 << 15, 1 << 14, 1 << 13, 1


class Stamp:
    """Numbers the publishes of a session. `token` is a word that no other session has."""

    __slots__ = ("_count", "_token")

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._count = 0

    def put(self, buf: bytes, pos: int, size_max: int, room: int) -> tuple[bytes, int]:
        """A region of the client's frames from `pos` on with a mark in each content header, and where it begins now.

        A payload that would be larger than `room` gets none, and neither does what is no flawless header. What is no
        whole frame, or has a payload above `size_max`, stays as it is with all that follows.
        """
        start = mark = pos
        end = len(buf)
        pieces: list[bytes] = []
        while end - pos >= OVERHEAD_BYTES:
            size = peek.u32(buf, pos + 3)
            stop = pos + size + OVERHEAD_BYTES
            if size > size_max or stop > end or buf[stop - 1] != FRAME_END:
                break
            if buf[pos] == HEADER and size >= _HEADER_BYTES_MIN:
                pieces.append(buf[mark:pos])
                pieces.append(self.marked(buf, pos, stop, room))
                mark = stop
            pos = stop
        if not pieces:
            return buf, start
        pieces.append(buf[mark:])
        return b"".join(pieces), 0

    def marked(self, buf: bytes, pos: int, stop: int, room: int) -> bytes:
        """One content header frame with a mark."""
        flags = peek.u16(buf, pos + 19)
        last = stop - 1
        at = pos + 21
        if flags & _CONTENT_TYPE and at < last:
            at += 1 + buf[at]
        if flags & _CONTENT_ENCODING and at < last:
            at += 1 + buf[at]
        table, rest = b"", at
        if flags & _HEADERS and at + 4 <= last:
            rest = at + 4 + peek.u32(buf, at)
            table = buf[at + 4 : rest]
        if flags & _MORE_FLAGS or rest > last or (flags & _HEADERS and rest == at):
            return buf[pos:stop]
        if _OURS in table:
            table = _without_ours(table)
        self._count += 1
        text = b"%b-%d" % (self._token, self._count)
        table = _ID_HEAD + U32.pack(len(text)) + text + table
        flags |= _HEADERS
        payload = b"%b%b%b%b%b%b" % (
            buf[pos + 7 : pos + 19], U16.pack(flags), buf[pos + 21 : at], U32.pack(len(table)), table,
            buf[rest:last],
        )  # fmt: skip
        if len(payload) + len(_REPLAY_ENTRY) > room:
            return buf[pos:stop]
        return b"%b%b%b\xce" % (buf[pos : pos + 3], U32.pack(len(payload)), payload)


def _without_ours(table: bytes) -> bytes:
    """What somebody has copied from a message that he got."""
    try:
        headers = parse_table(table)
    except ClientError:
        return table  # the broker will say what is wrong with it
    return pack_table({name: value for name, value in headers.items() if name not in (ID, REPLAY)})


def repeated(frames: Buffer) -> bytes:
    """Whole frames in which every publish that has a mark says that it may be a copy."""
    whole = bytes(frames)
    pieces = []
    pos = mark = 0
    while pos < len(whole):
        kind, number, size = HEAD.unpack_from(whole, pos)
        stop = pos + size + OVERHEAD_BYTES
        if kind == HEADER and ID in whole[pos:stop]:
            pieces += [whole[mark:pos], frame(HEADER, number, _repeated(whole[pos + 7 : stop - 1]))]
            mark = stop
        pos = stop
    return b"".join((*pieces, whole[mark:]))


def _repeated(payload: bytes) -> bytes:
    try:
        place = headers_place(payload)
    except ClientError:
        return payload
    if not place.table.startswith(_ID_HEAD):
        return payload
    cut = len(_ID_HEAD) + U32.size + int(U32.unpack_from(place.table, len(_ID_HEAD))[0])
    return with_headers(payload, place, place.table[:cut] + _REPLAY_ENTRY + place.table[cut:])


def unstamped(pieces: list[Buffer]) -> list[Buffer]:
    """What came back to its publisher, in pieces of one frame each, as it was published."""
    header = bytes(pieces[1])
    payload = header[7:-1]
    try:
        place = headers_place(payload)
    except ClientError:
        return pieces
    restored = with_headers(payload, place, _without_ours(place.table))
    return [pieces[0], frame(HEADER, HEAD.unpack_from(header)[1], restored), *pieces[2:]]
