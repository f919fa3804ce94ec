"""The hot path from broker to client: walk a chunk's frames in place and let pass what needs no thought.

Both scanners, this and that of `intake.py`, take a region of bytes that starts at a frame and return where the first
incomplete frame begins. What may pass is appended to the output as the chunk itself or as a slice of it; no object is
made for a frame. A frame that changes what the client was promised goes to the owner, which may add output of its own.

Offsets come from the peer, so every one is checked here before it is used.
"""

from __future__ import annotations

from typing import Protocol

from proxy.amqp import peek
from proxy.amqp.content import content_end
from proxy.amqp.frames import (
    ACK_BYTES,
    BODY,
    BODY_BYTES_MAX,
    BROKER_FRAME_MAX_BYTES,
    FRAME_END,
    HEADER,
    HEARTBEAT,
    METHOD,
    OVERHEAD_BYTES,
    Buffer,
    Region,
)
from proxy.amqp.methods import BASIC_ACK, BASIC_DELIVER, BASIC_NACK
from proxy.amqp.wire import U64
from proxy.errors import BrokerError
from proxy.session.channel import CONFIRM, HEADER_DUE, NO_CONTENT, PASSES, RENUMBERED, TAG_GAP_MAX, TX, Channel
from proxy.session.counters import Counters
from proxy.session.identity import unmarked
from proxy.session.setup import ACKED, MIXED, REPLIES
from proxy.session.uplink import Uplink

# So many times `delivery_hold_bytes_max` is held back for all channels of a client. A broker ends one content before it
# begins the next, so only one that does not would get there.
HOLDS_MAX = 16


class BrokerOwner(Protocol):
    """What the broker's scanner needs of the session."""

    channels: list[Channel | None]
    counters: Counters
    client_out: list[Buffer]
    hold_bytes_max: int
    speaker: Uplink

    def broker_frame(self, kind: int, number: int, frame: bytes) -> bool:
        """Think about a frame that may not simply pass; False if the rest of what this broker says is void."""
        ...

    def broker_confirm(self, channel: Channel, tag: int, multiple: bool, nack: bool) -> None:
        """A confirm that the client does not expect, or under another number."""
        ...

    def returned(self, channel: Channel) -> None:
        """A publish that no queue took is held whole by its channel."""
        ...


def scan_broker(owner: BrokerOwner, buf: bytes, pos: int) -> int:
    """Broker to client. A delivery is passed on when its last body frame is here, or streams if it is too large.

    Raises `BrokerError` for what no broker may send.
    """
    walk = _BrokerWalk(owner, buf, pos)
    try:
        return walk.walk(pos)
    except BrokerError:
        # What is whole has been counted as shown: confirms as settled, a place in a stream as read.
        walk.emit_whole()
        raise


