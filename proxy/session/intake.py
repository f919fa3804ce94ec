"""The hot path from client to broker: walk a chunk's frames in place, and keep publishes until a broker has them."""

from __future__ import annotations

from typing import Protocol

from proxy.amqp import peek
from proxy.amqp.content import content_end
from proxy.amqp.frames import (
    ACK_BYTES,
    BODY,
    BODY_BYTES_MAX,
    FRAME_END,
    HEAD,
    HEADER,
    HEARTBEAT,
    METHOD,
    OVERHEAD_BYTES,
    Buffer,
    Region,
)
from proxy.amqp.methods import BASIC_ACK, BASIC_NACK, BASIC_PUBLISH, BASIC_REJECT
from proxy.errors import ClientError
from proxy.session.channel import HEADER_DUE, NO_CONTENT, PLAIN, TX, Channel
from proxy.session.counters import Counters
from proxy.session.ledger import forcible
from proxy.session.relay import emit

# Where the route of a publish begins in its frame: behind the frame's head, the method's number and the ticket.
ROUTE_AT = HEAD.size + 6
# The output before the first frame of a channel, which nothing is ever added to.
_NOWHERE: list[Buffer] = []


class ClientOwner(Protocol):
    """What the client's scanner needs of the session."""

    channels: list[Channel | None]
    counters: Counters
    covers_publishes: bool
    forces_mandatory: bool

    def client_frame(self, kind: int, number: int, frame: bytes) -> None:
        """Think about a frame that may not simply pass."""
        ...

    def cover_publishes(self, channel: Channel) -> None:
        """Turn confirms on behind the back of a publisher that uses none."""
        ...

    def wants_back(self, channel: Channel, route: bytes) -> None:
        """A publish of a transaction is mandatory by the client's own wish; `route` as in the frame."""
        ...

    def translate_settle(self, channel: Channel, ident: int, tag: int, bits: int) -> None:
        """Ack, reject or nack on a channel where they do not pass as they are."""
        ...


def scan_client(owner: ClientOwner, buf: bytes, pos: int, size_max: int) -> int:
    """Client to broker. `size_max` is the largest payload the client may send.

    Raises `ClientError`: 501 for what is no frame, 505 for a frame where another one is due.
    """
    return _ClientWalk(owner, buf, pos, size_max).walk(pos)


