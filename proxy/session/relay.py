"""The hot path: walk a chunk's frames in place and let pass what needs no thought.

Both scanners take a region of bytes that starts at a frame and return where the first incomplete frame begins. What
may pass is appended to the output as the chunk itself or as a slice of it; no object is made for a frame. A frame
that changes what the client was promised goes to the owner, which may add output of its own.

Offsets come from the peer, so every one is checked here before it is used.
"""

from __future__ import annotations

from typing import Protocol

from proxy.amqp.frames import BODY, FRAME_END, HEADER, HEARTBEAT, METHOD, OVERHEAD_BYTES, Buffer
from proxy.amqp.methods import BASIC_ACK, BASIC_DELIVER, BASIC_NACK, BASIC_PUBLISH, BASIC_REJECT
from proxy.amqp.peek import u16, u32, u64
from proxy.amqp.wire import U64
from proxy.errors import BrokerError, ClientError
from proxy.session.channel import ACKED, HEADER_DUE, MIXED, NO_CONTENT, PLAIN, TX, Channel
from proxy.session.counters import Counters
from proxy.session.ledger import force_mandatory
from proxy.session.uplink import Uplink

# RabbitMQ sends a header frame larger than frame_max when headers are large; this bounds what is believed at all.
BROKER_FRAME_MAX_BYTES = 128 * 1024 * 1024

_ACK_BYTES = 13  # class, method, tag, one octet of bits

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

    def translate_settle(self, channel: Channel, ident: int, tag: int, bits: int) -> None:
        """Ack, reject or nack on a channel whose tags differ from the broker's."""
        ...


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


def scan_client(owner: ClientOwner, buf: bytes, pos: int, size_max: int) -> int:
    """Client to broker. `size_max` is the largest payload the client may send.

    Raises `ClientError`: 501 for what is no frame, 505 for a frame where another one is due.
    """
    return _ClientWalk(owner, buf, pos).walk(pos, size_max)


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


class _ClientWalk:
    """One walk over a region. `mark` is where the bytes begin that are not in the output yet.

    `out` is the output of the broker connection of the channel that spoke last: on the move a session has two.
    `sent` is what goes there: the region, or `forced`, a copy in which publishes have become mandatory.
    """

    __slots__ = (
        "buf",
        "channels",
        "counters",
        "forced",
        "mark",
        "out",
        "owner",
        "recording",
        "run_at",
        "run_count",
        "sent",
    )

    def __init__(self, owner: ClientOwner, buf: bytes, pos: int) -> None:
        self.owner = owner
        self.counters = owner.counters
        self.channels = owner.channels
        self.out = _NOWHERE
        self.buf = buf
        self.sent: Buffer = buf
        self.forced: bytearray | None = None
        self.mark = pos
        # buf[run_at:pos] are publish frames of this channel, `run_count` publishes begin there.
        self.recording: Channel | None = None
        self.run_at = 0
        self.run_count = 0

    def walk(self, pos: int, size_max: int) -> int:
        buf = self.buf
        end = len(buf)
        channels = self.channels
        while end - pos >= OVERHEAD_BYTES:
            kind = buf[pos]
            number = u16(buf, pos + 1)
            size = u32(buf, pos + 3)
            if size > size_max:
                raise ClientError(f"frame of {size} bytes exceeds the negotiated maximum", reply_code=501)
            stop = pos + size + OVERHEAD_BYTES
            if stop > end:
                break
            if buf[stop - 1] != FRAME_END:
                raise ClientError("frame does not end with 206", reply_code=501)
            channel = channels[number] if number < len(channels) else None
            if channel is not None and channel.out is not self.out:
                _emit(self.out, self.sent, self.mark, pos)
                self.mark = pos
                self.out = channel.out
            if channel is None or not channel.flowing or not self.passes(channel, kind, pos, size):
                self.end_run(pos)
                _emit(self.out, self.sent, self.mark, pos)
                self.mark = stop
                if kind != HEARTBEAT:
                    self.owner.client_frame(kind, number, buf[pos:stop])
            pos = stop
        self.end_run(pos)
        _emit(self.out, self.sent, self.mark, pos)
        return pos

    def passes(self, channel: Channel, kind: int, pos: int, size: int) -> bool:
        """Deal with a frame of a flowing channel that needs little thought; False for any other."""
        if kind == BODY or kind == HEADER:  # noqa: SIM109 - two comparisons are cheaper than a tuple
            _content(channel, kind, self.buf, pos, size)
            self.record(channel, pos, pos + size + OVERHEAD_BYTES, 0)
            return True
        if kind != METHOD or size < 4:
            return False
        if channel.publish_left != NO_CONTENT:
            raise ClientError("method frame inside content", reply_code=505)
        ident = u32(self.buf, pos + 7)
        if ident == BASIC_PUBLISH:
            self.publish(channel, pos, pos + size + OVERHEAD_BYTES)
            return True
        if size == _ACK_BYTES and ident in (BASIC_ACK, BASIC_REJECT, BASIC_NACK):
            self.end_run(pos)
            self.settle(channel, ident, pos)
            return True
        return False

    def publish(self, channel: Channel, pos: int, stop: int) -> None:
        owner = self.owner
        self.counters.publishes += 1
        if not channel.ledgered:
            if channel.mode == TX:
                channel.tx_dirty = True
            elif channel.mode == PLAIN and owner.covers_publishes:
                _emit(self.out, self.sent, self.mark, pos)
                self.mark = pos
                owner.cover_publishes(channel)
        if channel.ledgered and owner.forces_mandatory:
            if self.forced is None:
                self.forced = bytearray(self.buf)
                self.sent = memoryview(self.forced)
            force_mandatory(self.forced, pos, stop)
        channel.publish_left = HEADER_DUE
        self.record(channel, pos, stop, 1)

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
            channel.ledger.record(self.buf, self.run_at, pos, self.run_count, unfinished)
            self.recording = None

    def settle(self, channel: Channel, ident: int, pos: int) -> None:
        """Ack, reject or nack of deliveries."""
        self.counters.settles += 1
        tag = u64(self.buf, pos + 11)
        bits = self.buf[pos + 19]
        if channel.mode == TX:
            channel.tx_dirty = True
        if channel.offset:
            _emit(self.out, self.sent, self.mark, pos)
            self.mark = pos + _ACK_BYTES + OVERHEAD_BYTES
            self.owner.translate_settle(channel, ident, tag, bits)
        elif ident != BASIC_REJECT and bits & 1:
            channel.window.settle_upto(tag or channel.window.top)
        else:
            channel.window.settle(tag)


