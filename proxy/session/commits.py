"""Commits that wait until queues have what no queue took of them.

A cluster also commits what no queue takes, as while the home of a classic queue is down. So publishes in transactions
are mandatory behind the client's back like those that are confirmed; what comes back does so before the commit's
answer (RabbitMQ).
"""

from __future__ import annotations

from functools import partial

from proxy.amqp import methods as m
from proxy.amqp.frames import Buffer, method_frame
from proxy.session.channel import Channel
from proxy.session.journal import Journal
from proxy.session.pending import Commit
from proxy.session.requests import Requests
from proxy.session.stamp import unstamped
from proxy.session.unrouted import Unrouted
from proxy.session.verdict import Verdict


class Commits:
    """What no queue took of a transaction goes to the courier; the commit is answered when all of it is taken."""

    __slots__ = ("_journal", "_requests", "_unrouted")

    def __init__(self, journal: Journal, unrouted: Unrouted, requests: Requests) -> None:
        self._journal = journal
        self._unrouted = unrouted
        self._requests = requests

    def returned(self, channel: Channel) -> None:
        """A publish of a transaction came back, whole: the client's affair if it asked for that, else ours."""
        journal, load = self._journal, self._journal.load
        pieces = channel.release()
        commit = next((each.commit for each in channel.pending if each.commit is not None), None)
        if commit is None or _route(pieces[0]) in commit.wanted_back:
            journal.counters.returns += 1
            journal.client_out.extend(pieces if journal.stamp is None else unstamped(pieces))
            return
        if load.unsettled_bytes + sum(map(len, pieces)) > load.unsettled_bytes_max:
            commit.lost = True
            return
        back = m.decode(m.BasicReturn, bytes(pieces[0])[7:-1])
        publish = m.BasicPublish(0, back.exchange, back.routing_key, False, False)
        frames = b"".join((method_frame(channel.number, publish), *pieces[1:]))
        commit.astray.append(frames)
        load.withhold(len(frames))

    def answered(self, channel: Channel, commit: Commit, frame: bytes) -> None:
        """The broker's answer: the client's at once, or when queues have all of it."""
        commit.answer = frame
        commit.release(self._journal.load)
        if commit.lost:
            self._refuse(channel)
            return
        taken = partial(self._taken, channel, commit)
        commit.waiting = sum(self._unrouted.committed(channel, frames, taken) for frames in commit.astray)
        commit.astray.clear()
        if not commit.waiting:
            self._tell(channel, commit)

    def _taken(self, channel: Channel, commit: Commit, nack: bool) -> None:
        """One more publish is taken, or never will be, which is the end of the channel."""
        commit.waiting -= 1
        over = channel.verdict is not None or channel.awaits_close_ok
        if over or self._journal.channels[channel.number] is not channel:
            return
        if nack:
            self._refuse(channel)
        elif not commit.waiting:
            self._tell(channel, commit)

    def _refuse(self, channel: Channel) -> None:
        text = b"INTERNAL_ERROR - committed, but not all of it found a queue in time"
        channel.verdict = Verdict("commit_unroutable", m.ChannelClose(541, text, 90, 20))
        self._journal.lifecycle.restart(channel, "a commit found no queue", open_upstream=True)

    def _tell(self, channel: Channel, commit: Commit) -> None:
        self._journal.say(channel, commit.answer)
        self._requests.committed(channel)


def _route(returned: Buffer) -> bytes:
    """Exchange and routing key of a return, as they stood in its publish: behind the reply code and text."""
    return bytes(returned[14 + returned[13] : -1])
