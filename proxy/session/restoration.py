"""Making the desired state true on a fresh broker connection: topology first, then each channel by itself."""

from __future__ import annotations

from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.amqp.frames import method_frame
from proxy.errors import BrokerError
from proxy.session.channel import TX, Channel
from proxy.session.consequences import answered_by_loss
from proxy.session.cover import covered_unsettled, covered_upto
from proxy.session.journal import NOTHING, Journal
from proxy.session.ledger import DIRECT_REPLY_TO
from proxy.session.obituary import Obituary, judged
from proxy.session.pending import Pending, leading_declarations
from proxy.session.restraint import Restraint
from proxy.session.setup import Setup
from proxy.session.stream import OFFSET
from proxy.session.topology import Declaration, Entity, entities_of, entity_of
from proxy.session.uplink import Uplink
from proxy.session.verdict import Verdict, refusal

# Brokers free what the lost connection held within milliseconds of noticing its end. Until then all channels wait, so
# that none of them publishes to a queue that is about to be back; after it those that use the rest go on.
PATIENCE_S = 1.0
# The same refusal this often in a row is an answer, not a race.
STEP_REFUSALS_MAX = 3
# How a broker refuses the reader of a stream that has no copy there, or none that is open yet (RabbitMQ); after so many
# refusals, in one to two seconds, it is a broker that has none.
NO_COPY = b"replica on the local node"
COPY_REFUSALS_MAX = 5


