"""A polite change of brokers while the present one is well: nothing is lost, and nothing comes twice.

The session attaches to a second broker. Then each channel by itself: its consumers are cancelled, the client settles
what it has, the last confirms come in, the channel is closed there and opened here. Source: consumers must be gone
and every delivery settled before the channel closes, or the broker gives those messages out again.
"""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.amqp.frames import method_frame
from proxy.session.attachment import Attachment
from proxy.session.channel import NO_CONTENT, TX, Channel
from proxy.session.ending import CLOSE_WAIT_S
from proxy.session.journal import NOTHING, Journal, Phase
from proxy.session.ledger import DIRECT_REPLY_TO
from proxy.session.pending import Pending
from proxy.session.requests import Requests
from proxy.session.restarts import Restarts
from proxy.session.uplink import Stage

CANCEL = m.method_id(m.BasicCancel)

# When a session that could not leave tries again.
RETRY_S = 30.0
# For so long a broker that lacked something is avoided by the same session in its search for it.
LACKING_S = 60.0


class Move:
    """One session's way off a broker that is to be left. It stays where leaving would show to the client."""

    __slots__ = (
        "_attachment",
        "_flushed",
        "_journal",
        "_lacking",
        "_reason",
        "_requests",
        "_restarts",
        "_seeks",
        "_since",
        "_stays",
        "_told",
        "_until",
        "_wanted",
        "start_at",
    )

    def __init__(
        self,
        journal: Journal,
        attachment: Attachment,
        restarts: Restarts,
        requests: Requests,
    ) -> None:
        self._journal = journal
        self._attachment = attachment
        self._restarts = restarts
        self._requests = requests
        self._reason = ""
        self._since = 0.0
        self._wanted = False
        # What is to be left lacks something, and so did these brokers before.
        self._seeks = False
        self._lacking: dict[str, float] = {}
        self._told: tuple[str, ...] = ()
        # When to begin, None while nothing is to be left.
        self.start_at: float | None = None
        # Until when each channel tries; one that has failed stays where it is, and tries again much later.
        self._until: dict[Channel, float] = {}
        self._stays: dict[Channel, float] = {}
        # Channels whose broker was asked for a sign that it has read everything.
        self._flushed: frozenset[Channel] = NOTHING

    def plan(self, reason: str) -> None:
        """Leave the present broker some time soon: not all sessions at once."""
        self._want(reason)
        self._seeks = False
        self.start_at = self._journal.now + self._journal.rng.uniform(0.0, self._journal.policy.move_spread_s)

    def seek(self, reason: str) -> None:
        """Leave the present broker at once, though not all is as it was: it lacks what one of the channels needs."""
        journal = self._journal
        if self.start_at is not None or self.under_way or journal.uplink is None:
            return
        self._want(reason)
        self._seeks = True
        self.start_at = now = journal.now
        self._lacking = {name: at for name, at in self._lacking.items() if now < at + LACKING_S}
        self._lacking[journal.uplink.endpoint] = now

    def _want(self, reason: str) -> None:
        self._reason = reason
        self._told = ()
        self._wanted = True

    def cancel(self) -> None:
        """The broker may be stayed with. Channels that have moved stay where they are."""
        self.start_at = None
        self._wanted = False
        candidate = self._journal.candidate
        if candidate is not None and not self._attachment.searching:
            self._journal.hang_up(candidate, goodbye=b"not needed after all")

    def due(self) -> list[float]:
        """When the time of a channel is over, or it may try again."""
        if not self._splits():
            return []
        due = [at for channel, at in self._until.items() if channel.publish_left == NO_CONTENT]
        due.extend(self._stays.values())
        return due

    @property
    def waiting(self) -> list[int]:
        """Numbers of the channels that are without their consumers, or not read, for the sake of the move."""
        return [each.number for each in self._until if not each.flowing or any(entry.paused for entry in each.setup)]

    @property
    def until(self) -> float | None:
        """When the first of them works on where it is, if it has not moved until then."""
        return min(self._until.values(), default=None)

    @property
    def under_way(self) -> bool:
        """There is a second broker connection."""
        return self._journal.leaving is not None or self._journal.candidate is not None

    def tick(self) -> None:
        """Begin when it is time."""
        if self.start_at is None or self._journal.now < self.start_at:
            return
        journal = self._journal
        anchors = tuple(_anchors(journal))
        if anchors or not self._at_rest():
            self.start_at = journal.now + RETRY_S
            if anchors and anchors != self._told:
                self._told = anchors
                journal.report("session_stays", reason="; ".join(anchors))
            return
        self.start_at = None
        self._since = journal.now
        assert journal.uplink is not None
        self._attachment.dial_beside(frozenset((journal.uplink.endpoint, *(self._lacking if self._seeks else ()))))

    def _at_rest(self) -> bool:
        journal = self._journal
        return (
            journal.phase is Phase.RUNNING
            and journal.uplink is not None
            and not journal.uplink.blocked
            and len(journal.uplinks) == 1
            and not journal.secret_updates
            and not any(channel.uplink is None for channel in journal.live_channels())
            and (self._seeks or (self._attachment.since is None and not self._restarts.under_way))
        )

    def failed(self) -> None:
        """The other broker could not be had: the session is where it was."""
        if self._wanted:
            self.start_at = self._journal.now + RETRY_S

    def may_split(self) -> bool:
        """Whether channels may now be on two brokers; not with a queue that belongs to one connection or node."""
        journal = self._journal
        if journal.topology.queues or journal.uplink is None or journal.uplink.blocked:
            self._attachment.failed("the present broker has to be stayed with")
            return False
        declare = m.method_id(m.QueueDeclare)
        return not any(request.request == declare for each in journal.live_channels() for request in each.pending)

    def _splits(self) -> bool:
        leaving = self._journal.leaving
        return leaving is not None and leaving.stage is Stage.ATTACHED and self._journal.phase is Phase.RUNNING

    def progress(self) -> None:
        """Take every channel as far as it can go now."""
        journal = self._journal
        leaving = journal.leaving
        if leaving is None or not self._splits():
            if self._until or self._stays:
                self._stop()
            return
        waiting = [channel for channel in journal.live_channels() if channel.uplink is leaving]
        for channel in waiting:
            self._step(channel)
        for known in (self._until, self._stays):
            for channel in [each for each in known if each.uplink is not leaving or each.awaits_close_ok]:
                del known[channel]
        if waiting:
            return
        leaving.stage = Stage.CLOSING
        leaving.stage_deadline = journal.now + CLOSE_WAIT_S
        leaving.tell(0, m.ConnectionClose(200, b"moved to another broker"))
        assert journal.uplink is not None
        journal.report(
            "session_moved",
            endpoint=journal.uplink.endpoint,
            left=leaving.endpoint,
            reason=self._reason,
            took_s=round(journal.now - self._since, 6),
        )

    def _step(self, channel: Channel) -> None:
        journal = self._journal
        closes = any(request.request == m.CHANNEL_CLOSE for request in channel.pending)
        if closes or channel.restart_at is not None or channel.restart_wanted or not channel.opened:
            # A method behind its close would end the connection; what is being set up again is so at the new broker.
            self._until.pop(channel, None)
            self._stays.pop(channel, None)
            return
        if channel in self._stays:
            if journal.now < self._stays[channel]:
                return
            del self._stays[channel]
        if channel.publish_left != NO_CONTENT:
            return  # a method inside a content would end the connection; the end of the content leads here again
        until = self._until.setdefault(channel, journal.now + journal.policy.move_timeout_s)
        if journal.now >= until or _ties(journal, channel):
            self._stays[channel] = journal.now + RETRY_S + journal.policy.move_timeout_s
            self._resume(channel)
            return
        for entry in channel.setup:
            if entry.tag and not entry.paused and not entry.absent:
                entry.paused = True
                self._ask(channel, m.BasicCancel(entry.tag, False))
        # Its publishes, acks and requests go on as ever until the client holds nothing of this broker any more.
        if channel.pending or channel.holds or self._inside_something(channel):
            return
        channel.flowing = False
        if channel.ledger.unsettled:
            return
        if journal.policy.publish_guarantee == "as_sent" and not channel.ledgered and channel not in self._flushed:
            # What was published without confirms may still be returned, before the answer to this.
            self._flushed |= {channel}
            self._ask(channel, m.ChannelFlow(True))
            return
        self._flushed -= {channel}
        del self._until[channel]
        self._restarts.begin(channel, "", open_upstream=True, redeclare=False, polite=True)

    def _inside_something(self, channel: Channel) -> bool:
        return channel.deliver_left != NO_CONTENT or (channel.mode == TX and channel.tx_dirty)

    def _stop(self) -> None:
        """The move is over: a broker was lost, or the client is leaving. Channels that were about to leave go on."""
        journal = self._journal
        live = journal.live_channels()
        self._stays.clear()
        for channel in [each for each in self._until if each.publish_left == NO_CONTENT or each not in live]:
            closes = any(request.request == m.CHANNEL_CLOSE for request in channel.pending)
            if channel in live and channel.uplink in journal.uplinks and channel.restart_at is None and not closes:
                self._resume(channel)
            else:
                del self._until[channel]

    def _resume(self, channel: Channel) -> None:
        """Let it work on where it is."""
        self._until.pop(channel, None)
        self._flushed -= {channel}
        paused = self._journal.phase is Phase.RUNNING and any(entry.paused for entry in channel.setup)
        cancels = [each for each in channel.pending if each.request == CANCEL and each.answered is not None]
        ended = [m.decode(m.BasicCancel, each.frame[7:-1]).consumer_tag for each in cancels]
        for entry in channel.setup if paused else ():
            if entry.tag in ended:
                continue  # by the client, meanwhile
            if entry.paused or not entry.tag:  # a prefetch counts for the consumers after it
                entry.paused = False
                frame = entry.again()
                channel.out.append(frame)
                channel.pending.append(Pending(entry.request, frame, hidden=True))
        channel.flowing = channel.may_flow
        self._requests.drain(channel)

    def _ask(self, channel: Channel, request: m.BasicCancel | m.ChannelFlow) -> None:
        frame = method_frame(channel.number, request)
        channel.out.append(frame)
        channel.pending.append(Pending(m.method_id(type(request)), frame, silent=True))