class _BrokerWalk:
    """One walk over a region of the broker's bytes.

    `inline` is the channel of a content that began at `inline_at` and has not ended: as long as no other frame comes
    between, its bytes need no holding until the region ends. `at` is the frame that is looked at.
    """

    __slots__ = ("at", "buf", "channels", "counters", "inline", "inline_at", "mark", "out", "owner", "speaker")

    def __init__(self, owner: BrokerOwner, buf: bytes, pos: int) -> None:
        self.owner = owner
        self.counters = owner.counters
        self.channels = owner.channels
        self.out = owner.client_out
        self.speaker = owner.speaker
        self.buf = buf
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
            number = u16(buf, pos + 1)
            size = u32(buf, pos + 3)
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
            if channel is None or channel.muted or not self.passes(channel, kind, pos, size):
                self.emit_upto(pos, stop)
                if kind != HEARTBEAT and not self.owner.broker_frame(kind, number, buf[pos:stop]):
                    return end
            pos = stop
        if self.inline is not None:
            self.hold_inline(pos)
        self.emit_upto(pos, pos)
        return pos

    def passes(self, channel: Channel, kind: int, pos: int, size: int) -> bool:
        """Deal with a frame that needs little thought; False for any other."""
        if kind == BODY or kind == HEADER:  # noqa: SIM109 - two comparisons are cheaper than a tuple
            self.content(channel, kind, pos, size)
            return True
        if kind != METHOD or size < 4:
            return False
        if channel.deliver_left != NO_CONTENT:
            raise BrokerError("broker sent a method inside content")
        ident = u32(self.buf, pos + 7)
        if ident == BASIC_DELIVER:
            self.deliver(channel, pos, pos + size + OVERHEAD_BYTES)
            return True
        if size == _ACK_BYTES and channel.ledgered and ident in (BASIC_ACK, BASIC_NACK):
            self.confirm(channel, ident, pos)
            return True
        return False

    def content(self, channel: Channel, kind: int, pos: int, size: int) -> None:
        complete = _delivered(channel, kind, self.buf, pos, size)
        if channel.reader is not None:
            channel.follow(self.buf[pos + 7 : pos + 7 + size] if kind == HEADER else b"", complete)
        if channel.held is not None:
            stop = pos + size + OVERHEAD_BYTES
            self.emit_upto(pos, stop)
            _hold(channel, self.out, self.buf, pos, stop, self.owner.hold_bytes_max)
            if complete and channel.returning:
                self.owner.returned(channel)
            elif complete and channel.arrears is not None:
                channel.arrears.take(channel.release(), channel.window, self.out)
            elif complete:
                self.out.extend(channel.release())
        if complete:
            self.inline = None
            channel.streaming = False
            channel.held_get = None

    def deliver(self, channel: Channel, pos: int, stop: int) -> None:
        buf = self.buf
        tag_at = pos + 12 + buf[pos + 11]
        if tag_at + 8 >= stop:
            # A hostile consumer-tag length would put the tag outside its frame.
            raise BrokerError("delivery-tag outside its frame")
        self.counters.deliveries += 1
        tag = u64(buf, tag_at) + channel.offset
        if tag <= channel.window.top:
            raise BrokerError("broker used a delivery tag twice")
        channel.window.top = tag
        if channel.no_ack != ACKED and (channel.no_ack != MIXED or channel.consumer_no_ack(buf[pos + 12 : tag_at])):
            channel.window.settle(tag)
        if channel.readers is not None:
            channel.reader = channel.readers.get(buf[pos + 12 : tag_at])
            if channel.reader is None:
                channel.read_since = tag
        channel.deliver_left = HEADER_DUE
        if channel.offset:
            self.emit_upto(pos, stop)
            channel.hold(buf[pos:tag_at] + U64.pack(tag) + buf[tag_at + 8 : stop], stop - pos)
        else:
            self.inline = channel
            self.inline_at = pos

    def confirm(self, channel: Channel, ident: int, pos: int) -> None:
        tag = u64(self.buf, pos + 11)
        multiple = bool(self.buf[pos + 19] & 1)
        if channel.confirm_passes and ident == BASIC_ACK:
            self.counters.confirms += channel.ledger.settle(tag, multiple)
            return
        self.emit_upto(pos, pos + _ACK_BYTES + OVERHEAD_BYTES)
        self.owner.broker_confirm(channel, tag, multiple, ident == BASIC_NACK)

    def emit_upto(self, pos: int, mark: int) -> None:
        _emit(self.out, self.buf, self.mark, pos)
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


