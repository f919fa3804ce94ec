"""Commits that wait until queues have what no queue took of them.

A cluster also commits what no queue takes, as while the home of a classic queue is down. So publishes in transactions
are mandatory behind the client's back like those that are confirmed; what comes back does so before the commit's
answer (RabbitMQ).
"""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.amqp.frames import method_frame
from proxy.session.channel import Channel
from proxy.session.journal import Journal
from proxy.session.pending import Pending
from proxy.session.stamp import unstamped
from proxy.session.unrouted import Unrouted


class Commits:
    """What no queue took of a transaction goes to the courier; the commit is answered when all of it is taken."""

    def __init__(self, journal: Journal, unrouted: Unrouted) -> None:
        self._journal = journal
        self._unrouted = unrouted
        self._limit_bytes = journal.policy.unsettled_bytes_max

    def returned(self, channel: Channel) -> None:
        """A publish of a transaction came back, whole. It is the client's if that wants publishes of it back.

        So is what the session may not keep: to be told of a loss that was not asked for is better than none.
        """
        journal = self._journal
        pieces = channel.release()
        commit = channel.pending[0].commit if channel.pending else None
        size = sum(map(len, pieces))
        if commit is None or journal.load.unsettled_bytes + commit.astray_bytes + size > self._limit_bytes:
            journal.counters.returns += 1
            journal.client_out.extend(pieces if journal.stamp is None else unstamped(pieces))
            return
        back = m.decode(m.BasicReturn, bytes(pieces[0])[7:-1])
        publish = m.BasicPublish(0, back.exchange, back.routing_key, False, False)
        commit.astray.append(b"".join((method_frame(channel.number, publish), *pieces[1:])))
        commit.astray_bytes += size

    def answered(self, channel: Channel, request: Pending, frame: bytes) -> None:
        """Answer a request: at once, or behind the commit that waits."""
        commit = request.commit
        if commit is not None and commit.astray:
            commit.waiting = sum(self._unrouted.committed(channel, commit, frames) for frames in commit.astray)
            commit.astray.clear()
            if commit.waiting:
                channel.commits.append(commit)
        self._journal.answer(channel, frame)
