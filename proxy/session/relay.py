"""The hot path: walk a chunk's frames in place and let pass what needs no thought.

Both scanners take a region of bytes that starts at a frame and return where the first incomplete frame begins. What
may pass is appended to the output as the chunk itself or as a slice of it; no object is made for a frame. A frame
that changes what the client was promised goes to the owner, which may add output of its own.

Offsets come from the peer, so every one is checked here before it is used.
"""

from __future__ import annotations

from typing import Protocol

from proxy.amqp.frames import BODY, FRAME_END, HEAD, HEADER, HEARTBEAT, METHOD, OVERHEAD_BYTES, Buffer
from proxy.amqp.methods import BASIC_ACK, BASIC_DELIVER, BASIC_NACK, BASIC_PUBLISH, BASIC_REJECT
from proxy.amqp.wire import U32, U64
from proxy.errors import BrokerError, ClientError
from proxy.session.channel import ACKED, HEADER_DUE, MIXED, NO_CONTENT, PLAIN, TX, Channel
from proxy.session.counters import Counters

# RabbitMQ sends a header frame larger than frame_max when headers are large; this bounds what is believed at all.
BROKER_FRAME_MAX_BYTES = 128 * 1024 * 1024

_ACK_BYTES = 13  # class, method, tag, one octet of bits


class ClientOwner(Protocol):
    """What the client's scanner needs of the session."""

    channels: list[Channel | None]
    counters: Counters
    covers_publishes: bool
    broker_out: list[Buffer]

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

    def broker_frame(self, kind: int, number: int, frame: bytes) -> None:
        """Think about a frame that may not simply pass."""
        ...

    def broker_confirm(self, channel: Channel, tag: int, multiple: bool, nack: bool) -> None:
        """A confirm that the client does not expect, or under another number."""
        ...


def scan_client(owner: ClientOwner, buf: bytes, pos: int, size_max: int) -> int:
    """Client to broker. `size_max` is the largest payload the client may send (frame_max - 8).

    Raises `ClientError`: 501 for what is no frame, 505 for a frame where another one is due.
    """
    channels = owner.channels
    out = owner.broker_out
    end = len(buf)
    mark = pos
    recording: Channel | None = None  # whose publishes buf[run_at:pos] are
    run_at = run_count = 0
    while end - pos >= OVERHEAD_BYTES:
        kind, number, size = HEAD.unpack_from(buf, pos)
        if size > size_max:
            raise ClientError(f"frame of {size} bytes exceeds the negotiated maximum", reply_code=501)
        stop = pos + size + OVERHEAD_BYTES
        if stop > end:
            break
        if buf[stop - 1] != FRAME_END:
            raise ClientError("frame does not end with 206", reply_code=501)
        channel = channels[number] if number < len(channels) else None
        if channel is not None and channel.flowing:
            if kind == METHOD and size >= 4:
                if channel.publish_left != NO_CONTENT:
                    raise ClientError("method frame inside content", reply_code=505)
                ident = U32.unpack_from(buf, pos + 7)[0]
            else:
                ident = 0
            if ident == BASIC_PUBLISH or kind in (BODY, HEADER):
                if ident == BASIC_PUBLISH:
                    owner.counters.publishes += 1
                    if not channel.ledgered:
                        if channel.mode == TX:
                            channel.tx_dirty = True
                        elif channel.mode == PLAIN and owner.covers_publishes:
                            _emit(out, buf, mark, pos)
                            mark = pos
                            owner.cover_publishes(channel)
                    channel.publish_left = HEADER_DUE
                else:
                    _content(channel, kind, buf, pos, size)
                if recording is not channel:
                    if recording is not None:
                        _record(recording, buf, run_at, pos, run_count)
                        recording = None
                    if channel.ledgered:
                        recording = channel
                        run_at = pos
                        run_count = 0
                if recording is not None:
                    if ident == BASIC_PUBLISH:
                        run_count += 1
                    elif channel.ledger.unfinished and channel.publish_left == NO_CONTENT:
                        # What began in an earlier region ends here: its run must not go on growing.
                        _record(channel, buf, run_at, stop, run_count)
                        recording = None
                pos = stop
                continue
            if recording is not None:
                _record(recording, buf, run_at, pos, run_count)
                recording = None
            if size == _ACK_BYTES and ident in (BASIC_ACK, BASIC_REJECT, BASIC_NACK):
                owner.counters.settles += 1
                tag = U64.unpack_from(buf, pos + 11)[0]
                bits = buf[pos + 19]
                if channel.mode == TX:
                    channel.tx_dirty = True
                if channel.offset:
                    _emit(out, buf, mark, pos)
                    mark = stop
                    owner.translate_settle(channel, ident, tag, bits)
                elif ident != BASIC_REJECT and bits & 1:
                    channel.window.settle_upto(tag or channel.window.top)
                else:
                    channel.window.settle(tag)
                pos = stop
                continue
        elif recording is not None:
            _record(recording, buf, run_at, pos, run_count)
            recording = None
        _emit(out, buf, mark, pos)
        mark = stop
        if kind != HEARTBEAT:
            owner.client_frame(kind, number, buf[pos:stop])
            out = owner.broker_out
        pos = stop
    if recording is not None:
        _record(recording, buf, run_at, pos, run_count)
    _emit(out, buf, mark, pos)
    return pos


