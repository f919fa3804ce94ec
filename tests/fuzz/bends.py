"""Ways to spoil a conversation. Each takes whole frames and gives bytes back that somebody could send."""

from __future__ import annotations

import random

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEAD, HEADER, frame, method_frame
from proxy.amqp.methods import codec
from proxy.amqp.wire import U32, U64
from tests.support.engine_frames import CLASS_BASIC, ack, bare, content, deliver, get_ok, nack, publish, reject

OCTETS = (0, 1, 2, 3, 8, 127, 128, 206, 255)
SIZES = (0, 1, 4, 7, 2**16, 2**17 + 1, 2**27 + 1, 2**31, 2**32 - 1)
NUMBERS = (0, 1, 2, 3, 4, 2046, 2047, 2048, 65535)
TAGS = (0, 1, 2, 5, 2**31, 2**63 - 1, 2**63, 2**64 - 1)
NAMES = (b"", b"q", b"c", b"e", b"amq.direct", b"x" * 255)
# Class and method of everything known, and of what nobody knows.
IDENTS = (
    *codec._LAYOUT,
    *codec.REPLIES,
    *(answer for answers in codec.REPLIES.values() for answer in answers),
    m.BASIC_PUBLISH, m.BASIC_DELIVER, m.BASIC_RETURN, m.CONNECTION_SECURE,
    0, 0xFFFFFFFF, m.ident(10, 99), m.ident(20, 99), m.ident(60, 99), m.ident(99, 1),
)  # fmt: skip


