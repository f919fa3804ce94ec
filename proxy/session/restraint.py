"""Keeping each channel to the window that its client asked for, over the loss of a broker."""

from __future__ import annotations

from proxy.session.arrears import Arrears
from proxy.session.channel import TX, Channel
from proxy.session.journal import Journal
from proxy.session.window import Window


class Restraint:
    """Who is in arrears, and for how long that counts.

    A client that never settles what it holds has used up its window at the broker that is gone just as well; but the
    copies that come again may be what it waits for, and a broker closes a channel that settles nothing for half an
    hour. So waiting has an end.
    """

    __slots__ = ("_journal", "due")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # When the first channel has waited for long enough.
        self.due: float | None = None

    def begin(self, channel: Channel) -> None:
        """A channel loses its broker: what the client has seen and not settled is stale from here on.

        In a transaction a rollback makes settling undone, which the window has no memory of: nothing is kept back.
        """
        journal = self._journal
        policy = journal.policy
        stale, arrears = channel.window, channel.arrears
        top = stale.top
        channel.window = Window(top)
        channel.arrears = None
        if arrears is not None:
            arrears.drop(stale)
        if channel.half_seen:
            stale.settle(top)
        if channel.handed is not None:
            channel.handed.lose_broker(stale)
        if arrears is not None:
            arrears.stale.append(stale)
            stale = arrears.stale
        if not stale.open_count or not policy.redelivery_hold_timeout_s or channel.mode == TX:
            return
        until = journal.now + policy.redelivery_hold_timeout_s
        channel.arrears = Arrears(stale, channel.setup, channel.load, policy.redelivery_hold_bytes_max, until)
        self.due = until if self.due is None else min(self.due, until)

    def tick(self) -> None:
        """Let go of those that have waited for too long."""
        journal = self._journal
        if self.due is None or journal.now < self.due:
            return
        self.due = None
        for channel in journal.live_channels():
            arrears = channel.arrears
            if arrears is None:
                continue
            if journal.now >= arrears.until:
                arrears.flush(journal.client_out)
                channel.arrears = None
            elif self.due is None or arrears.until < self.due:
                self.due = arrears.until
