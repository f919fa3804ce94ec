"""What the broker says: every frame that may not simply pass from broker to client."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, METHOD, Buffer
from proxy.amqp.wire import U32, U64
from proxy.errors import BrokerError
from proxy.session.attachment import Attachment
from proxy.session.cancellations import Cancellations
from proxy.session.channel import ASKED_MAX, HEADER_DUE, NO_CONTENT, TAG_GAP_MAX, TX, Channel
from proxy.session.commits import Commits
from proxy.session.confirms import Confirms
from proxy.session.journal import Journal
from proxy.session.pending import Pending, answered, refused
from proxy.session.restoration import Restoration
from proxy.session.unrouted import Unrouted
from proxy.session.uplink import Stage, Uplink

ACCESS_REFUSED, RESOURCE_LOCKED = 403, 405
_NAMED_TAG = re.compile(rb"delivery tag (\d{1,19})")
# What no replay has: deliveries are settled by the client alone.
_SETTLING = frozenset((m.BASIC_ACK, m.BASIC_NACK, m.BASIC_REJECT))

# A message's tag is above those of all deliveries before it; a consumer that has ended gets none any more.
_OVERTAKES_NOTHING = (m.BASIC_GET_OK, m.method_id(m.BasicCancelOk))


class Answers:
    """The broker's side of the journal. It is the owner that the broker's scanner talks to."""

    __slots__ = (
        "_cancellations",
        "_commits",
        "_confirms",
        "_flow_asked",
        "_forced",
        "_unrouted",
        "attachment",
        "channels",
        "client_out",
        "counters",
        "hold_bytes_max",
        "journal",
        "restoration",
        "speaker",
    )

    def __init__(
        self,
        journal: Journal,
        attachment: Attachment,
        restoration: Restoration,
        confirms: Confirms,
        commits: Commits,
        unrouted: Unrouted,
        cancellations: Cancellations,
    ) -> None:
        self.journal = journal
        self.restoration = restoration
        self.channels = journal.channels
        self.counters = journal.counters
        self.client_out: list[Buffer] = journal.client_out
        self.hold_bytes_max = journal.policy.delivery_hold_bytes_max
        self.attachment = attachment
        self._confirms = confirms
        self._unrouted = unrouted
        self._commits = commits
        self._forced = journal.policy.forces_mandatory
        self._cancellations = cancellations
        # The broker connection whose bytes are looked at.
        self.speaker: Uplink
        # What was asked with `channel.flow` inside a publish, where no method may stand.
        self._flow_asked: dict[Channel, tuple[Uplink | None, bool]] = {}

    # The owner that the scanner talks to.

    def broker_frame(self, kind: int, number: int, frame: bytes) -> bool:
        """Think about a frame that may not simply pass; False if this broker is left because of it.

        Raises `BrokerError`.
        """
        speaker = self.speaker
        self.journal.stirred = True
        self._think(kind, number, frame)
        return speaker.stage is not Stage.OVER

    def _think(self, kind: int, number: int, frame: bytes) -> None:
        if kind not in (METHOD, HEADER, BODY) or (kind == METHOD and len(frame) < 12):
            raise BrokerError(f"broker sent an unknown frame of type {kind}")
        ident = U32.unpack_from(frame, 7)[0] if kind == METHOD else 0
        if number == 0:
            handler = self._CONNECTION.get(ident)
            if handler is None:
                raise BrokerError("broker sent an unexpected method on channel 0")
            handler(self, frame, frame[7:-1])
            return
        if number == self.journal.scratch:
            if self.restoration.uplink is self.speaker:
                self.restoration.scratch_answered(ident, frame[7:-1])
            return
        if number == self.journal.courier:
            self._unrouted.courier_frame(self.speaker, kind, frame)
            return
        channel = self.channels[number] if number < len(self.channels) else None
        if channel is None or channel.awaits_close_ok or channel.uplink is not self.speaker:
            return  # the rest of a channel that is over
        if channel.muted:
            self._while_muted(channel, ident)
            return
        request = answered(channel.pending, ident, frame)
        if request is not None:
            self._answered(channel, request, ident, frame)
            if len(channel.pending) == ASKED_MAX // 2:
                self.journal.lifecycle.settled(channel)
            return
        handler_of = self._CHANNEL.get(ident)
        if handler_of is None:
            raise BrokerError(f"broker sent method {ident >> 16}.{ident & 0xFFFF} that nobody asked for")
        handler_of(self, channel, frame)

    def broker_confirm(self, channel: Channel, tag: int, multiple: bool, nack: bool) -> None:
        """A confirm that the client does not expect, or under another number, or a refusal."""
        self.journal.stirred = True
        self._confirms.take(channel, tag, multiple, nack)

    def returned(self, channel: Channel) -> None:
        """A publish that no queue took is here again, whole."""
        self.journal.stirred = True
        if channel.mode == TX:
            self._commits.returned(channel)
        else:
            self._unrouted.returned(channel)

    # Channel 0.

    def _close(self, frame: bytes, payload: bytes) -> None:
        self.journal.lifecycle.broker_closes(self.speaker, m.decode(m.ConnectionClose, payload))

    def _close_ok(self, frame: bytes, payload: bytes) -> None:
        self.journal.lifecycle.broker_is_told(self.speaker)

    def _blocked(self, frame: bytes, payload: bytes) -> None:
        self.speaker.blocked = True
        self.speaker.blocked_at = self.journal.now
        self.journal.review_blocked(m.decode(m.ConnectionBlocked, payload))

    def _unblocked(self, frame: bytes, payload: bytes) -> None:
        self.speaker.blocked = False
        self.journal.review_blocked(m.ConnectionUnblocked())

    def _secret_updated(self, frame: bytes, payload: bytes) -> None:
        journal = self.journal
        if not self.speaker.secrets_asked or journal.credentials is None:
            raise BrokerError("broker answered an update-secret that nobody asked for")
        self.speaker.secrets_asked -= 1
        if self.speaker is not journal.uplink or not journal.secret_updates:
            return  # the answer of the broker that matters is the client's
        secret, _ = journal.secret_updates.pop(0)
        journal.credentials = journal.credentials.with_secret(secret)
        self.client_out.append(frame)

    # Channels.

    def _while_muted(self, channel: Channel, ident: int) -> None:
        if ident == m.CHANNEL_CLOSE_OK:
            channel.muted = False
        elif ident == m.CHANNEL_CLOSE:
            channel.tell_broker(m.ChannelCloseOk())

    def _answered(self, channel: Channel, request: Pending, ident: int, frame: bytes) -> None:
        channel.pending.remove(request)
        # A cancel of ours is not the end of a consumer to the client.
        if channel.arrears is not None and ident in _OVERTAKES_NOTHING and not _is_ours(request):
            channel.arrears.flush(self.client_out)
        if ident == m.BASIC_GET_OK:
            self._got(channel, request, frame)
            return
        if request.commit is not None:
            self._commits.answered(channel, request.commit, frame)
            return
        if request.answered is not None:
            request.answered(frame[7:-1])
        if not request.hidden and not request.silent:
            self.client_out.append(frame)
        if (request.hidden or request.declared_before) and not channel.hidden_pending:
            self.journal.lifecycle.replayed(channel)

    def _got(self, channel: Channel, request: Pending, frame: bytes) -> None:
        """A message that was asked for: its tag shares the count of the deliveries."""
        if len(frame) < 20:
            raise BrokerError("delivery-tag outside its frame")
        self.counters.deliveries += 1
        tag = U64.unpack_from(frame, 11)[0] + channel.offset
        if not 0 < tag - channel.window.top <= TAG_GAP_MAX:
            raise BrokerError("broker used a delivery tag out of order")
        channel.window.top = channel.read_since = tag
        if request.no_ack:
            channel.window.settle(tag)
        channel.held_get = request
        channel.deliver_left = HEADER_DUE
        channel.hold(frame[:11] + U64.pack(tag) + frame[19:], len(frame))

    def _return(self, channel: Channel, frame: bytes) -> None:
        # With a mark it is not what the client has published.
        theirs = not channel.ledgered and channel.mode != TX
        channel.returning = not theirs and (self._forced or self.journal.stamp is not None)
        self.counters.returns += not channel.returning
        channel.deliver_left = HEADER_DUE
        channel.hold(frame, len(frame))

    def _flow(self, channel: Channel, frame: bytes) -> None:
        self._flow_asked[channel] = (channel.uplink, m.decode(m.ChannelFlow, frame[7:-1]).active)

    @property
    def owing(self) -> bool:
        """Something waits for the end of a publish."""
        copies = self.journal.copies
        return bool(self._flow_asked or self.journal.unsaid) or (copies is not None and copies.owing)

    def progress(self) -> None:
        """Say what had to wait for the end of a publish: the answer to `channel.flow`, and to copies."""
        if self.journal.unsaid:
            self.journal.say_rest()
        if self.journal.copies is not None:
            self.journal.copies.progress()
        if not self._flow_asked:
            return
        for channel, (uplink, active) in list(self._flow_asked.items()):
            gone = channel.uplink is not uplink or channel.muted or channel.awaits_close_ok
            if gone or channel.publish_left == NO_CONTENT:
                del self._flow_asked[channel]
                if not gone:
                    channel.tell_broker(m.ChannelFlowOk(active))

    def _cancel(self, channel: Channel, frame: bytes) -> None:
        """The broker ended a consumer: its queue is gone or out of reach."""
        self._cancellations.take(channel, frame)

    def _channel_close(self, channel: Channel, frame: bytes) -> None:
        """An error closes the channel. Ours, if it is about a step of the replay; otherwise the client's."""
        journal = self.journal
        close = m.decode(m.ChannelClose, frame[7:-1])
        channel.tell_broker(m.ChannelCloseOk())
        request = refused(channel.pending, close)
        if self.restoration.outlived(channel, close):
            return
        raced = request is not None and request.declared_before and close.reply_code == RESOURCE_LOCKED
        if raced or (channel.hidden_pending and _is_replayed(channel, request, close)):
            self.restoration.refused(channel, close)
            return
        if request is not None and request.unnamed and close.reply_code == ACCESS_REFUSED:
            # Permissions forbid the name we chose: let the broker choose one of its own, as the client asked.
            request.frame, request.unnamed = request.unnamed, b""
            journal.lifecycle.restart(channel, "generated queue name refused", open_upstream=False)
            return
        journal.close_channel(channel, _translated(close, channel.offset))
        self._met_absence(close)

    def _met_absence(self, close: m.ChannelClose) -> None:
        """A client was told that something is not there: it stays away, if it has not gone with a broker."""
        journal, restoration = self.journal, self.restoration
        awaited = not restoration.topology_done or restoration.missing
        if not awaited and not journal.troubled(journal.now) and not self._cancellations.awaits_word(close):
            journal.topology.told_absent(close.reply_text)

    def _ignore(self, channel: Channel, frame: bytes) -> None:
        """An answer to something that is over."""

    _CONNECTION: ClassVar[dict[int, Callable[[Answers, bytes, bytes], None]]] = {
        m.method_id(m.ConnectionClose): _close,
        m.method_id(m.ConnectionCloseOk): _close_ok,
        m.method_id(m.ConnectionBlocked): _blocked,
        m.method_id(m.ConnectionUnblocked): _unblocked,
        m.CONNECTION_UPDATE_SECRET_OK: _secret_updated,
        m.method_id(m.ConnectionStart): lambda self, _, payload: self.attachment.started(payload),
        m.method_id(m.ConnectionTune): lambda self, _, payload: self.attachment.tuned(payload),
        m.method_id(m.ConnectionOpenOk): lambda self, _, payload: self.attachment.opened(payload),
    }

    _CHANNEL: ClassVar[dict[int, Callable[[Answers, Channel, bytes], None]]] = {
        m.CHANNEL_CLOSE: _channel_close,
        m.CHANNEL_CLOSE_OK: _ignore,
        m.method_id(m.ChannelFlow): _flow,
        m.method_id(m.BasicCancel): _cancel,
        m.BASIC_RETURN: _return,
    }


def _translated(close: m.ChannelClose, offset: int) -> m.ChannelClose:
    """An error that names a delivery names it by the client's number; the broker counts from its own beginning."""
    named = _NAMED_TAG.search(close.reply_text)
    if named is None or not offset:
        return close
    start, stop = named.span(1)
    text = close.reply_text
    return close._replace(reply_text=b"%b%d%b" % (text[:start], int(named[1]) + offset, text[stop:]))


def _is_replayed(channel: Channel, request: Pending | None, close: m.ChannelClose) -> bool:
    """Whether an error during a replay is about a step of it, as far as can be told, and not about what came behind."""
    if request is not None:
        return request.hidden
    ident = m.ident(close.class_id, close.method_id)
    if ident == m.BASIC_PUBLISH:
        return channel.ledger.unsettled > 0  # or the client's newest: they are kept together
    return ident not in _SETTLING


def _is_ours(request: Pending) -> bool:
    return request.silent and request.answered is None
