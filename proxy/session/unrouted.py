"""Publishes that no queue took while some broker was down: withheld, and published again until a queue takes them.

A cluster confirms what it drops: a classic queue whose home is dead is out of reach, so its messages are unroutable,
and an unroutable message counts as dealt with. So publishes are made mandatory behind the client's back; the broker
then returns such a message before it confirms it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, METHOD, OVERHEAD_BYTES, method_frame
from proxy.amqp.wire import U32, U64
from proxy.errors import BrokerError
from proxy.session.channel import CONFIRM, Channel
from proxy.session.commands import LookAround
from proxy.session.confirms import DOUBT_S
from proxy.session.cover import covered_waiting
from proxy.session.identity import mark_in
from proxy.session.journal import Journal, Phase
from proxy.session.ledger import DIRECT_REPLY_TO, force_mandatory
from proxy.session.message import Message, addressed, message_of
from proxy.session.routes import Routes
from proxy.session.stamp import unstamped
from proxy.session.stray import Stray, Told
from proxy.session.uplink import Uplink

# How many are tried together: few while they keep coming back, more each time that some are taken.
BATCH_MIN, BATCH_MAX = 16, 1024
PATIENCE_S = 1.0
BATCH_BYTES_MAX = 1024 * 1024


class Unrouted:
    """The strays of one session. A channel of our own, the courier, publishes them: no client's numbers are disturbed.

    Each waits at most `failover_timeout_s`, or, if no publisher hears of it, for as long as they fill no more than half
    of `unsettled_bytes_max`. In a cluster that is well, what a broker says is believed.
    """

    __slots__ = (
        "_any_taken",
        "_attempts",
        "_batch",
        "_closing_since",
        "_flight",
        "_incoming",
        "_incoming_left",
        "_journal",
        "_published_at",
        "_retry_at",
        "_review_at",
        "_rewritten",
        "_routes",
        "_uplink",
        "_waiting",
    )

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[Stray] = []
        self._routes = Routes(journal)
        # A broker may write properties anew; if this one does, they tell nothing apart.
        self._rewritten = False
        self._retry_at: float | None = None
        self._review_at: float | None = None
        self._attempts = 0
        self._batch = BATCH_MIN
        # The courier: its connection, what it has published by confirm number.
        self._uplink: Uplink | None = None
        self._closing_since: float | None = None
        self._published_at = 0.0
        self._flight: dict[int, Stray] = {}
        self._any_taken = False
        self._incoming: list[bytes] = []
        self._incoming_left = 0

    @property
    def count(self) -> int:
        """How many publishes are withheld."""
        return len(self._strays())

    def kept(self) -> list[bytes]:
        """The frames of each that is withheld."""
        return [stray.frames for stray in self._strays()]

    @property
    def since(self) -> float:
        """When the first of them came back."""
        return min(stray.since for stray in self._strays())

    @property
    def until(self) -> float | None:
        """How long the first of them waits at most whose publisher hears of it."""
        awaited = [stray.since for stray in self._strays() if stray.awaited]
        return min(awaited) + self._journal.policy.failover_timeout_s if awaited else None

    def _strays(self) -> list[Stray]:
        return [stray for stray in (*self._flight.values(), *self._waiting) if not stray.over]

    def due(self) -> list[float]:
        """When some are to be tried again, or have waited long enough."""
        if not self._journal.attached or not self._journal.load.withheld:
            return []
        return [at for at in (self._try_at(), self._review_at) if at is not None]

    def _try_at(self) -> float | None:
        """One that a broker does not answer, as without a quorum, holds up the others only for a moment."""
        if self._closing_since is not None or not self._waiting:
            return None
        return self._published_at + PATIENCE_S if self._flight else self._retry_at

    # What the brokers say.

    def returned(self, channel: Channel) -> None:
        """A publish of a channel came back: it is the client's if it asked for that, and the broker is believed."""
        journal = self._journal
        pieces = channel.release()
        back = message_of(b"".join(pieces))
        found = self._next_like(back, channel.ledger.publishes_from(channel.ledger.returned_upto + 1))
        if found is not None:
            channel.ledger.returned_upto = found[0]
        route = (back.exchange, back.routing_key)
        believed = not journal.policy.forces_mandatory or back.announces or self._routes.leads_nowhere(route)
        # A reply by direct reply-to may have been delivered all the same (`ledger.forcible`).
        if found is None or believed or back.routing_key.startswith(DIRECT_REPLY_TO):
            if found is None or found[2].mandatory:
                journal.counters.returns += 1
                journal.client_out.extend(pieces if journal.stamp is None else unstamped(pieces))
            return
        number, frames, sent = found
        channel.ledger.settle(number, multiple=False)
        channel.withhold(number)
        self._withhold(Stray(channel, number, frames, route, journal.now, sent.mandatory))

    def committed(self, channel: Channel, frames: bytes, told: Told) -> bool:
        """A publish of a transaction that no queue took; False if nobody wants it, as is known of its route."""
        sent = message_of(frames)
        route = (sent.exchange, sent.routing_key)
        if sent.announces or self._routes.leads_nowhere(route):
            return False
        self._withhold(Stray(channel, 0, frames, route, self._journal.now, told=told))
        return True

    def _withhold(self, stray: Stray) -> None:
        journal = self._journal
        self._waiting.append(stray)
        journal.load.withhold(len(stray.frames))
        journal.counters.unrouted += 1
        if self._review_at is None:
            self._review_at = journal.now + journal.policy.failover_timeout_s
        if self._retry_at is None and not self._flight:
            doubtful = not journal.troubled(journal.now)
            self._retry_at = journal.now + (DOUBT_S if doubtful else journal.policy.retry_base_s)
            if doubtful:
                journal.commands.append(LookAround())

    def _next_like(self, back: Message, publishes: Iterable[tuple[int, bytes]]) -> tuple[int, bytes, Message] | None:
        """Which publish came back: the next one like it, since a broker deals with those of a channel in order."""
        similar: tuple[int, bytes, Message] | None = None
        mark = mark_in(back.properties) if self._journal.stamp is not None else b""
        for number, frames in publishes:
            sent = message_of(frames)
            if mark and mark == mark_in(sent.properties):
                return number, frames, sent
            if sent.resembles(back):
                if sent.properties == back.properties or self._rewritten:
                    return number, frames, sent
                similar = similar or (number, frames, sent)
        self._rewritten = self._rewritten or similar is not None
        return similar

    def courier_frame(self, uplink: Uplink, kind: int, frame: bytes) -> None:
        """A frame on the courier. Raises `BrokerError`."""
        if uplink is not self._uplink:
            return  # the rest of one that is over
        if kind != METHOD:
            self._content(kind, frame)
            return
        ident = U32.unpack_from(frame, 7)[0]
        if ident in (m.BASIC_ACK, m.BASIC_NACK):
            ack = m.decode(m.BasicAck, frame[7:-1])
            self._confirmed(ack.delivery_tag, ack.multiple, nack=ident == m.BASIC_NACK)
        elif ident == m.BASIC_RETURN:
            self._incoming = [frame]
            self._incoming_left = -1
        elif ident == m.CHANNEL_CLOSE_OK and self._closing_since is not None:
            self._closing_since = None
            uplink.courier_tag = None
        elif ident == m.CHANNEL_CLOSE:
            uplink.tell(self._journal.courier, m.ChannelCloseOk())
            self._closed(m.decode(m.ChannelClose, frame[7:-1]))
        elif ident != m.method_id(m.ChannelOpenOk):
            raise BrokerError(f"broker sent method {ident >> 16}.{ident & 0xFFFF} that nobody asked for")

    def _content(self, kind: int, frame: bytes) -> None:
        due = HEADER if self._incoming_left < 0 else BODY
        if not self._incoming or kind != due or (kind == HEADER and len(frame) < 22):
            raise BrokerError("broker sent content where none is due")
        self._incoming.append(frame)
        if kind == HEADER:
            self._incoming_left = U64.unpack_from(frame, 11)[0]
        else:
            self._incoming_left -= len(frame) - OVERHEAD_BYTES
        if self._incoming_left > max((len(stray.frames) for stray in self._flight.values()), default=0):
            raise BrokerError("broker returned what nobody published")
        if self._incoming_left > 0:
            return
        back = message_of(b"".join(self._incoming))
        self._incoming = []
        out = ((tag, stray.frames) for tag, stray in self._flight.items() if not stray.astray)
        found = self._next_like(back, out)
        if found is None:
            raise BrokerError("broker returned what nobody published")
        self._flight[found[0]].astray = True

    def _confirmed(self, tag: int, multiple: bool, *, nack: bool) -> None:
        journal = self._journal
        well = not journal.troubled(journal.now)
        for each in [own for own in self._flight if own == tag or (multiple and (own < tag or tag == 0))]:
            stray = self._flight.pop(each)
            astray, stray.astray = stray.astray, False
            if stray.over:
                continue
            if not astray and not nack:
                self._any_taken = True
                self._settle(stray)
            elif well and journal.now >= stray.since + DOUBT_S:
                # Nothing is wrong with the cluster: this is what it means to say.
                if astray:
                    self._routes.believe(stray.route)
                self._settle(stray, nack=nack, astray=astray)
            else:
                stray.taken = stray.taken or nack
                self._waiting.append(stray)
        if not self._flight:
            self._pace()
            if nack and self._uplink is not None:
                # Its first publish may have met a queue without a leader, and all later ones are refused for it.
                self._closing_since = journal.now
                self._uplink.tell(journal.courier, m.ChannelClose(200, b"opened anew"))

    def _closed(self, close: m.ChannelClose) -> None:
        """A publish was refused: nobody knows which, unless there was only one."""
        if self._uplink is not None:
            self._uplink.courier_tag = None
        self._closing_since = None
        if len(self._flight) == 1:
            self._give_up(
                [stray for stray in self._flight.values() if not stray.over],
                close.reply_text.decode("utf-8", "replace"),
            )
        self._come_home()
        self._batch = 1

    # What the clock says.

    def progress(self) -> None:
        """Try again what may be tried now."""
        journal = self._journal
        if journal.phase is Phase.ENDED:
            self._end()
            return
        if self._uplink is not None and self._uplink not in journal.uplinks:
            self._uplink = None
            self._closing_since = None
            self._come_home()
        if journal.uplink is None:
            return
        if self._review_at is not None and journal.now >= self._review_at:
            self._review()
        try_at = self._try_at()
        if try_at is not None and journal.now >= try_at:
            self._retry_at = None
            self._publish(journal.uplink)

    def _review(self) -> None:
        """Give up those for whose confirm somebody has waited long enough, of the others what there is no room for."""
        journal = self._journal
        patience_s = journal.policy.failover_timeout_s
        excess_bytes = journal.load.unsettled_bytes - journal.policy.unsettled_bytes_max // 2
        late = []
        for stray in self._strays():
            if stray.since + patience_s <= journal.now and (stray.awaited or excess_bytes > 0):
                late.append(stray)
                excess_bytes -= len(stray.frames)
        self._give_up(late, "no queue took it in time")
        if self._uplink is not None and journal.now >= (self._closing_since or math.inf) + patience_s:
            journal.lifecycle.broker_hangs(self._uplink)
        self._review_at = journal.now + PATIENCE_S if self.count else None

    def _publish(self, uplink: Uplink) -> None:
        courier = self._journal.courier
        if self._uplink not in (None, uplink):  # the session moves, and each courier has numbers of its own
            self._closing_since = None
            self._come_home()
        self._uplink = uplink
        if uplink.courier_tag is None:
            uplink.courier_tag = 0
            uplink.tell(courier, m.ChannelOpen())
            uplink.tell(courier, m.ConfirmSelect(nowait=True))
        self._any_taken = False
        self._published_at = self._journal.now
        size = sent = 0
        for stray in self._waiting:
            if sent >= self._batch or len(self._flight) >= BATCH_MAX or size >= BATCH_BYTES_MAX:
                break
            sent += 1
            fitted = self._journal.fitted_again if stray.taken else self._journal.fitted
            frames = addressed(bytes(fitted(stray.frames)), courier)
            force_mandatory(frames)
            uplink.courier_tag += 1
            self._flight[uplink.courier_tag] = stray
            size += len(frames)
            uplink.out.append(memoryview(frames))
        del self._waiting[:sent]

    def _pace(self) -> None:
        """Go on at once while queues take something, else later and later."""
        journal = self._journal
        policy = journal.policy
        if not self._waiting:
            self._attempts = 0
            self._batch = BATCH_MIN
        elif self._any_taken:
            self._attempts = 0
            self._batch = min(2 * self._batch, BATCH_MAX)
            self._retry_at = journal.now
        else:
            self._attempts += 1
            self._batch = min(self._batch, BATCH_MIN)
            self._retry_at = journal.now + min(policy.retry_max_s, policy.retry_base_s * 2 ** min(self._attempts, 16))

    def _come_home(self) -> None:
        """The courier is lost: what it had published is published again, whether a queue has taken it or not."""
        back = [stray for stray in self._flight.values() if not stray.over]
        self._journal.counters.replayed_publishes += len(back)
        for stray in back:
            stray.taken, stray.astray = True, False
        self._waiting[:0] = back
        self._flight.clear()
        self._incoming = []
        self._any_taken = False
        self._pace()

    # How it ends.

    def _settle(self, stray: Stray, *, nack: bool = False, astray: bool = False) -> None:
        """It is taken, or never will be (`astray`): its client is told if it is still there to hear it."""
        journal = self._journal
        channel = stray.channel
        journal.load.withhold(-len(stray.frames))
        if stray.told is not None:
            stray.told(nack)
            return
        if channel.withheld is None or stray.number not in channel.withheld:
            return  # the channel is over
        channel.withheld.discard(stray.number)
        channel.choose_confirm_path()
        journal.counters.confirms += 1
        confirmed = channel.mode == CONFIRM and stray.number > channel.confirm_base
        if stray.asked_back and (astray or (nack and not confirmed)):
            journal.counters.returns += 1
            journal.say(channel, stray.given_back(stamped=journal.stamp is not None))
        if confirmed:
            own = stray.number - channel.confirm_base
            word = m.BasicNack(own, False, False) if nack else m.BasicAck(own, False)
            journal.say(channel, method_frame(channel.number, word))
        if channel.settling is not None and not covered_waiting(channel):
            journal.lifecycle.settled(channel)

    def _give_up(self, strays: list[Stray], reason: str) -> None:
        """Say so: a client with confirms by a refusal, everybody in the log."""
        if not strays:
            return
        exchange, routing_key = (name.decode("utf-8", "replace") for name in strays[0].route)
        self._journal.report(
            "publishes_unroutable",
            cause="unroutable",
            count=len(strays),
            exchange=exchange,
            routing_key=routing_key,
            reason=reason,
        )
        gone = set(strays)
        self._waiting = [stray for stray in self._waiting if stray not in gone]
        for stray in strays:
            stray.over = True  # its number at the courier may still be answered
            self._settle(stray, nack=True)

    def _end(self) -> None:
        """The session is over."""
        for stray in self._strays():
            self._journal.load.withhold(-len(stray.frames))
        if self.count:
            self._journal.report("publishes_dropped", cause="unconfirmed", count=self.count, parked_bytes=0)
        self._flight.clear()
        self._waiting.clear()
