"""Bodies in smaller pieces, for a peer that takes only smaller frames (`frame_max`, section 4.2.3).

A body may be cut anywhere; a method and a content header have to be one frame each.
"""

from __future__ import annotations

from proxy.amqp.frames import BODY, FRAME_END, HEAD, OVERHEAD_BYTES, Buffer, frame

# What every peer has to take; RabbitMQ refuses clients that ask for less than `FRAME_MAX_ASKED` from 4.1 on (530).
FRAME_MIN_BYTES = 4096
FRAME_MAX_ASKED = 8192


def cut(buf: bytes, pos: int, room_bytes: int, size_max: int) -> tuple[bytes, int]:
    """The frames of a region from `pos` on, each body in pieces of at most `room_bytes`, and where they begin now.

    What is no whole frame, or has a payload above `size_max`, stays as it is with all that follows: it is the
    scanner's to judge.
    """
    pieces: list[Buffer] = []
    mark = pos
    for at, kind, stop in _frames(buf, pos, size_max):
        if kind == BODY and stop - at - OVERHEAD_BYTES > room_bytes:
            pieces.append(buf[mark:at])
            number = HEAD.unpack_from(buf, at)[1]
            body = range(at + OVERHEAD_BYTES - 1, stop - 1, room_bytes)
            pieces.extend(frame(BODY, number, buf[start : min(start + room_bytes, stop - 1)]) for start in body)
            mark = stop
    if not pieces:
        return buf, pos
    pieces.append(buf[mark:])
    return b"".join(pieces), 0


def largest_whole(buf: bytes, pos: int, size_max: int) -> int:
    """The largest payload from `pos` on that cannot be cut, 0 if there is none; frames are read as by `cut`."""
    return max(
        (stop - at - OVERHEAD_BYTES for at, kind, stop in _frames(buf, pos, size_max) if kind != BODY), default=0
    )


def _frames(buf: bytes, pos: int, size_max: int) -> list[tuple[int, int, int]]:
    """Where each whole frame begins, its type, and where it ends."""
    found = []
    while len(buf) - pos >= OVERHEAD_BYTES:
        kind, _, size = HEAD.unpack_from(buf, pos)
        stop = pos + size + OVERHEAD_BYTES
        if size > size_max or stop > len(buf) or buf[stop - 1] != FRAME_END:
            break
        found.append((pos, kind, stop))
        pos = stop
    return found
