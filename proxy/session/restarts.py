"""Setting single channels up again on a connection that is fine."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.session.channel import NO_CONTENT, Channel
from proxy.session.journal import NOTHING, Journal, Phase
from proxy.session.pulse import Pulse
from proxy.session.requests import Requests
from proxy.session.restoration import Restoration
from proxy.session.verdict import Verdict, refusal


class Restarts:
    """Channels that must be opened anew behind the client's back, each at its own pace and within its own limit."""

    __slots__ = ("_channels", "_journal", "_polite", "_pulse", "_reasons", "_requests", "_restoration")

    def __init__(self, journal: Journal, restoration: Restoration, requests: Requests, pulse: Pulse) -> None:
        self._journal = journal
        self._restoration = restoration
        self._requests = requests
        self._pulse = pulse
        self._channels: list[Channel] = []
        # Why those are to be set up again that still wait for the end of a content.
        self._reasons: dict[Channel, str] = {}
        self._polite: frozenset[Channel] = NOTHING

    def begin(
        self, channel: Channel, reason: str, *, open_upstream: bool, redeclare: bool, polite: bool = False
    ) -> None:
        """Plan it; `polite`: nothing is wrong, so there is nothing to wait for or to tell.

        A content under way is finished first, in both directions: a close inside a publish would kill the connection
        (505), and of a delivery that streams the client has one half already.
        """
        journal = self._journal
        policy = journal.policy
        if channel.awaits_close_ok:
            return
        channel.restart_topology = redeclare
        self._reasons.pop(channel, None)
        if channel not in self._channels:
            self._channels.append(channel)
        if open_upstream and self._inside_content(channel):
            channel.restart_wanted = True
            channel.flowing = False  # the publish under way may end; what the client sends behind it waits
            channel.settling = None
            self._reasons[channel] = reason
            return
        closing = channel.muted
        self._restoration.detach(channel, lost=not open_upstream)
        if open_upstream and not closing:
            channel.tell_broker(m.ChannelClose(200, b"set up again"))
        if channel.awaits_close_ok:
            return
        channel.muted = open_upstream
        if channel.restart_deadline is None:
            channel.restart_deadline = journal.now + policy.failover_timeout_s
        if polite:
            self._polite |= {channel}
            channel.restart_deadline = journal.now + policy.move_timeout_s
            channel.restart_at = journal.now
            return
        channel.restart_at = journal.now + min(policy.retry_max_s, policy.retry_base_s * 2 ** min(channel.restarts, 16))
        if open_upstream:
            channel.restarts += 1
        journal.report("channel_restarted", channel=channel.number, reason=reason, attempt=channel.restarts)

    @property
    def under_way(self) -> bool:
        """Some channel is being set up again."""
        return bool(self._channels)

    def _inside_content(self, channel: Channel) -> bool:
        return channel.streaming or (channel.publish_left != NO_CONTENT and not channel.discarding)

    def forget(self, channel: Channel) -> None:
        """Its connection is gone, or it is over."""
        if channel in self._channels:
            self._channels.remove(channel)
        self._reasons.pop(channel, None)
        if channel in self._polite:
            self._polite -= {channel}
            channel.healed()  # nothing was wrong with it

    def due(self) -> list[float | None]:
        """When the next ones are to be opened. What waits for topology goes on when that is there, not by the clock.

        Nor does any while the session closes, which has a limit of its own.
        """
        if not self._channels and self._restoration.unanswered_until is None:
            return []
        over = self._journal.phase in (Phase.CLOSING, Phase.ENDED)
        if over or not self._restoration.topology_done or not self._journal.attached:
            return []
        due = [self._unanswered_until(c.restart_deadline) if c.muted else c.restart_at for c in self._channels]
        due.append(self._unanswered_until(self._restoration.unanswered_until))
        return due

    def _unanswered_until(self, until: float | None) -> float | None:
        """When a broker has not answered that had to by then: a client that does not read keeps its answer waiting."""
        return None if until is None else max(until, self._pulse.answers_by)

    def progress(self) -> None:
        """Open what may be opened now."""
        journal = self._journal
        for channel in list(self._channels):
            if channel.awaits_close_ok or journal.channels[channel.number] is not channel:
                self.forget(channel)
            elif channel.restart_wanted:
                if not self._inside_content(channel):
                    channel.restart_wanted = False
                    self.begin(channel, self._reasons.pop(channel), open_upstream=True, redeclare=False)
            elif channel.restart_at is None:
                self.forget(channel)
            elif channel.muted:
                until = self._unanswered_until(channel.restart_deadline)
                if until is None or journal.now < until:
                    continue
                if channel.uplink is not None:
                    journal.lifecycle.broker_hangs(channel.uplink)
            elif channel.restart_at <= journal.now:
                self._open(channel)
        until = self._unanswered_until(self._restoration.unanswered_until)
        if until is not None and until <= journal.now:
            self._review_replays()

    def _review_replays(self) -> None:
        """A channel whose replay the broker does not answer, as without a quorum, is given up; the others go on."""
        journal = self._journal
        unanswered = [channel for channel in journal.live_channels() if channel.hidden_pending and not channel.muted]
        for channel in unanswered:
            if channel.replay_until <= journal.now:
                waited_s = journal.policy.failover_timeout_s
                text = b"INTERNAL_ERROR - the broker has not answered for %ds what sets the channel up again" % waited_s
                channel.verdict = Verdict("not_answered", m.ChannelClose(541, text, 0, 0))
                channel.restart_deadline = None  # that of an earlier trouble may be over
                self.begin(channel, "replay not answered", open_upstream=True, redeclare=False)
        later = [channel.replay_until for channel in unanswered if channel.replay_until > journal.now]
        self._restoration.unanswered_until = min(later, default=None)

    def _open(self, channel: Channel) -> None:
        journal = self._journal
        restoration = self._restoration
        if channel.restart_deadline is not None and journal.now > channel.restart_deadline and channel.last_error[0]:
            self.forget(channel)
            journal.give_up(channel, refusal(m.ChannelClose(*channel.last_error)))
            return
        if channel.restart_topology and restoration.topology_done and journal.uplink is not None:
            channel.restart_topology = False
            restoration.begin(journal.uplink)
        if restoration.topology_done and journal.attached:
            self.forget(channel)
            restoration.restore(channel)
            self._requests.drain(channel)
