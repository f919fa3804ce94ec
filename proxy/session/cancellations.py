"""Consumers that a broker has ended: is their queue gone for good, or out of reach for a while?

RabbitMQ says `basic.cancel` when a queue was deleted and when the home of a classic queue went down, and gives no
reason. A passive declaration tells, by the text of its refusal. Source: RabbitMQ 3.10.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.amqp import methods as m
from proxy.amqp.frames import method_frame
from proxy.session.channel import NO_CONTENT, Channel
from proxy.session.commands import LookAround
from proxy.session.confirms import DOUBT_S
from proxy.session.journal import Journal, Phase
from proxy.session.pending import Pending
from proxy.session.restoration import Restoration
from proxy.session.setup import Setup
from proxy.session.verdict import is_out_of_reach, refusal

# Each refused question is a line in the broker's log; a queue that has been away for long is not missed for seconds.
ASK_INTERVAL_MAX_S = 5.0


@dataclass(slots=True, eq=False)
class Absence:
    """A consumer without its queue. `word` is what the client gets if it stays so; `at` when to ask next, `until` how
    long.

    `refusal`: it did not come back after a failover, and its broker said so. To a client that does not understand
    `word` that is the only word: it would wait for ever for a consumer that is no more.
    `shown`: an operator was told. `doubted`: its queue is said to be gone, and brokers are looked at before that is
    believed. `found`: it is to be consumed from again as soon as its channel may be spoken to.
    """

    channel: Channel
    entry: Setup
    word: bytes
    since: float
    at: float
    until: float
    refusal: m.ChannelClose | None = None
    attempts: int = 0
    shown: bool = False
    doubted: bool = False
    found: bool = False


class Cancellations:
    """Every consumer of the session whose queue is away. It stays in its channel's setup, marked `absent`."""

    __slots__ = ("_absences", "_asked", "_journal", "_restoration", "_tried")

    def __init__(self, journal: Journal, restoration: Restoration) -> None:
        self._journal = journal
        self._restoration = restoration
        self._absences: list[Absence] = []
        self._asked: Absence | None = None
        # Those that were consumed from again on the chance that their queue is there; `at` says when.
        self._tried: list[Absence] = []

    def take(self, channel: Channel, frame: bytes) -> None:
        """A broker ended a consumer. The client hears of it when its queue is known to be gone, or if it wants to."""
        tag = m.decode(m.BasicCancel, frame[7:-1]).consumer_tag
        entry = next((each for each in channel.setup if tag and each.tag == tag), None)
        wanted = entry is not None and b"x-cancel-on-ha-failover" in entry.frame
        if entry is None or wanted or self._journal.phase is not Phase.RUNNING:
            self._tell(channel, entry, frame)
        elif not entry.absent and not _is_asked_for(channel, entry):
            self._miss(channel, entry, frame)

    def refused(self, channel: Channel, close: m.ChannelClose) -> bool:
        """A replay was refused; True if that is because a consumer's queue is away, which is now waited for alone."""
        if (close.class_id, close.method_id, close.reply_code) != (60, 20, 404):
            return False
        topology = self._journal.topology
        named = [
            entry
            for entry in channel.setup
            if entry.tag and not entry.absent and b"'%b'" % entry.queue in close.reply_text
            # What is this client's own is declared again.
            if is_out_of_reach(close) or entry.queue not in topology.queues
        ]
        for entry in named:
            absence = self._miss(channel, entry, method_frame(channel.number, m.BasicCancel(entry.tag, True)))
            absence.refusal = close
            absence.until = absence.since + self._patience_s(absence, close)
            self._wait(absence, close)
        return bool(named)

    @property
    def waiting(self) -> list[str]:
        """Names of the queues that are waited for."""
        return sorted({each.entry.queue.decode("utf-8", "replace") for each in self._absences if each.shown})

    @property
    def since(self) -> float:
        """When the first of them began to wait."""
        return min(each.since for each in self._absences if each.shown)

    @property
    def until(self) -> float:
        """How long the first of them waits at most."""
        return min(each.until for each in self._absences if each.shown)

    def awaits_word(self, close: m.ChannelClose) -> bool:
        """Whether a consumer's end will tell, or is telling, what became of a queue that an error says is not there."""
        consumers = (entry for channel in self._journal.live_channels() for entry in channel.setup if entry.tag)
        return any(b"no queue '%b' in" % entry.queue in close.reply_text for entry in consumers)

    @property
    def under_way(self) -> bool:
        """Some consumer is without its queue."""
        return bool(self._absences)

    def due(self) -> list[float]:
        """When a question is to be asked."""
        return [each.at for each in self._absences if not each.found] if self._absences and self._may_ask() else []

    def progress(self) -> None:
        """Ask, consume again, or give up, whatever is possible now."""
        if not self._absences:
            return
        for absence in list(self._absences):
            self._review(absence)
        if not self._restoration.asking:
            self._asked = None  # or it went with its broker
        journal = self._journal
        if self._may_ask():
            asked = next((each for each in self._absences if not each.found and journal.now >= each.at), None)
            if asked is not None and journal.uplink is not None:
                self._asked = asked
                question = m.QueueDeclare(0, asked.entry.queue, True, False, False, False, False, b"")
                self._restoration.ask(journal.uplink, question, self._answered)

    def _may_ask(self) -> bool:
        journal = self._journal
        return journal.phase is Phase.RUNNING and journal.attached and self._restoration.idle

    def _miss(self, channel: Channel, entry: Setup, word: bytes) -> Absence:
        entry.absent = True
        now = self._journal.now
        absence = Absence(channel, entry, word, now, now, now)
        tried = next((each for each in self._lately_tried() if each.entry is entry), None)
        if tried is not None:
            absence.since, absence.attempts, absence.shown = tried.since, tried.attempts, tried.shown
        self._absences.append(absence)
        return absence

    def _answered(self, close: m.ChannelClose | None) -> None:
        absence, self._asked = self._asked, None
        if absence is None or absence not in self._absences or self._is_over(absence.channel):
            return
        journal = self._journal
        if close is None or close.reply_code not in (404, 405):
            self._try(absence, asked=close is None)
            return
        absence.until = absence.since + self._patience_s(absence, close)
        if journal.now >= absence.until:
            self._end(absence, "queue_out_of_reach" if is_out_of_reach(close) else "queue_gone")
        elif is_out_of_reach(close) or not self._is_restored(absence.entry.queue):
            self._wait(absence, close)
        elif close.reply_code == 405 or journal.troubled(journal.now):
            # It died with its node, and nobody else would declare it again.
            assert journal.uplink is not None
            self._wait(absence, None)
            self._restoration.recreated.discard(absence.entry.queue)  # it is about to be so once more
            self._restoration.begin(journal.uplink)
        elif absence.doubted:
            self._end(absence, "queue_gone")
        else:
            # A node that dies takes its queues along before anybody can know of its death.
            absence.doubted = True
            absence.at = journal.now + DOUBT_S
            journal.commands.append(LookAround())

    def _try(self, absence: Absence, *, asked: bool) -> None:
        """Its queue is there, or nobody may ask: then the consumer's own refusal tells, as often as that may take."""
        if not asked and absence.refusal is not None and self._journal.now >= absence.until:
            self._end(absence, "queue_out_of_reach" if is_out_of_reach(absence.refusal) else "queue_gone")
            return
        absence.found = True
        if not asked:
            absence.at = self._journal.now
            self._tried = [*(each for each in self._lately_tried() if each.entry is not absence.entry), absence]

    def _lately_tried(self) -> list[Absence]:
        since = self._journal.now - self._journal.policy.failover_timeout_s
        return [each for each in self._tried if each.at > since]

    def _patience_s(self, absence: Absence, close: m.ChannelClose) -> float:
        """How long a queue may be away. A broker that has just ended a consumer has lost nothing by accident."""
        policy = self._journal.policy
        if is_out_of_reach(close):
            return policy.home_down_timeout_s
        awaited = absence.refusal is not None or self._is_restored(absence.entry.queue)
        return policy.failover_timeout_s if awaited else 0.0

    def _is_restored(self, queue: bytes) -> bool:
        """It is this client's own, and declared again where it is lost."""
        own = self._journal.topology.queues.get(queue)
        return own is not None and not self._restoration.obituary.tells(own[0])

    def _wait(self, absence: Absence, close: m.ChannelClose | None) -> None:
        journal = self._journal
        pause_s = min(ASK_INTERVAL_MAX_S, journal.policy.retry_base_s * 2 ** min(absence.attempts, 16))
        absence.at = journal.now + pause_s * journal.rng.uniform(0.5, 1.0)
        absence.attempts += 1
        if close is not None and not absence.shown:
            absence.shown = True
            reason = close.reply_text.decode("utf-8", "replace")
            journal.report("consumer_paused", channel=absence.channel.number, reason=reason)

    def _review(self, absence: Absence) -> None:
        channel, entry = absence.channel, absence.entry
        if self._is_over(channel):
            self._absences.remove(absence)
        elif not any(each is entry for each in channel.setup):
            self._absences.remove(absence)
            if entry.absent:
                self._tell(channel, None, absence.word)  # the client has deleted the queue itself
        elif absence.found:
            self._consume(absence)

    def _is_over(self, channel: Channel) -> bool:
        return self._journal.channels[channel.number] is not channel or channel.awaits_close_ok

    def _consume(self, absence: Absence) -> None:
        channel, entry = absence.channel, absence.entry
        if not channel.replayed:
            ending = (m.method_id(m.BasicCancel), m.CHANNEL_CLOSE)
            ends = any(each.request in ending and not each.silent for each in channel.pending)
            if ends or channel.publish_left != NO_CONTENT or channel.muted:
                return
            for request, frame in _steps(channel, entry):
                channel.out.append(frame)
                channel.pending.append(Pending(request, frame, hidden=True))
            entry.paused = False  # a channel that is about to leave asks for its end once more
        entry.absent = False
        self._absences.remove(absence)
        if absence.shown:
            journal = self._journal
            journal.report("consumer_resumed", channel=channel.number, took_s=round(journal.now - absence.since, 6))

    def _end(self, absence: Absence, cause: str) -> None:
        self._absences.remove(absence)
        journal, channel = self._journal, absence.channel
        queue = absence.entry.queue.decode("utf-8", "replace")
        journal.report("consumer_given_up", cause=cause, channel=channel.number, queue=queue)
        self._tell(channel, absence.entry, absence.word)
        if absence.refusal is not None and not self._understood:
            journal.condemn(channel, refusal(absence.refusal))

    def _tell(self, channel: Channel, entry: Setup | None, word: bytes) -> None:
        journal = self._journal
        if channel.arrears is not None:
            channel.arrears.flush(journal.client_out)  # its last deliveries come before its end
        if entry is not None:
            channel.forget_consumer(entry.tag)
            journal.topology.delete_queue(entry.queue)
        if self._understood:
            journal.say(channel, word)

    @property
    def _understood(self) -> bool:
        """The client knows that a broker may end a consumer."""
        credentials = self._journal.credentials
        return credentials is not None and credentials.can(b"consumer_cancel_notify")


def _is_asked_for(channel: Channel, entry: Setup) -> bool:
    """It is asked for anew, since a move has ended: its broker speaks of what it was before."""
    asked = [each for each in channel.pending if each.hidden and each.request == entry.request]
    return any(m.decode(m.BasicConsume, each.frame[7:-1]).consumer_tag == entry.tag for each in asked)


def _steps(channel: Channel, entry: Setup) -> list[tuple[int, bytes]]:
    """The consumer with its own prefetch, and then the one for consumers to come, where they differ."""
    at = next(index for index, each in enumerate(channel.setup) if each is entry)
    consume = (entry.request, entry.again())
    qos = m.method_id(m.BasicQos)
    later = [each.frame for each in channel.setup[at:] if not each.tag and not each.is_global]
    if not later:
        return [consume]
    earlier = [each.frame for each in channel.setup[:at] if not each.tag and not each.is_global]
    own = earlier[-1] if earlier else method_frame(channel.number, m.BasicQos(0, 0, False))
    return [(qos, own), consume, (qos, later[-1])]
