"""Queues that died with a broker connection, for clients that want to be told instead of finding them empty."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.session.journal import Journal, Phase
from proxy.session.topology import Declaration
from proxy.session.verdict import Verdict, is_out_of_reach, refusal


class Obituary:
    """What `session.lost_queues: tell` makes of a client's own queues: they are looked for, and not declared again."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def tells(self, declaration: m.QueueDeclare) -> bool:
        """Whether the client wants to know of its loss. A queue that it does not know of is declared again."""
        journal = self._journal
        return journal.policy.lost_queues == "tell" and declaration.queue not in journal.reply_queues.values()

    def said(self, declaration: Declaration) -> Declaration:
        """What a broker is asked for in the place of a declaration."""
        if isinstance(declaration, m.QueueDeclare) and self.tells(declaration):
            return declaration._replace(passive=True)
        return declaration

    def connection_lost(self) -> None:
        """Exclusive queues went with it, wherever they were."""
        if self._journal.phase is Phase.RUNNING:
            for declaration, _ in list(self._journal.topology.queues.values()):
                if declaration.exclusive and self.tells(declaration):
                    self.tell(declaration.queue)

    def refused(self, declaration: Declaration, close: m.ChannelClose) -> bool:
        """A broker refused to name a queue; True if it is lost, and whoever uses it is told."""
        lost = close.reply_code == 404 and not is_out_of_reach(close)
        if not lost or not isinstance(declaration, m.QueueDeclare) or not self.tells(declaration):
            return False
        self.tell(declaration.queue)
        return True

    def tell(self, queue: bytes) -> None:
        """The channels that declared it, or consume from it, are over; it is the client's to declare again."""
        journal = self._journal
        _, owner = journal.topology.queues[queue]
        users = [
            channel
            for channel in journal.live_channels()
            if channel is owner or any(entry.tag and entry.queue == queue for entry in channel.setup)
        ]
        verdict = _lost(queue)
        journal.topology.delete_queue(queue)
        reason = verdict.close.reply_text.decode("utf-8", "replace")
        journal.report("topology_lost", cause="not_restored", reason=reason, channel=owner.number)
        for channel in users:
            journal.condemn(channel, verdict)


def judged(declaration: Declaration, close: m.ChannelClose) -> Verdict:
    """A refusal as its client understands it: it did not ask for the name that a broker had given its queue."""
    if not isinstance(declaration, m.QueueDeclare) or not declaration.queue.startswith(b"amq."):
        return refusal(close)
    return _lost(declaration.queue, b": only brokers may give it that name")


def _lost(queue: bytes, why: bytes = b"") -> Verdict:
    text = b"NOT_FOUND - queue '%.150s' was lost with its broker%b" % (queue, why)
    return Verdict("queue_lost", m.ChannelClose(404, text, 50, 10))
