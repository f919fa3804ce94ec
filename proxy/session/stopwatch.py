"""How long a broker takes to confirm: one publish at a time is timed, seldom enough to cost nothing."""

from __future__ import annotations

from proxy.session.channel import Channel
from proxy.session.commands import Observe
from proxy.session.journal import Journal
from proxy.session.uplink import Uplink

# Balancing by response time needs a trend, not every message.
SAMPLE_INTERVAL_S = 1.0


class Stopwatch:
    """Times the newest publish of some channel until its confirm, for `least_response_time`."""

    __slots__ = ("_channel", "_journal", "_next_at", "_number", "_started_at", "_uplink")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._channel: Channel | None = None
        self._uplink: Uplink | None = None
        self._number = 0
        self._started_at = 0.0
        self._next_at = journal.now

    @property
    def channel(self) -> Channel | None:
        """The one on which a publish is measured."""
        return self._channel

    @property
    def since(self) -> float | None:
        """Since when a publish that is measured waits for its confirm."""
        return self._started_at if self._channel is not None else None

    def published(self) -> None:
        """The client may have published: start a measurement if none is running and one is due."""
        journal = self._journal
        if self._channel is not None or journal.now < self._next_at or not journal.load.unsettled_bytes:
            return
        for channel in journal.live_channels():
            if channel.ledger.unsettled and not channel.ledger.unfinished:
                self._channel = channel
                self._uplink = channel.uplink
                self._number = channel.ledger.window.top
                self._started_at = journal.now
                self._next_at = journal.now + SAMPLE_INTERVAL_S
                return

    def confirmed(self) -> None:
        """The broker may have confirmed."""
        journal = self._journal
        channel = self._channel
        if channel is None or channel.ledger.window.is_open(self._number):
            return
        self._channel = None
        # The time until another broker confirms says nothing of either.
        if self._uplink is not None and self._uplink is channel.uplink:
            took_s = journal.now - self._started_at
            journal.commands.append(Observe(self._uplink.generation, "confirmed", took_s))