class _BrokerWalk:
    """One walk over a region of the broker's bytes.

    `inline` is the channel of a content that began at `inline_at` and has not ended: as long as no other frame comes
    between, its bytes need no holding until the region ends. `at` is the frame that is looked at. What goes to the
    client is the region itself, in which numbers become the client's.
    """

    __slots__ = (
        "at",
        "buf",
        "channels",
        "counters",
        "inline",
        "inline_at",
        "mark",
        "out",
        "owner",
        "speaker",
        "writable",
    )

    def __init__(self, owner: BrokerOwner, buf: bytes, pos: int) -> None:
        self.owner = owner
        self.counters = owner.counters
        self.channels = owner.channels
        self.out = owner.client_out
        self.speaker = owner.speaker
        self.buf: Region = buf
        self.writable = False
        self.mark = pos
        self.at = pos
        self.inline: Channel | None = None
        self.inline_at = 0

    def walk(self, pos: int) -> int:
        buf = self.buf
        end = len(buf)
        channels = self.channels
        while end - pos >= OVERHEAD_BYTES:
            self.at = pos
            kind = buf[pos]
            number = peek.u16(buf, pos + 1)
            size = peek.u32(buf, pos + 3)
            if size > BROKER_FRAME_MAX_BYTES:
                raise BrokerError(f"broker sent a frame of {size} bytes")
            stop = pos + size + OVERHEAD_BYTES
            if stop > end:
                break
            if buf[stop - 1] != FRAME_END:
                raise BrokerError("broker sent a frame that does not end with 206")
            channel = channels[number] if number < len(channels) else None
            if channel is not None and channel.uplink is not self.speaker:
                channel = None
            if self.inline is not None and channel is not self.inline:
                self.hold_inline(pos)
            passed = self.passes(channel, kind, pos, stop) if channel is not None and not channel.muted else 0
            if not passed:
                if self.inline is not None:
                    self.hold_inline(pos)  # it is interrupted on its own channel, by what has no place there
                self.emit_upto(pos, stop)
                if kind != HEARTBEAT and not self.owner.broker_frame(kind, number, bytes(buf[pos:stop])):
                    return end
            pos = passed or stop
        if self.inline is not None:
            self.hold_inline(pos)
        self.emit_upto(pos, pos)
        return pos

    def passes(self, channel: Channel, kind: int, pos: int, stop: int) -> int:
        """Deal with a frame that needs little thought; where the next one begins, 0 for any other frame."""
        size = stop - pos - OVERHEAD_BYTES
        if kind == BODY or kind == HEADER:  # noqa: SIM109 - two comparisons are cheaper than a tuple
            self.content(channel, kind, pos, size)
            return stop
        if kind != METHOD or size < 4:
            return 0
        if channel.deliver_left != NO_CONTENT:
            raise BrokerError("broker sent a method inside content")
        ident = peek.u32(self.buf, pos + 7)
        if ident == BASIC_DELIVER:
            return self.deliver(channel, pos, stop)
        if size == ACK_BYTES and channel.ledgered and ident in (BASIC_ACK, BASIC_NACK):
            self.confirm(channel, ident, pos)
            return stop
        return 0

    def content(self, channel: Channel, kind: int, pos: int, size: int) -> None:
        complete = _delivered(channel, kind, self.buf, pos, size)
        if channel.reader is not None:
            channel.follow(bytes(self.buf[pos + 7 : pos + 7 + size]) if kind == HEADER else b"", complete)
        if channel.held is not None:
            stop = pos + size + OVERHEAD_BYTES
            self.emit_upto(pos, stop)
            _hold(channel, self.out, self.buf, pos, stop, self.owner.hold_bytes_max)
            if complete and channel.returning:
                self.owner.returned(channel)
            elif complete:
                self.show(channel, channel.release())
        if complete:
            self.inline = None
            channel.streaming = False
            channel.held_get = None

    def show(self, channel: Channel, content: list[Buffer]) -> None:
        """A content that was held is complete."""
        if channel.handed is not None and content:
            content = channel.handed.arrived(content)
        if channel.arrears is not None:
            channel.arrears.take(content, channel.window, self.out)
        else:
            self.out.extend(content)

    def deliver(self, channel: Channel, pos: int, stop: int) -> int:
        buf = self.buf
        tag_at = pos + 12 + buf[pos + 11]
        if tag_at + 8 >= stop:
            # A hostile consumer-tag length would put the tag outside its frame.
            raise BrokerError("delivery-tag outside its frame")
        self.counters.deliveries += 1
        tag = peek.u64(buf, tag_at) + channel.offset
        no_ack = channel.no_ack
        if no_ack == MIXED:
            no_ack = channel.consumer_no_ack(bytes(buf[pos + 12 : tag_at]))
        if no_ack != REPLIES:
            if not 0 < tag - channel.window.top <= TAG_GAP_MAX:
                raise BrokerError("broker used a delivery tag out of order")
            channel.window.top = tag
            if no_ack != ACKED:
                channel.window.settle(tag)
        if channel.readers is not None:
            channel.reader = channel.readers.get(bytes(buf[pos + 12 : tag_at]))
            if channel.reader is None:
                channel.read_since = tag
        if channel.reader is None and channel.handed is None and channel.arrears is None:
            whole = content_end(buf, stop, channel.number, BROKER_FRAME_MAX_BYTES)
            if whole:
                if channel.offset:
                    peek.put64(self.own(), tag_at, tag)
                return whole
        channel.deliver_left = HEADER_DUE
        if channel.rewrites:
            self.emit_upto(pos, stop)
            channel.hold(buf[pos:tag_at] + U64.pack(tag) + buf[tag_at + 8 : stop], stop - pos)
        else:
            self.inline = channel
            self.inline_at = pos
        return stop

    def confirm(self, channel: Channel, ident: int, pos: int) -> None:
        tag = peek.u64(self.buf, pos + 11)
        multiple = bool(self.buf[pos + 19] & 1)
        if ident == BASIC_ACK and channel.confirm_path == PASSES:
            self.counters.confirms += channel.ledger.settle(tag, multiple)
        elif ident != BASIC_ACK or channel.confirm_path != RENUMBERED or not self.renumber(channel, tag, multiple, pos):
            self.emit_upto(pos, pos + ACK_BYTES + OVERHEAD_BYTES)
            self.owner.broker_confirm(channel, tag, multiple, ident == BASIC_NACK)

    def renumber(self, channel: Channel, tag: int, multiple: bool, pos: int) -> bool:
        """Settle publishes under their own numbers; False if somebody waits for them, or they were never sent."""
        ledger = channel.ledger
        number = ledger.number_of(tag) if tag > 0 else 0
        waited_for = channel.restart_deadline is not None or channel.settling is not None
        if waited_for or not 0 < number <= ledger.window.top:
            return False
        settled = ledger.settle(number, multiple)
        self.counters.confirms += settled
        if settled and channel.mode == CONFIRM and number > channel.confirm_base:
            peek.put64(self.own(), pos + 11, number - channel.confirm_base)
        else:
            self.emit_upto(pos, pos + ACK_BYTES + OVERHEAD_BYTES)
        return True

    def own(self) -> Region:
        """The region, to be changed: the frames before the one that is looked at are as they shall be."""
        if not self.writable:
            self.writable = True
            self.buf = peek.owned(self.buf)
        return self.buf

    def emit_upto(self, pos: int, mark: int) -> None:
        emit(self.out, self.buf, self.mark, pos)
        self.mark = mark

    def emit_whole(self) -> None:
        """The frame at `at` is a mistake: what came before it counts, but for a content that it interrupts."""
        self.emit_upto(self.at if self.inline is None else self.inline_at, len(self.buf))

    def hold_inline(self, pos: int) -> None:
        """The content is not complete and something else comes now: keep what is here of it."""
        channel = self.inline
        assert channel is not None
        self.emit_upto(self.inline_at, pos)
        _hold(channel, self.out, self.buf, self.inline_at, pos, self.owner.hold_bytes_max)
        self.inline = None