class Restoration:
    """Replays what a client needs. Topology goes over a scratch channel, so that an error there kills no channel.

    Everything is written at once and the answers are checked one by one: a broker handles the methods of a channel
    in order, and after an error it ignores the rest, so the place of the error is known.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.restraint = Restraint(journal)
        self.obituary = Obituary(journal)
        self._declarations: list[tuple[Declaration, Channel]] = []
        self._next = 0
        self._attempts = 0
        self._closing = False
        self._patient_until = 0.0
        self.awaited_until = 0.0
        # What this round has not got, and what the last one has not got: channels that use it wait for it.
        self._refused_now: frozenset[Entity] = NOTHING
        self.missing: frozenset[Entity] = NOTHING
        # Some channels that have waited may go on.
        self.released = False
        # When to try again what another connection still holds.
        self.retry_at: float | None = None
        self.topology_done = True
        # Queues that have come back empty to this broker connection, those of this round that are not yet told of.
        self.recreated: set[bytes] = set()
        self._recreated_now = 0
        # When the broker must have answered the first replay of a channel, if one is under way.
        self.unanswered_until: float | None = None
        self.uplink: Uplink | None = None
        # Who waits for the answer to a question that is asked meanwhile.
        self._answered: Callable[[m.ChannelClose | None], None] | None = None

    @property
    def asking(self) -> bool:
        """A question is not answered yet."""
        return self._answered is not None

    @property
    def idle(self) -> bool:
        """The scratch channel is free for a question."""
        return self.topology_done and not self._closing and not self.asking and not self._declarations

    def ask(self, uplink: Uplink, question: m.QueueDeclare, answered: Callable[[m.ChannelClose | None], None]) -> None:
        """Ask about a queue while `idle`. `answered` gets the refusal, or None; it is not called if the broker goes."""
        self.uplink = uplink
        self._answered = answered
        self._tell(m.ChannelOpen())
        self._tell(question)

    def begin(self, uplink: Uplink) -> None:
        """Declare the topology on a broker connection; if that is under way there, it is left to end."""
        if self._declarations and uplink is self.uplink:
            return
        self._closing = self._closing and uplink is self.uplink
        self._answered = self._answered if uplink is self.uplink else None
        self.uplink = uplink
        self._declarations = self.journal.topology.replay()
        self._next = 0
        self._attempts = 0
        self._refused_now = NOTHING
        if not self.missing:
            self._patient_until = self.journal.now + PATIENCE_S
            # The rest of the time belongs to the channels: the connection must not end for one queue.
            self.awaited_until = self.journal.now + self.journal.policy.failover_timeout_s / 2
        self.retry_at = None
        self.topology_done = False
        if not self._declarations:
            self._end_round()
        self._declare()

    def misses(self, channel: Channel) -> bool:
        """Whether a channel uses what could not be declared again yet, as far as can be told: by the name."""
        if not self.missing:
            return False
        names = {name for _, name in self.missing}
        if any(entry.queue in names for entry in channel.setup if entry.tag):
            return True
        topology = self.journal.topology.replay()
        if any(owner is channel and entity_of(each) in self.missing for each, owner in topology):
            return True
        said = [*(each.frame for each in channel.pending), *channel.parked, *map(bytes, channel.ledger.kept())]
        return any(name in frame for name in names for frame in said)

    def abandon(self, uplink: Uplink) -> None:
        """A broker connection is gone."""
        if uplink is not self.uplink:
            return
        self.uplink = None
        self.missing = NOTHING
        self.released = False
        self._declarations = []
        self.topology_done = True
        self.retry_at = None
        self._closing = False
        self._answered = None
        self.recreated.clear()

    def retry(self) -> None:
        """The wait for another connection's queues is over."""
        self.retry_at = None
        if self.topology_done:
            self._declarations = [
                each for each in self.journal.topology.replay() if not self.missing.isdisjoint(entities_of(each[0]))
            ]
            self._next = 0
            if not self._declarations:
                self._end_round()  # the client has deleted it itself
        self._declare()

    def scratch_answered(self, ident: int, payload: bytes) -> None:
        """A frame on the scratch channel."""
        answered = self._answered
        if answered is not None and ident in (m.CHANNEL_CLOSE, m.method_id(m.QueueDeclareOk)):
            self._answered = None
            there = ident != m.CHANNEL_CLOSE
            self._tell(m.ChannelClose(200, b"done") if there else m.ChannelCloseOk())
            self._closing = there
            waiting = bool(self._declarations)
            answered(None if there else m.decode(m.ChannelClose, payload))
            if waiting:
                self._declare()
        elif ident == m.CHANNEL_CLOSE_OK:
            self._closing = False
            self._declare()
        elif ident == m.CHANNEL_CLOSE:
            self._tell(m.ChannelCloseOk())
            if self._next < len(self._declarations):
                self._refused(m.decode(m.ChannelClose, payload))
            elif not self._closing:  # else it crosses our own close
                raise BrokerError("broker refused a declaration that nobody made")
        elif ident != m.method_id(m.ChannelOpenOk):
            method, _ = self._declarations[self._next] if self._next < len(self._declarations) else (None, None)
            if method is None or ident not in m.REPLIES[m.method_id(type(method))]:
                raise BrokerError("broker answered a declaration that nobody made")
            if isinstance(method, m.QueueDeclare):
                self._note_if_empty(method, m.decode(m.QueueDeclareOk, payload))
            self._next += 1
            if self._next >= len(self._declarations):
                self._closing = True
                self._tell(m.ChannelClose(200, b"done"))
                self._end_round()

    def _note_if_empty(self, queue: m.QueueDeclare, found: m.QueueDeclareOk) -> None:
        """An exclusive queue went with its connection; another one that is in use was there all the time."""
        recreated = queue.exclusive or not (found.message_count or found.consumer_count)
        if recreated and found.queue not in self.recreated and not self.obituary.tells(queue):
            self.recreated.add(found.queue)
            self._recreated_now += 1

    def _declare(self) -> None:
        """Write what is to be declared, if the scratch channel is free for it."""
        if not self._declarations or self._closing or self.asking or self.retry_at is not None:
            return
        self._tell(m.ChannelOpen())
        for method, _ in self._declarations[self._next :]:
            self._tell(self.obituary.said(method))

    def _tell(self, method: tuple[object, ...]) -> None:
        assert self.uplink is not None
        self.uplink.tell(self.journal.scratch, method)

    def _refused(self, close: m.ChannelClose) -> None:
        """One declaration failed: wait for it if somebody still holds it, else tell the channel that declared it.

        405 and 404 are the normal case while the old node is alive: it frees exclusive and auto-delete queues a few
        milliseconds after it has seen our connection go.
        """
        journal = self.journal
        self._attempts += 1
        method, owner = self._declarations[self._next]
        told = self.obituary.refused(method, close)
        awaited = not told and close.reply_code in (404, 405) and journal.now < self.awaited_until
        if awaited and journal.now < self._patient_until:
            if close.reply_code == 404:
                # An auto-delete queue went between its declaration and its binding.
                self._declarations = journal.topology.replay()
                self._next = 0
            self.retry_at = journal.now + self._pause_s()
            return
        if awaited:
            self._refused_now |= {entity_of(method)}
        elif not told:
            verdict = judged(method, close)
            reason = verdict.close.reply_text.decode("utf-8", "replace")
            journal.report("topology_lost", cause="not_restored", reason=reason, channel=owner.number)
            if owner in journal.live_channels():
                journal.condemn(owner, verdict)
            self._forget(method)
        # What hangs on it must not be declared for somebody else's queue of that name.
        wanted = journal.topology.replay()
        rest = [entry for entry in self._declarations[self._next + 1 :] if entry in wanted]
        self._declarations = [entry for entry in rest if self._refused_now.isdisjoint(entities_of(entry[0]))]
        self._next = 0
        if not self._declarations:
            self._end_round()
        self._declare()

    def _pause_s(self) -> float:
        pause_s: float = 0.01 * 2 ** min(self._attempts, 8)
        return min(pause_s, self.journal.policy.retry_max_s)

    def _end_round(self) -> None:
        """All is there but for what was refused, which is tried again beside the work of the other channels."""
        self.released = not self.missing <= self._refused_now
        self.topology_done = True
        self._declarations = []
        self._next = 0
        self.missing, self._refused_now = self._refused_now, NOTHING
        if self._recreated_now:
            self.journal.report("queues_recreated", cause="recreated_empty", count=self._recreated_now)
            self._recreated_now = 0
        if self.missing:
            self.retry_at = self.journal.now + self._pause_s()

    def _forget(self, method: Declaration) -> None:
        topology = self.journal.topology
        match method:
            case m.ExchangeDeclare():
                topology.delete_exchange(method.exchange)
            case m.QueueDeclare():
                topology.delete_queue(method.queue)
            case m.QueueBind():
                topology.queue_bindings.pop((method.queue, method.exchange, method.routing_key, method.arguments), None)
            case m.ExchangeBind():
                topology.exchange_bindings.pop(
                    (method.destination, method.source, method.routing_key, method.arguments), None
                )

    def detach(self, channel: Channel, *, lost: bool = True) -> None:
        """Answer what the loss of the broker itself has answered, and take back the rest.

        A channel that ends by it ends only when a broker that is not lost has closed it: the next one has its number.
        """
        journal = self.journal
        words, channel.doubted = channel.doubted, []
        for tag, _, nack in words:
            if not nack:  # a refusal, which an ack of several may span, is asked for once more
                journal.confirm(channel, tag, False, nack)
        self.restraint.begin(channel)
        channel.detach()
        # A cancel that a move asked for is done; asked again, it would end the consumer that is to come back.
        cancel = m.method_id(m.BasicCancel)
        asked = [each for each in channel.pending if each.request != cancel or each.answered is not None]
        # In order: an answer may not overtake that of an earlier request, which the next broker gives.
        while asked and answered_by_loss(journal, channel, asked[0]):
            del asked[0]
        if asked and asked[-1].request == m.CHANNEL_CLOSE and covered_unsettled(channel):
            channel.park(asked.pop().frame)  # it waits once more for the confirms of what was published before it
        channel.pending = asked
        if journal.channels[channel.number] is not channel:
            return  # the client had asked to close it
        committing = any(request.dirty for request in asked)
        if channel.mode == TX and (channel.tx_dirty or committing):
            cause = "commit_unknown" if committing else "transaction_rolled_back"
            outcome = b"transaction outcome unknown" if committing else b"uncommitted transaction rolled back"
            text = b"INTERNAL_ERROR - broker connection lost, " + outcome
            channel.verdict = Verdict(cause, m.ChannelClose(541, text, *((90, 20) if committing else (0, 0))))
            if lost:
                journal.give_up(channel, channel.verdict)

    def restore(self, channel: Channel) -> None:
        """Set a channel up on the broker: open, mode, unsettled publishes, qos and consumers, open requests.

        Only then may what the client sent meanwhile follow, which is the caller's to do. Or it is over by now.
        """
        if channel.verdict is not None:
            self.journal.give_up(channel, channel.verdict)
            return
        channel.attach(self.journal.uplink)
        channel.restart_at = None
        asked, channel.pending = channel.pending, []
        frame = method_frame(channel.number, m.ChannelOpen())
        opening = None
        if channel.opened:
            opening = Pending(m.CHANNEL_OPEN, frame, hidden=True)
        elif asked and asked[0].request == m.CHANNEL_OPEN:
            opening = asked.pop(0)  # the client may have gone on without waiting for open-ok
        if opening is not None:
            channel.replay_until = self.journal.now + self.journal.policy.failover_timeout_s
            self.unanswered_until = self.unanswered_until or channel.replay_until
            self._ask(channel, opening)
            if channel.mode == TX:
                frame = method_frame(channel.number, m.TxSelect())
                self._ask(channel, Pending(m.method_id(m.TxSelect), frame, hidden=True))
            # A request by direct reply-to is refused unless its reply consumer is there (406).
            first = [entry for entry in channel.setup if entry.queue == DIRECT_REPLY_TO]
            self._set_up(channel, first)
            if channel.ledgered and channel.mode != TX:
                channel.tell_broker(m.ConfirmSelect(nowait=True))
                for _ in leading_declarations(asked):
                    self._ask(channel, asked.pop(0))
                self._publish_again(channel)
            self._set_up(channel, [entry for entry in channel.setup if entry.queue != DIRECT_REPLY_TO])
        for request in asked:
            self._ask(channel, request)
        channel.flowing = channel.may_flow

    def _ask(self, channel: Channel, request: Pending) -> None:
        channel.out.append(request.frame)
        channel.pending.append(request)

    def _set_up(self, channel: Channel, entries: list[Setup]) -> None:
        for entry in entries:
            entry.paused = False
            if entry.absent:
                continue
            self._ask(channel, Pending(entry.request, entry.again(), hidden=True))

    def _publish_again(self, channel: Channel) -> None:
        journal = self.journal
        ledger = channel.ledger
        channel.out.extend(journal.fitted_again(piece) for piece in ledger.replay())
        journal.counters.replayed_publishes += ledger.unsettled
        channel.choose_confirm_path()

    def outlived(self, channel: Channel, close: m.ChannelClose) -> bool:
        """What the client had published before it deleted the exchange is lost with its broker; False if that is not
        what was refused. Whoever waits for a confirm gets a refusal.
        """
        journal = self.journal
        numbers = journal.topology.deletions.outlived_by(channel, close)
        if not numbers:
            return False
        upto = covered_upto(channel)
        heard = [number - upto for number in numbers if number > upto]
        for number in numbers:
            channel.ledger.settle(number, multiple=False)
        for own in heard:
            journal.say(channel, method_frame(channel.number, m.BasicNack(own, False, False)))
        if len(heard) < len(numbers):
            count = len(numbers) - len(heard)
            journal.report("publishes_dropped", cause="unconfirmed", count=count, parked_bytes=0)
        journal.lifecycle.restart(channel, close.reply_text.decode("utf-8", "replace"), open_upstream=False)
        return True

    def refused(self, channel: Channel, close: m.ChannelClose) -> None:
        """The broker refused a step of a channel's replay: wait and try again, or tell the client if it is final."""
        journal = self.journal
        error = (close.reply_code, close.reply_text)
        channel.restarts = channel.restarts + 1 if error == channel.last_error else 0
        channel.last_error = error
        if journal.lifecycle.consumer_refused(channel, close):
            journal.lifecycle.restart(channel, close.reply_text.decode("utf-8", "replace"), open_upstream=False)
            return
        for entry in channel.setup:
            if entry.placed and OFFSET in close.reply_text and b"queue '" + entry.queue + b"'" in close.reply_text:
                channel.lose_place(entry)  # no stream: a message that somebody copied from one
        final = close.reply_code not in (404, 405, 541)
        # Another consumer's seat becomes free, and a node that has just come up opens its copy of a stream.
        final = final and not any(text in close.reply_text for text in (b"exclusive use", NO_COPY))
        if NO_COPY in close.reply_text and channel.restarts >= COPY_REFUSALS_MAX:
            journal.lifecycle.seek(close.reply_text.decode("utf-8", "replace"))
        # A publish to an exchange that is nobody's to declare again would be refused each time, behind its neighbours.
        if close.reply_code == 404 and b"no exchange" in close.reply_text and not journal.topology.exchanges:
            final = True
        if final and channel.restarts >= STEP_REFUSALS_MAX:
            journal.give_up(channel, refusal(close))
            return
        redeclare = close.reply_code in (404, 405) and len(journal.topology) > 0
        text = close.reply_text.decode("utf-8", "replace")
        journal.lifecycle.restart(channel, text, open_upstream=False, redeclare=redeclare)
