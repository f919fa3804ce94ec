"""A strict reader of what the engine writes: whole frames of known types, and contents that end as they began."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.amqp.frames import (
    BODY,
    FRAME_END,
    HEAD,
    HEADER,
    HEARTBEAT,
    METHOD,
    OVERHEAD_BYTES,
    PROTOCOL_HEADER,
)
from tests.support.engine_frames import CLASS_BASIC, ident_of

WITH_CONTENT = frozenset((m.BASIC_PUBLISH, m.BASIC_RETURN, m.BASIC_DELIVER, m.BASIC_GET_OK))
HEADER_DUE = -1


class Violation(AssertionError):
    """The engine did what it must never do."""


class Reader:
    """`name` is who reads. A broker is greeted with the protocol header, a stranger gets it as a farewell."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._rest = b""
        self._greeted = False
        self._left: dict[int, int] = {}

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now."""
        self._rest += data
        frames = []
        if not self._greeted and self._rest[:4] == b"AMQP":
            if not self._rest.startswith(PROTOCOL_HEADER):
                raise Violation(f"the {self.name} gets a broken protocol header")
            self._rest = self._rest[8:]
        at, rest = 0, self._rest
        while len(rest) - at >= OVERHEAD_BYTES:
            self._greeted = True
            kind, number, size = HEAD.unpack_from(rest, at)
            if kind not in (METHOD, HEADER, BODY, HEARTBEAT):
                raise Violation(f"the {self.name} gets a frame of type {kind}: {rest[at : at + 40]!r}")
            stop = at + size + OVERHEAD_BYTES
            if stop > len(rest):
                break
            frame = rest[at:stop]
            if frame[-1] != FRAME_END:
                raise Violation(f"the {self.name} gets a frame without its end: {frame[:40]!r}")
            self._in_order(kind, number, size, frame)
            frames.append(frame)
            at = stop
        self._rest = rest[at:]
        return frames

    def at_rest(self) -> None:
        """What was written ends with a frame."""
        if self._rest:
            raise Violation(f"the {self.name} is left with a part of a frame: {self._rest[:40]!r}")

    def _in_order(self, kind: int, number: int, size: int, frame: bytes) -> None:
        left = self._left
        if kind == HEARTBEAT:
            if number or size:
                raise Violation(f"the {self.name} gets a broken heartbeat")
        elif kind == METHOD:
            ident = ident_of(frame)
            if ident == m.CHANNEL_CLOSE_OK:
                left.pop(number, None)  # the other side has closed the channel and ignores all but this
            if not ident or number in left:
                raise Violation(f"the {self.name} gets a method without a number or inside a content on {number}")
            if ident in WITH_CONTENT:
                left[number] = HEADER_DUE
        elif kind == HEADER:
            if left.get(number) != HEADER_DUE or size < 14:
                raise Violation(f"the {self.name} gets a header where none is due, on {number}")
            self._remain(number, CLASS_BASIC.unpack_from(frame, 7)[2])
        else:
            if left.get(number, 0) < max(size, 1):
                raise Violation(f"the {self.name} gets a body where none is due, on {number}")
            self._remain(number, left[number] - size)

    def _remain(self, number: int, count: int) -> None:
        self._left[number] = count
        if not count:
            del self._left[number]