class Bender:
    """Spoils what one side says. `bend` gives bytes that are wrong in one to three ways."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def bend(self, frames: list[bytes]) -> bytes:
        rng = self.rng
        frames = list(frames) or [self.word()]
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(self.OF_FRAMES)(self, frames)
            frames = frames or [self.word()]
        stream = bytearray(b"".join(frames))
        if rng.random() < 0.3:
            rng.choice(self.OF_BYTES)(self, stream)
        return bytes(stream)

    def word(self) -> bytes:
        """A frame that either side might say, at a time when it may be nobody's turn."""
        rng = self.rng
        number, tag = rng.choice(NUMBERS[:6]), rng.choice(TAGS)
        return rng.choice((
            lambda: method_frame(number, self._method()),
            lambda: ack(number, tag, rng.random() < 0.5),
            lambda: nack(number, tag, rng.random() < 0.5, rng.random() < 0.5),
            lambda: reject(number, tag),
            lambda: deliver(number, tag, rng.randbytes(rng.choice((0, 1, 5000)))),
            lambda: get_ok(number, tag),
            lambda: publish(number, rng.randbytes(rng.choice((0, 1, 5000))), piece_bytes=4088),
            lambda: content(number, rng.randbytes(9)),
            lambda: frame(HEADER, number, CLASS_BASIC.pack(60, 0, tag, 0)),
            lambda: frame(BODY, number, rng.randbytes(rng.choice((0, 1, 3000)))),
            lambda: bare(number, rng.choice(IDENTS), rng.randbytes(rng.choice((0, 1, 8, 40)))),
            lambda: bare(number, m.BASIC_PUBLISH, b"") + frame(HEADER, number, CLASS_BASIC.pack(60, 0, tag, 0)),
        ))()  # fmt: skip

    def _method(self) -> tuple[object, ...]:
        cls, layout = codec._LAYOUT[self.rng.choice(tuple(codec._LAYOUT))]
        return cls(*[self._value(kind) for kind in layout])

    def _value(self, kind: str) -> object:
        rng = self.rng
        if kind in "ohlq":
            return rng.choice((0, 1, 200, 2 ** (8 << "ohlq".index(kind)) - 1)) % 2 ** (8 << "ohlq".index(kind))
        if kind == "b":
            return rng.random() < 0.5
        if kind == "T":
            return rng.choice((b"", b"\x01aV", b"\xffa", b"\x01aS\xff\xff\xff\xff", b"\x01aF\0\0\0\x05\x01" * 20))
        return rng.choice(NAMES)

    # Of whole frames.

    def _drop(self, frames: list[bytes]) -> None:
        del frames[self.rng.randrange(len(frames))]

    def _repeat(self, frames: list[bytes]) -> None:
        at = self.rng.randrange(len(frames))
        frames[at:at] = frames[at : at + 1] * self.rng.choice((1, 2, 30))

    def _shuffle(self, frames: list[bytes]) -> None:
        self.rng.shuffle(frames)

    def _insert(self, frames: list[bytes]) -> None:
        frames.insert(self.rng.randrange(len(frames) + 1), self.word())

    def _resize(self, frames: list[bytes]) -> None:
        """The size field lies."""
        at, one = self._one(frames)
        honest = len(one) - 8
        size = self.rng.choice((*SIZES, honest + 1, max(0, honest - 1)))
        frames[at] = one[:3] + U32.pack(size) + one[7:]

    def _stretch(self, frames: list[bytes]) -> None:
        """The payload is longer or shorter than the method needs, and the size field knows it."""
        at, one = self._one(frames)
        payload = one[7:-1]
        longer = self.rng.random() < 0.5
        payload = payload + b"\xff" * 9 if longer else payload[: self.rng.randrange(len(payload) + 1)]
        frames[at] = frame(one[0], int.from_bytes(one[1:3], "big"), payload)

    def _no_end(self, frames: list[bytes]) -> None:
        at, one = self._one(frames)
        frames[at] = one[:-1] + bytes((self.rng.choice((0, 205, 255)),))

    def _length(self, frames: list[bytes]) -> None:
        """A string or table inside the frame claims to be longer than it is."""
        at, one = self._one(frames)
        if len(one) > 13:
            place = self.rng.randrange(11, len(one) - 1)
            lie = self.rng.choice((b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0"))
            frames[at] = (one[:place] + lie + one[place + len(lie) :])[: len(one) - 1] + one[-1:]

    def _other_method(self, frames: list[bytes]) -> None:
        at, one = self._one(frames)
        if len(one) >= 12:
            frames[at] = one[:7] + U32.pack(self.rng.choice(IDENTS)) + one[11:]

    def _other_channel(self, frames: list[bytes]) -> None:
        at, one = self._one(frames)
        frames[at] = one[:1] + self.rng.choice(NUMBERS).to_bytes(2, "big") + one[3:]

    def _other_kind(self, frames: list[bytes]) -> None:
        at, one = self._one(frames)
        frames[at] = bytes((self.rng.choice(OCTETS),)) + one[1:]

    def _other_tag(self, frames: list[bytes]) -> None:
        """Where an ack has its tag, and a header its size."""
        at, one = self._one(frames)
        if len(one) >= 20:
            frames[at] = one[:11] + U64.pack(self.rng.choice(TAGS)) + one[19:]

    def _one(self, frames: list[bytes]) -> tuple[int, bytes]:
        at = self.rng.randrange(len(frames))
        if len(frames[at]) < HEAD.size + 1:
            frames[at] = self.word()
        return at, frames[at]

    # Of bytes.

    def _flip(self, stream: bytearray) -> None:
        for _ in range(self.rng.choice((1, 1, 8))):
            stream[self.rng.randrange(len(stream))] ^= 1 << self.rng.randrange(8)

    def _set(self, stream: bytearray) -> None:
        stream[self.rng.randrange(len(stream))] = self.rng.choice(OCTETS)

    def _cut(self, stream: bytearray) -> None:
        at = self.rng.randrange(len(stream))
        del stream[at : at + self.rng.choice((1, 3, 10_000_000))]

    def _noise(self, stream: bytearray) -> None:
        at = self.rng.randrange(len(stream))
        stream[at:at] = self.rng.randbytes(self.rng.choice((1, 8, 300)))

    OF_FRAMES = (
        _drop, _repeat, _shuffle, _insert, _insert, _insert, _resize, _stretch, _no_end, _length, _other_method,
        _other_channel, _other_kind, _other_tag,
    )  # fmt: skip
    OF_BYTES = (_flip, _set, _cut, _noise)
