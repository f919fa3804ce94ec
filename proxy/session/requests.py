"""What the client asks: every method that may not simply pass from client to broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, METHOD, method_frame
from proxy.amqp.wire import U32, U64
from proxy.errors import ClientError
from proxy.session.channel import ASKED_MAX, CONFIRM, HEADER_DUE, NO_CONTENT, PLAIN, TX, Channel
from proxy.session.copies import Handed
from proxy.session.cover import covered_unsettled, covered_waiting
from proxy.session.declarations import Declarations
from proxy.session.greeting import Greeting
from proxy.session.intake import scan_client
from proxy.session.journal import NOTHING, Journal, Phase
from proxy.session.ledger import DIRECT_REPLY_TO
from proxy.session.patience import Patience
from proxy.session.pending import Commit, Pending
from proxy.session.settlements import Settlements
from proxy.session.setup import REPLIES, Setup

_CONSUME = m.method_id(m.BasicConsume)
# Of a transaction with more routes on which its client wants messages back, it gets all that come back.
TX_ROUTES_MAX = 256


class Requests:
    """The client's side of the journal. It is the owner that the client's scanner talks to."""

    __slots__ = (
        "_declarations",
        "_greeting",
        "_settlements",
        "channels",
        "counters",
        "covers_publishes",
        "forces_mandatory",
        "journal",
    )

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.channels = journal.channels
        self.counters = journal.counters
        self.covers_publishes = journal.policy.publish_guarantee == "at_least_once"
        self.forces_mandatory = journal.policy.forces_mandatory
        self._greeting = Greeting(journal)
        self._declarations = Declarations(journal, self._ask)
        self._settlements = Settlements(journal)

    # The owner that the scanner talks to.

    def client_frame(self, kind: int, number: int, frame: bytes) -> None:
        """Think about a frame that may not simply pass. Raises `ClientError`."""
        self.journal.stirred = True
        if kind not in (METHOD, HEADER, BODY) or (kind == METHOD and len(frame) < 12):
            raise ClientError(f"unknown frame of type {kind}", reply_code=501)
        ident = U32.unpack_from(frame, 7)[0] if kind == METHOD else 0
        if number == 0:
            self._greeting.asked(ident, frame[7:-1])
            return
        if self.journal.phase in (Phase.CLOSING, Phase.ENDED):
            return
        if self.journal.phase not in (Phase.RUNNING, Phase.FLUSHING):
            raise ClientError("channel method before connection.open", reply_code=503)
        channel = self.channels[number] if number < len(self.channels) else None
        if channel is None:
            channel = self._new_channel(ident, number)
        if channel.awaits_close_ok:
            self._after_close(channel, ident)
        elif channel.discarding:
            self._discard(channel, kind, frame)
        elif channel.restart_wanted and channel.publish_left != NO_CONTENT:
            self._end_publish(channel, frame)
        elif not channel.flowing:
            channel.park(frame)
        elif (handler := self._HANDLERS.get(ident)) is not None:
            handler(self, channel, frame, frame[7:-1])
        else:
            self._forward(channel, ident, frame)
        if len(channel.pending) >= ASKED_MAX:
            channel.flowing = False  # what is not answered is kept; what follows it is parked, which has a limit

    def cover_publishes(self, channel: Channel) -> None:
        """Turn confirms on behind the back of a publisher that uses none."""
        channel.ledgered = True
        channel.choose_confirm_path()
        channel.tell_broker(m.ConfirmSelect(nowait=True))

    def translate_settle(self, channel: Channel, ident: int, tag: int, bits: int) -> None:
        """Ack, reject or nack of what came from several brokers, or has copies."""
        self._settlements.take(channel, ident, tag, bits)

    def drain(self, channel: Channel) -> None:
        """Let what the client sent meanwhile take the way it would have taken."""
        while channel.flowing and channel.parked:
            frames = bytes(self.journal.fitted(channel.unpark()))
            try:
                scan_client(self, frames, 0, len(frames))
            except ClientError as error:
                self.journal.lifecycle.client_broke(error)

    def due(self) -> list[float | None]:
        """When what waits for hidden confirms has waited long enough. It is parked, so no parked bytes, nothing due."""
        channels = self.journal.live_channels() if self.journal.load.parked_bytes else []
        return [channel.settling.until for channel in channels if channel.settling is not None]

    def tick(self) -> None:
        """Let what has waited long enough go on."""
        for channel in self.journal.live_channels() if self.journal.load.parked_bytes else []:
            if channel.settling is not None and self.journal.now >= channel.settling.until:
                self.settled(channel)

    def settled(self, channel: Channel) -> None:
        """What waited for hidden confirms, or for many answers, may go on."""
        if len(channel.pending) == ASKED_MAX // 2 and not channel.flowing:
            self.answered(channel)
        if channel.settling is not None and self.journal.attached:
            channel.flowing = True
            self.drain(channel)
            if channel.flowing:
                channel.settling = None

    def committed(self, channel: Channel) -> None:
        """What was sent behind a commit may go on, unless the channel is being set up again."""
        channel.committing = False
        self.answered(channel)

    def answered(self, channel: Channel) -> None:
        """What waited for answers may go on, unless it waits for something else as well."""
        elsewhere = channel.restart_at is not None or channel.restart_wanted or channel.settling is not None
        if channel.uplink is not None and not channel.muted and not elsewhere:
            channel.flowing = channel.may_flow
            self.drain(channel)

    # Channels.

    def _end_publish(self, channel: Channel, frame: bytes) -> None:
        """Content of the one publish that has to end before its channel is set up again."""
        channel.flowing = True
        scan_client(self, frame, 0, len(frame))
        channel.flowing = False

    def _new_channel(self, ident: int, number: int) -> Channel:
        journal = self.journal
        if ident != m.CHANNEL_OPEN:
            raise ClientError(f"expected 'channel.open' on channel {number}", reply_code=504)
        if number > journal.channel_max:
            raise ClientError(f"channel number {number} is above the maximum {journal.channel_max}", reply_code=504)
        self.channels.extend([None] * (number + 1 - len(self.channels)))
        channel = Channel(number, journal.load)
        if journal.copies is not None:
            channel.handed = Handed(channel, journal.copies)
            channel.rewrites = True
        self.channels[number] = channel
        if journal.crowded and journal.attached:
            journal.refuse_channel(channel)
            return channel
        channel.attach(journal.uplink)
        channel.flowing = journal.attached
        return channel

    def _after_close(self, channel: Channel, ident: int) -> None:
        if ident == m.CHANNEL_CLOSE_OK:
            self.channels[channel.number] = None
        elif ident == m.CHANNEL_CLOSE:
            self.journal.tell_client(channel.number, m.ChannelCloseOk())

    def _discard(self, channel: Channel, kind: int, frame: bytes) -> None:
        if kind == HEADER and channel.publish_left == HEADER_DUE and len(frame) >= 22:
            channel.publish_left = U64.unpack_from(frame, 11)[0]
        elif kind == BODY and channel.publish_left > 0:
            channel.publish_left -= len(frame) - 8
        else:
            raise ClientError("method frame inside content", reply_code=505)
        if channel.publish_left <= 0:
            channel.publish_left = NO_CONTENT
            channel.discarding = False
            channel.flowing = self.journal.attached and channel.restart_at is None and channel.may_flow

    def _forward(
        self, channel: Channel, ident: int, frame: bytes, answered: Callable[[bytes], None] | None = None
    ) -> None:
        """Pass a request on as it came and remember that its answer is due.

        What nobody knows stops here: RabbitMQ answers it with a reset, which would look like a dead broker.
        """
        if ident not in m.REPLIES:
            raise ClientError(f"unimplemented method {ident >> 16}.{ident & 0xFFFF}", reply_code=503)
        channel.out.append(frame)
        channel.pending.append(Pending(ident, frame, answered=answered))

    def _ask(
        self,
        channel: Channel,
        request: tuple[object, ...],
        answered: Callable[[bytes], None] | None = None,
        *,
        silent: bool = False,
    ) -> Pending:
        """Pass a request on in our own words; `silent` for a client that wants no answer."""
        frame = method_frame(channel.number, request)
        pending = Pending(m.method_id(type(request)), frame, silent=silent, answered=answered)
        channel.out.append(frame)
        channel.pending.append(pending)
        return pending

    def _ignore(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        """An answer to something that was settled without the client."""

    def _channel_open(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        if channel.opened or channel.pending:
            raise ClientError("second 'channel.open' seen", reply_code=504)

        def answered(_: bytes) -> None:
            channel.opened = True

        self._forward(channel, m.CHANNEL_OPEN, frame, answered)

    def _channel_close(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        if self._waits_settled(channel, frame):
            return
        if unconfirmed := covered_unsettled(channel):
            self.journal.report("publishes_dropped", cause="unconfirmed", count=unconfirmed, parked_bytes=0)
        self._forward(
            channel, m.CHANNEL_CLOSE, frame, lambda _: self.journal.end_channel(channel, awaits_close_ok=False)
        )

    def _waits_settled(self, channel: Channel, frame: bytes) -> bool:
        """Whether a request has to wait for confirms that the client does not know of; it is parked if so."""
        if not covered_waiting(channel):
            return False
        journal = self.journal
        if channel.settling is None:
            channel.settling = Patience(journal.policy, journal.now, well=journal.well)
        elif channel.settling.is_over(journal.now, well=journal.well):
            return False
        channel.flowing = False
        channel.park(frame)
        return True

    def _qos(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        if any(each.request == _CONSUME and not each.hidden for each in channel.pending):
            # It would be answered before a consumer that it is not for, since it is the queue that answers that one,
            # and a replay would have them the wrong way round.
            channel.flowing = False
            channel.park(frame)
            return
        q = m.decode(m.BasicQos, payload)
        entry = Setup(m.method_id(m.BasicQos), frame, is_global=q.is_global)
        self._forward(channel, entry.request, frame, lambda _: self._remember(channel, entry))

    def _remember(self, channel: Channel, entry: Setup) -> None:
        channel.remember(entry)
        channel.relieve(self.journal.client_out)  # the limit may be another one now

    def _consume(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        """The tag is chosen here if the client leaves it to the broker, so that a repeated request means the same."""
        q = m.decode(m.BasicConsume, payload)
        if q.queue and q.queue == self.journal.reply_queues.get(channel.number):
            self._declarations.reply_queue(channel, q.queue)
        tag = q.consumer_tag or b"amq.ctag-" + self.journal.token()
        wanted = q._replace(queue=q.queue or channel.last_queue, consumer_tag=tag, nowait=False)
        entry = Setup(
            _CONSUME,
            method_frame(channel.number, wanted),
            tag=tag,
            queue=wanted.queue,
            no_ack=REPLIES if wanted.queue == DIRECT_REPLY_TO else q.no_ack,
            exclusive=q.exclusive,
        )

        def agreed(_: bytes) -> None:
            self._remember(channel, entry)
            if not channel.flowing:
                self.answered(channel)

        self._ask(channel, wanted, agreed, silent=q.nowait)

    def _cancel(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        q = m.decode(m.BasicCancel, payload)

        def cancelled(_: bytes) -> None:
            entry = channel.forget_consumer(q.consumer_tag)
            if entry is not None:
                entry.absent = False
                self.journal.consumer_gone(entry.queue)

        self._ask(channel, q._replace(nowait=False), cancelled, silent=q.nowait)

    def _get(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        q = m.decode(m.BasicGet, payload)
        self._ask(channel, q._replace(queue=q.queue or channel.last_queue)).no_ack = q.no_ack

    def _recover(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        def recovered(_: bytes) -> None:
            channel.window.settle_upto(channel.window.top)
            channel.forgive()

        self._forward(channel, m.BASIC_RECOVER, frame, recovered)

    def _recover_async(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        channel.window.settle_upto(channel.window.top)
        channel.forgive()
        channel.out.append(frame)

    def _confirm_select(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        """From here on the client counts its own publishes from 1, whatever was covered before."""
        if channel.mode == PLAIN:
            channel.mode = CONFIRM
            channel.ledgered = True
            channel.confirm_base = channel.ledger.window.top
            channel.choose_confirm_path()
        self._ask(channel, m.ConfirmSelect(nowait=False), silent=m.decode(m.ConfirmSelect, payload).nowait)

    def _tx_select(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        """A channel with hidden confirms needs a fresh one behind its back (406). No delivery waits in transactions."""
        if self._waits_settled(channel, frame):
            return
        if channel.arrears is not None:
            channel.arrears.flush(self.journal.client_out)
            channel.arrears = None
        if channel.handed is not None:
            channel.handed.forget()
        if channel.covered:
            channel.ledgered = False
            channel.ledger.clear()
            channel.mode = TX
            # Answered when the channel is closed for that, which has to wait for a large delivery under way.
            channel.pending.append(Pending(m.method_id(m.TxSelect), frame))
            self.journal.lifecycle.restart(channel, "transactional from here on", open_upstream=True)
            return
        channel.mode = TX if channel.mode == PLAIN else channel.mode
        self._forward(channel, m.method_id(m.TxSelect), frame)

    def wants_back(self, channel: Channel, route: bytes) -> None:
        """A publish of a transaction is mandatory by the client's own wish: what comes back on its route is its own."""
        routes = channel.tx_wanted_back
        if routes is not None and route not in routes:
            channel.tx_wanted_back = routes | {route} if len(routes) < TX_ROUTES_MAX else None

    def _tx_end(self, channel: Channel, frame: bytes, payload: bytes) -> None:
        ident = U32.unpack_from(payload)[0]
        self._forward(channel, ident, frame)
        request = channel.pending[-1]
        request.dirty = ident == m.TX_COMMIT and channel.tx_dirty
        if request.dirty and self.forces_mandatory and channel.tx_wanted_back is not None:
            request.commit = Commit(channel.tx_wanted_back)
            # Until it is answered, what follows waits: no answer may overtake that of a commit that is withheld.
            channel.committing, channel.flowing = True, False
        channel.tx_dirty, channel.tx_wanted_back = False, NOTHING

    # A request that is not here passes as it is, and its answer is waited for if `REPLIES` knows one.
    _HANDLERS: ClassVar[dict[int, Callable[[Requests, Channel, bytes, bytes], None]]] = {
        m.CHANNEL_OPEN: _channel_open,
        m.CHANNEL_CLOSE: _channel_close,
        m.CHANNEL_CLOSE_OK: _ignore,
        m.method_id(m.ChannelFlowOk): _ignore,
        m.method_id(m.ExchangeDeclare): lambda self, channel, _, payload: self._declarations.exchange_declare(
            channel, payload
        ),
        m.method_id(m.ExchangeDelete): lambda self, channel, _, payload: self._declarations.exchange_delete(
            channel, payload
        ),
        m.method_id(m.ExchangeBind): lambda self, channel, _, payload: self._declarations.exchange_bind(
            channel, payload
        ),
        m.method_id(m.ExchangeUnbind): lambda self, channel, _, payload: self._declarations.exchange_unbind(
            channel, payload
        ),
        m.method_id(m.QueueDeclare): lambda self, channel, _, payload: self._declarations.queue_declare(
            channel, payload
        ),
        m.method_id(m.QueueBind): lambda self, channel, _, payload: self._declarations.queue_bind(channel, payload),
        m.method_id(m.QueueUnbind): lambda self, channel, _, payload: self._declarations.queue_unbind(channel, payload),
        m.method_id(m.QueuePurge): lambda self, channel, _, payload: self._declarations.queue_purge(channel, payload),
        m.method_id(m.QueueDelete): lambda self, channel, _, payload: self._declarations.queue_delete(channel, payload),
        m.method_id(m.BasicQos): _qos,
        m.method_id(m.BasicConsume): _consume,
        m.method_id(m.BasicCancel): _cancel,
        m.method_id(m.BasicGet): _get,
        m.BASIC_RECOVER: _recover,
        m.BASIC_RECOVER_ASYNC: _recover_async,
        m.method_id(m.ConfirmSelect): _confirm_select,
        m.method_id(m.TxSelect): _tx_select,
        m.TX_COMMIT: _tx_end,
        m.TX_ROLLBACK: _tx_end,
    }
