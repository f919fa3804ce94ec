"""What a broker says of publishes, and when a refusal may be believed."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.errors import BrokerError
from proxy.session.channel import CONSIDERED, Channel
from proxy.session.commands import LookAround
from proxy.session.journal import Journal

# How long a refusal waits for news of the other brokers: a refused connection tells within milliseconds.
DOUBT_S = 0.5
# A cluster that was found well is believed for so long: a full queue refuses many publishes.
BELIEF_S = 10.0


class Confirms:
    """Refusals are the client's if they are meant, and a symptom if a broker has just died.

    A queue whose home is lost refuses within milliseconds, before anybody else can know. So the first refusal of a
    cluster that is thought to be well waits, with what is confirmed after it, until somebody has looked.

    An ack of several spans what its broker has refused before. Where the refusal is not passed on, it is believed for
    the last of them only: the others are published again.
    """

    __slots__ = ("_believed_until", "_doubted", "_journal")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._doubted: dict[Channel, float] = {}
        self._believed_until = 0.0

    def take(self, channel: Channel, tag: int, multiple: bool, nack: bool) -> None:
        """A confirm that the client does not expect, or under another number, or a refusal.

        A refusal soon after a failover is not the client's business: a channel whose first publish met a queue
        without a leader has everything refused until it is opened anew (RabbitMQ before 3.13). Raises `BrokerError`.
        """
        journal = self._journal
        if tag < 0 or channel.ledger.number_of(tag) > channel.ledger.window.top:  # below 0: beyond what C counts
            raise BrokerError("broker confirmed what was not published")
        if channel.doubted:
            channel.doubted.append((tag, multiple, nack))
        elif not nack or self._is_final(channel):
            journal.confirm(channel, tag, multiple and not channel.restart_wanted, nack)
        elif self._is_symptom():
            self._restart(channel)
        elif journal.now >= self._believed_until:
            channel.doubted.append((tag, multiple, nack))
            channel.confirm_path = CONSIDERED
            self._doubted[channel] = journal.now + DOUBT_S
            journal.commands.append(LookAround())
        else:
            journal.confirm(channel, tag, multiple, nack)

    @property
    def in_doubt(self) -> bool:
        """Some refusal is not believed yet."""
        return bool(self._doubted)

    def due(self) -> list[float]:
        """When it has to be known what to believe."""
        return list(self._doubted.values())

    def tick(self) -> None:
        """Believe what was said, or not."""
        journal = self._journal
        for channel in [each for each, until in self._doubted.items() if journal.now >= until]:
            if channel.streaming:
                self._doubted[channel] = journal.now + DOUBT_S  # the client is inside a content
                continue
            del self._doubted[channel]
            words, channel.doubted = channel.doubted, []
            if not words:
                continue  # its broker is gone
            channel.choose_confirm_path()
            symptom = self._is_symptom() and not self._is_final(channel)
            for tag, multiple, nack in words:
                if not nack or not symptom:
                    journal.confirm(channel, tag, multiple and not symptom, nack)
            if symptom:
                self._restart(channel)
            else:
                self._believed_until = journal.now + BELIEF_S

    def _restart(self, channel: Channel) -> None:
        if not channel.restart_wanted:
            self._journal.lifecycle.restart(channel, "publish refused during recovery", open_upstream=True)
            channel.choose_confirm_path()

    def _is_final(self, channel: Channel) -> bool:
        """Nothing more can be done about it: the time is over, or the client closes the channel."""
        over = channel.restart_deadline is not None and self._journal.now > channel.restart_deadline
        return over or any(request.request == m.CHANNEL_CLOSE for request in channel.pending)

    def _is_symptom(self) -> bool:
        journal = self._journal
        recovered_at = journal.recovered_at
        soon = recovered_at is not None and journal.now < recovered_at + journal.policy.nack_hold_s
        return soon or journal.troubled(journal.now)