def emit(out: list[Buffer], buf: Buffer, start: int, stop: int) -> None:
    """Add a part of a region to an output, without copying it."""
    if stop > start:
        out.append(buf if stop - start == len(buf) else memoryview(buf)[start:stop])


def _delivered(channel: Channel, kind: int, buf: Region, pos: int, size: int) -> bool:
    """Count a content frame of the broker; True if the content is complete with it."""
    if kind == HEADER:
        if channel.deliver_left != HEADER_DUE or size < 14:
            raise BrokerError("broker sent a content header where none is due")
        announced = peek.u64(buf, pos + 11)
        if announced > BODY_BYTES_MAX:
            raise BrokerError("broker announced a body beyond all sizes")
        channel.deliver_left = announced or NO_CONTENT
    else:
        left = channel.deliver_left - size
        if left < 0:
            raise BrokerError("broker sent a content body where none is due")
        channel.deliver_left = left or NO_CONTENT
    return channel.deliver_left == NO_CONTENT


def _hold(channel: Channel, out: list[Buffer], buf: Region, start: int, stop: int, limit_bytes: int) -> None:
    """Hold back a piece of an incomplete delivery; beyond the limit it streams, and a loss in mid-body will show."""
    channel.hold(memoryview(buf)[start:stop], stop - start)
    if channel.held_bytes <= limit_bytes and channel.load.held_bytes <= HOLDS_MAX * limit_bytes:
        return
    if channel.returning and channel.mode == TX and channel.held_bytes <= channel.load.unsettled_bytes_max:
        return
    if not channel.returning or channel.mode == TX:
        if channel.arrears is not None:
            channel.arrears.flush(out)
        content = channel.release()
        if channel.handed is not None:
            unmarked(content)
        out.extend(content)
        channel.streaming = True
    elif channel.held_bytes > channel.load.unsettled_bytes + limit_bytes:
        raise BrokerError("broker returned what nobody published")