def _emit(out: list[Buffer], buf: Buffer, start: int, stop: int) -> None:
    if stop > start:
        out.append(buf if stop - start == len(buf) else memoryview(buf)[start:stop])


def _content(channel: Channel, kind: int, buf: bytes, pos: int, size: int) -> None:
    if kind == HEADER:
        if channel.publish_left != HEADER_DUE or size < 14:
            raise ClientError("content header where none is due", reply_code=505)
        channel.publish_left = u64(buf, pos + 11) or NO_CONTENT
        return
    left = channel.publish_left - size
    if left < 0:
        raise ClientError("content body where none is due, or longer than announced", reply_code=505)
    channel.publish_left = left or NO_CONTENT


def _delivered(channel: Channel, kind: int, buf: bytes, pos: int, size: int) -> bool:
    """Count a content frame of the broker; True if the content is complete with it."""
    if kind == HEADER:
        if channel.deliver_left != HEADER_DUE or size < 14:
            raise BrokerError("broker sent a content header where none is due")
        channel.deliver_left = u64(buf, pos + 11) or NO_CONTENT
    else:
        left = channel.deliver_left - size
        if left < 0:
            raise BrokerError("broker sent a content body where none is due")
        channel.deliver_left = left or NO_CONTENT
    return channel.deliver_left == NO_CONTENT


def _hold(channel: Channel, out: list[Buffer], buf: bytes, start: int, stop: int, limit_bytes: int) -> None:
    """Hold back a piece of an incomplete delivery; beyond the limit it streams, and a loss in mid-body will show."""
    channel.hold(memoryview(buf)[start:stop], stop - start)
    if channel.held_bytes <= limit_bytes:
        return
    if not channel.returning:
        if channel.arrears is not None:
            channel.arrears.flush(out)
        out.extend(channel.release())
        channel.streaming = True
    elif channel.held_bytes > channel.load.unsettled_bytes + limit_bytes:
        raise BrokerError("broker returned what nobody published")