class _ClientWalk:
    """One walk over a region. `mark` is where the bytes begin that are not in the output yet.

    `out` is the output of the broker connection of the channel that spoke last: on the move a session has two.
    What goes there, and is kept, is the region itself: in it publishes become mandatory, and numbers the broker's.
    """

    __slots__ = (
        "asked_back",
        "buf",
        "channels",
        "counters",
        "forces_mandatory",
        "mark",
        "out",
        "owner",
        "recording",
        "run_at",
        "run_count",
        "size_max",
        "writable",
    )

    def __init__(self, owner: ClientOwner, buf: bytes, pos: int, size_max: int) -> None:
        self.owner = owner
        self.forces_mandatory = owner.forces_mandatory
        self.size_max = size_max
        self.counters = owner.counters
        self.channels = owner.channels
        self.out = _NOWHERE
        self.buf: Region = buf
        self.writable = False
        self.mark = pos
        # buf[run_at:pos] are publish frames of this channel, `run_count` publishes begin there; `asked_back` tells
        # whether their client wants to have those back that no queue takes.
        self.recording: Channel | None = None
        self.asked_back = 0
        self.run_at = 0
        self.run_count = 0

    def walk(self, pos: int) -> int:
        buf = self.buf
        end = len(buf)
        channels = self.channels
        size_max = self.size_max
        while end - pos >= OVERHEAD_BYTES:
            kind = buf[pos]
            number = peek.u16(buf, pos + 1)
            size = peek.u32(buf, pos + 3)
            if size > size_max:
                raise ClientError(f"frame of {size} bytes exceeds the negotiated maximum", reply_code=501)
            stop = pos + size + OVERHEAD_BYTES
            if stop > end:
                break
            if buf[stop - 1] != FRAME_END:
                raise ClientError("frame does not end with 206", reply_code=501)
            channel = channels[number] if number < len(channels) else None
            if channel is not None and channel.out is not self.out:
                emit(self.out, self.buf, self.mark, pos)
                self.mark = pos
                self.out = channel.out
            passed = self.passes(channel, kind, pos, stop) if channel is not None and channel.flowing else 0
            if not passed:
                self.end_run(pos)
                emit(self.out, self.buf, self.mark, pos)
                self.mark = stop
                if kind != HEARTBEAT:
                    self.owner.client_frame(kind, number, bytes(buf[pos:stop]))
            pos = passed or stop
        self.end_run(pos)
        emit(self.out, self.buf, self.mark, pos)
        return pos

    def passes(self, channel: Channel, kind: int, pos: int, stop: int) -> int:
        """Deal with a frame of a flowing channel that needs little thought; where the next one begins, 0 if it does."""
        size = stop - pos - OVERHEAD_BYTES
        if kind == BODY or kind == HEADER:  # noqa: SIM109 - two comparisons are cheaper than a tuple
            _content(channel, kind, self.buf, pos, size)
            self.record(channel, pos, stop, 0)
            return stop
        if kind != METHOD or size < 4:
            return 0
        if channel.publish_left != NO_CONTENT:
            raise ClientError("method frame inside content", reply_code=505)
        ident = peek.u32(self.buf, pos + 7)
        if ident == BASIC_PUBLISH:
            return self.publish(channel, pos, stop)
        if size == ACK_BYTES and ident in (BASIC_ACK, BASIC_REJECT, BASIC_NACK):
            self.end_run(pos)
            self.settle(channel, ident, pos)
            return stop
        return 0

    def publish(self, channel: Channel, pos: int, stop: int) -> int:
        owner = self.owner
        self.counters.publishes += 1
        if not channel.ledgered:
            if channel.mode == TX:
                channel.tx_dirty = True
            elif channel.mode == PLAIN and owner.covers_publishes:
                emit(self.out, self.buf, self.mark, pos)
                self.mark = pos
                owner.cover_publishes(channel)
        bits = self.buf[stop - 2]
        asked_back = bits & 1
        if self.recording is not None and (self.recording is not channel or asked_back != self.asked_back):
            self.end_run(pos)  # before it would be taken for unfinished
        self.asked_back = asked_back
        whole = content_end(self.buf, stop, channel.number, self.size_max)
        if not whole:
            channel.publish_left = HEADER_DUE
        if self.forces_mandatory and (channel.ledgered or channel.mode == TX):
            if asked_back:
                if channel.mode == TX:
                    owner.wants_back(channel, bytes(self.buf[pos + ROUTE_AT : stop - 2]))
            elif forcible(self.buf, pos, stop):
                peek.put8(self.own(), stop - 2, bits | 1)
        self.record(channel, pos, whole or stop, 1)
        return whole or stop

    def own(self) -> Region:
        """The region, to be changed: the frames before the one that is looked at are as they shall be."""
        if not self.writable:
            self.writable = True
            self.buf = peek.owned(self.buf)
        return self.buf

    def record(self, channel: Channel, pos: int, stop: int, publishes: int) -> None:
        """Add a publish's frame to the run of its channel, if the channel keeps a ledger."""
        if self.recording is not channel:
            self.end_run(pos)
            if not channel.ledgered:
                return
            self.recording = channel
            self.run_at = pos
            self.run_count = 0
        self.run_count += publishes
        if channel.publish_left == NO_CONTENT and channel.ledger.unfinished:
            # What began in an earlier region ends here: its run must not go on growing.
            self.end_run(stop)

    def end_run(self, pos: int) -> None:
        channel = self.recording
        if channel is not None:
            unfinished = channel.publish_left != NO_CONTENT
            channel.ledger.record(self.buf, self.run_at, pos, self.run_count, unfinished, self.asked_back)
            self.recording = None

    def settle(self, channel: Channel, ident: int, pos: int) -> None:
        """Ack, reject or nack of deliveries."""
        self.counters.settles += 1
        tag = peek.u64(self.buf, pos + 11)
        bits = self.buf[pos + 19]
        if channel.mode == TX:
            channel.tx_dirty = True
        single = ident == BASIC_REJECT or not bits & 1
        if single and (not channel.rewrites or self.renumber(channel, tag, pos)):
            channel.window.settle(tag)
        elif channel.rewrites:
            emit(self.out, self.buf, self.mark, pos)
            self.mark = pos + ACK_BYTES + OVERHEAD_BYTES
            self.owner.translate_settle(channel, ident, tag, bits)
        else:
            channel.window.settle_upto(tag or channel.window.top)

    def renumber(self, channel: Channel, tag: int, pos: int) -> bool:
        """Give the settling of one delivery its number at the present broker; False if there is more to it."""
        if tag <= channel.offset or channel.arrears is not None or channel.handed is not None:
            return False
        peek.put64(self.own(), pos + 11, tag - channel.offset)
        return True


def _content(channel: Channel, kind: int, buf: Region, pos: int, size: int) -> None:
    if kind == HEADER:
        if channel.publish_left != HEADER_DUE or size < 14:
            raise ClientError("content header where none is due", reply_code=505)
        announced = peek.u64(buf, pos + 11)
        if announced > BODY_BYTES_MAX:
            raise ClientError("content header announces too much", reply_code=501)
        channel.publish_left = announced or NO_CONTENT
        return
    left = channel.publish_left - size
    if left < 0:
        raise ClientError("content body where none is due, or longer than announced", reply_code=505)
    channel.publish_left = left or NO_CONTENT
