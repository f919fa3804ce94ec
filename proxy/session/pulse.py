"""Heartbeats of the two legs, independent of each other (section 4.2.7): every byte counts as one."""

from __future__ import annotations

import math

from proxy.amqp.frames import HEARTBEAT_FRAME
from proxy.session.journal import Journal
from proxy.session.uplink import Uplink

# RabbitMQ's rule for a peer that is dead: two intervals without a byte.
MISSED_HEARTBEATS = 2
# While a client is not read, it gets heartbeats more often, and is looked at: nothing else shows that it is gone.
UNREAD_BEAT_S = 2.0


class Pulse:
    """When was each side heard and spoken to? Half an interval of silence on our part makes a heartbeat due."""

    __slots__ = (
        "_broker_read_at",
        "_client_said_at",
        "_excused_since",
        "_journal",
        "_looked_at",
        "broker_unread_at",
        "client_heard_at",
        "client_left_at",
        "client_unread_at",
        "reading",
    )

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.client_heard_at = journal.now
        self._client_said_at = journal.now
        # When the client was last heard, if its silence since then is excused.
        self._excused_since: float | None = None
        # The engine's own limits allow the client to go on.
        self.reading = True
        # Since when the shell lets them wait, None while it does not.
        self.client_unread_at: float | None = None
        self.broker_unread_at: float | None = None
        self._broker_read_at = -math.inf  # when it was read again
        # Since when a client that is not read is known to have closed its connection.
        self.client_left_at: float | None = None
        self._looked_at = journal.now

    def unread(self, client: bool, broker: bool, now: float, *, left: bool = False) -> None:
        """Which sides the shell lets wait because the other side is slow; their silence then means nothing.

        `left`: the client has closed its connection, with what it said last still unread.
        """
        if self.client_unread_at is not None and not client:
            self.client_heard_at = now
        if self.broker_unread_at is not None and not broker:
            self._broker_read_at = now
            self._journal.stirred = True
            for uplink in self._journal.uplinks:
                uplink.heard_at = now
        self.client_unread_at = (self.client_unread_at or now) if client else None
        self.broker_unread_at = (self.broker_unread_at or now) if broker else None
        self.client_left_at = (self.client_left_at or now) if left else None

    @property
    def answers_by(self) -> float:
        """Until then nothing is to be made of an answer that a broker owes: it is not read, or was not until lately."""
        if self.broker_unread_at is not None:
            return math.inf
        return self._broker_read_at + self._journal.policy.handshake_timeout_s

    def wrote(self, uplink: Uplink | None, now: float) -> None:
        """Output for a broker, or for the client (None), was taken by the shell."""
        if uplink is None:
            self._client_said_at = now
        else:
            uplink.said_at = now

    def read(self, wanted: bool) -> None:
        """Go on reading the client, or stop: its silence means nothing then."""
        self.reading = wanted
        self.client_heard_at = self._journal.now

    def due(self) -> float:
        """When something has to be said or has been missed. A peer that we do not read cannot be missed."""
        due: list[float] = []
        beat = self._journal.client_heartbeat_s
        if beat:
            due.append(self._client_said_at + self._client_interval_s())
        if not self._client_is_read():
            due.append(self.client_left_until or self._looked_at + UNREAD_BEAT_S)
        elif beat:
            due.append(self._silent_at(beat))
        for uplink in self._journal.uplinks:
            if uplink.heartbeat_s:
                due.append(uplink.said_at + uplink.heartbeat_s / 2)
                if self.broker_unread_at is None or uplink is self._journal.candidate:
                    due.append(uplink.heard_at + MISSED_HEARTBEATS * uplink.heartbeat_s)
        return min(due, default=math.inf)

    def beat(self) -> None:
        """Say what is due."""
        journal = self._journal
        self._looked_at = journal.now
        if journal.client_heartbeat_s and journal.now >= self._client_said_at + self._client_interval_s():
            journal.client_out.append(HEARTBEAT_FRAME)
        for uplink in journal.uplinks:
            if uplink.heartbeat_s and journal.now >= uplink.said_at + uplink.heartbeat_s / 2:
                uplink.out.append(HEARTBEAT_FRAME)

    @property
    def client_left_until(self) -> float | None:
        """When a client that has closed its connection is given up, though it could not be read to its last word."""
        return None if self.client_left_at is None else self.client_left_at + self._journal.policy.failover_timeout_s

    def client_missed(self) -> str:
        """Why the client is taken for gone, empty if it is not.

        It has missed its heartbeats: one that waits for us gets `failover_timeout_s` more, since libraries that block
        in a call send none meanwhile. Or it has closed its connection, and cannot be read.
        """
        if self.client_left_until is not None:
            if self._journal.now < self.client_left_until:
                return ""
            self.client_left_at = math.inf  # it is told once
            return "client_gone"
        beat = self._journal.client_heartbeat_s
        if not beat or not self._client_is_read() or self._journal.now < self._silent_at(beat):
            return ""
        if self._excused_since == self.client_heard_at or not self._client_waits():
            return "client_silent"
        self._excused_since = self.client_heard_at
        return ""

    def broker_silent(self, uplink: Uplink) -> bool:
        """A broker has missed its heartbeats: its socket may be open, it hangs all the same."""
        if not uplink.heartbeat_s or (self.broker_unread_at is not None and uplink is not self._journal.candidate):
            return False
        return self._journal.now >= uplink.heard_at + MISSED_HEARTBEATS * uplink.heartbeat_s

    def _silent_at(self, beat_s: float) -> float:
        excused = self._excused_since == self.client_heard_at
        grace_s = self._journal.policy.failover_timeout_s if excused else 0.0
        # One that had to wait for a broker gets its time from then on: it may be about to speak.
        since = max(self.client_heard_at, self._journal.recovered_at or self.client_heard_at)
        return since + MISSED_HEARTBEATS * beat_s + grace_s

    def _client_waits(self) -> bool:
        journal = self._journal
        waiting = (each.pending or each.parked or each.committing or each.unsettled for each in journal.live_channels())
        return not journal.attached or any(waiting)

    def _client_is_read(self) -> bool:
        return self.reading and self.client_unread_at is None

    def _client_interval_s(self) -> float:
        half = self._journal.client_heartbeat_s / 2
        return half if self._client_is_read() else min(half, UNREAD_BEAT_S)