def scan_broker(owner: BrokerOwner, buf: bytes, pos: int) -> int:
    """Broker to client. A delivery is passed on when its last body frame is here, or streams if it is too large.

    Raises `BrokerError` for what no broker may send.
    """
    channels = owner.channels
    out = owner.client_out
    end = len(buf)
    mark = pos
    inline: Channel | None = None  # its content began at `inline_at` and has not ended; not yet held
    inline_at = 0
    while end - pos >= OVERHEAD_BYTES:
        kind, number, size = HEAD.unpack_from(buf, pos)
        if size > BROKER_FRAME_MAX_BYTES:
            raise BrokerError(f"broker sent a frame of {size} bytes")
        stop = pos + size + OVERHEAD_BYTES
        if stop > end:
            break
        if buf[stop - 1] != FRAME_END:
            raise BrokerError("broker sent a frame that does not end with 206")
        channel = channels[number] if number < len(channels) else None
        if inline is not None and channel is not inline:
            _emit(out, buf, mark, inline_at)
            _hold(inline, out, buf, inline_at, pos, owner.hold_bytes_max)
            mark = pos
            inline = None
        if channel is not None and not channel.muted:
            if kind in (BODY, HEADER):
                complete = _delivered(channel, kind, buf, pos, size)
                if channel.held is not None:
                    _emit(out, buf, mark, pos)
                    _hold(channel, out, buf, pos, stop, owner.hold_bytes_max)
                    mark = stop
                    if complete:
                        out.extend(channel.release())
                if complete:
                    inline = None
                    channel.streaming = False
                    channel.held_get = None
                pos = stop
                continue
            ident = U32.unpack_from(buf, pos + 7)[0] if kind == METHOD and size >= 4 else 0
            if channel.deliver_left != NO_CONTENT:
                raise BrokerError("broker sent a method inside content")
            if ident == BASIC_DELIVER:
                tag_at = pos + 12 + buf[pos + 11]
                if tag_at + 8 >= stop:
                    # A hostile consumer-tag length would put the tag outside its frame.
                    raise BrokerError("delivery-tag outside its frame")
                owner.counters.deliveries += 1
                tag = U64.unpack_from(buf, tag_at)[0] + channel.offset
                _issue(channel, tag)
                if channel.no_ack != ACKED and (
                    channel.no_ack != MIXED or channel.consumer_no_ack(buf[pos + 12 : tag_at])
                ):
                    channel.window.settle(tag)
                channel.deliver_left = HEADER_DUE
                if channel.offset:
                    _emit(out, buf, mark, pos)
                    mark = stop
                    channel.hold(buf[pos:tag_at] + U64.pack(tag) + buf[tag_at + 8 : stop], size)
                else:
                    inline = channel
                    inline_at = pos
                pos = stop
                continue
            if size == _ACK_BYTES and ident in (BASIC_ACK, BASIC_NACK) and channel.ledgered:
                tag = U64.unpack_from(buf, pos + 11)[0]
                multiple = bool(buf[pos + 19] & 1)
                if channel.confirm_passes and ident == BASIC_ACK:
                    owner.counters.confirms += channel.ledger.settle(tag, multiple)
                else:
                    _emit(out, buf, mark, pos)
                    mark = stop
                    owner.broker_confirm(channel, tag, multiple, ident == BASIC_NACK)
                pos = stop
                continue
        _emit(out, buf, mark, pos)
        mark = stop
        if kind != HEARTBEAT:
            owner.broker_frame(kind, number, buf[pos:stop])
        pos = stop
    if inline is not None:
        _emit(out, buf, mark, inline_at)
        _hold(inline, out, buf, inline_at, pos, owner.hold_bytes_max)
    else:
        _emit(out, buf, mark, pos)
    return pos


def _emit(out: list[Buffer], buf: bytes, start: int, stop: int) -> None:
    if stop > start:
        out.append(buf if stop - start == len(buf) else memoryview(buf)[start:stop])


def _record(channel: Channel, buf: bytes, start: int, stop: int, count: int) -> None:
    channel.ledger.record(buf, start, stop, count, channel.publish_left != NO_CONTENT)


def _content(channel: Channel, kind: int, buf: bytes, pos: int, size: int) -> None:
    if kind == HEADER:
        if channel.publish_left != HEADER_DUE or size < 14:
            raise ClientError("content header where none is due", reply_code=505)
        channel.publish_left = U64.unpack_from(buf, pos + 11)[0] or NO_CONTENT
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
        channel.deliver_left = U64.unpack_from(buf, pos + 11)[0] or NO_CONTENT
    else:
        left = channel.deliver_left - size
        if left < 0:
            raise BrokerError("broker sent a content body where none is due")
        channel.deliver_left = left or NO_CONTENT
    return channel.deliver_left == NO_CONTENT


def _issue(channel: Channel, tag: int) -> None:
    if tag <= channel.window.top:
        raise BrokerError("broker used a delivery tag twice")
    channel.window.top = tag


def _hold(channel: Channel, out: list[Buffer], buf: bytes, start: int, stop: int, limit_bytes: int) -> None:
    """Hold back a piece of an incomplete delivery; beyond the limit it streams, and a loss in mid-body will show."""
    channel.hold(memoryview(buf)[start:stop], stop - start)
    if channel.held_bytes > limit_bytes:
        out.extend(channel.release())
        channel.streaming = True