def obstacles(journal: Journal) -> list[str]:
    """What a move at this moment would make visible to the client, in words for people."""
    found = []
    for channel in journal.live_channels():
        if channel.mode == TX and channel.tx_dirty:
            found.append(f"channel {channel.number} has an open transaction")
        if channel.streaming:
            found.append(f"channel {channel.number} is inside a large delivery")
    return found + _anchors(journal)


def _anchors(journal: Journal) -> list[str]:
    """What holds the whole session where it is, until the client gives it up."""
    found = [tie for channel in journal.live_channels() for tie in _ties(journal, channel)]
    for name, (declared, _) in journal.topology.queues.items():
        # If the session stays, its failover declares them again; if it left, nobody would.
        kind = "exclusive" if declared.exclusive else "auto-delete" if declared.auto_delete else "transient"
        found.append(f"{kind} queue {_shown(name)} lives on this broker")
    return found


def _ties(journal: Journal, channel: Channel) -> list[str]:
    """What a channel would lose by leaving; one that is being set up again has nothing at its broker."""
    if channel.restart_at is not None:
        return []
    number = channel.number
    found = []
    if channel.mode == TX and channel.window.top:
        # A rollback makes acks undone, which our window has no memory of.
        found.append(f"channel {number} receives in transactions")
    for entry in channel.setup:
        if entry.queue == DIRECT_REPLY_TO:
            found.append(f"channel {number} has a reply address on this broker")
        elif entry.tag and entry.sought and not entry.placed:
            found.append(f"channel {number} has got nothing yet of the stream {_shown(entry.queue)}")
        elif entry.exclusive:
            found.append(f"channel {number} has queue {_shown(entry.queue)} for itself, which another may take")
        elif entry.tag and journal.topology.is_auto_delete(entry.queue):
            found.append(f"auto-delete queue {_shown(entry.queue)} would go with its last consumer")
    return found


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "replace"))
