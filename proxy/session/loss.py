"""What the end of a broker connection means: the client's affair, the node's, or one of its channels'."""

from __future__ import annotations

import math
import re

from proxy.amqp import methods as m
from proxy.session.attachment import Attachment
from proxy.session.commands import Observation, Observe
from proxy.session.ending import Ending
from proxy.session.journal import Journal, Phase
from proxy.session.requests import Requests
from proxy.session.restarts import Restarts
from proxy.session.restoration import Restoration
from proxy.session.uplink import Stage, Uplink

# A node that ends all connections because it goes away itself (texts of RabbitMQ 3.x and 4.x).
_NODE_LEAVES = re.compile(rb"reason 'shutdown'|maintenance mode")
# One virtual host failed there: its clients have to leave, the node is fine for all others.
_VHOST_DOWN = re.compile(rb"vhost '.*' is down", re.DOTALL)
_OBJECT_DELETED = re.compile(rb"(vhost|user) '.*' is deleted", re.DOTALL)
# An operator's close is recovered from at most this often.
FORCED_CLOSE_PAUSE_S = 60.0
# After so long without an internal error a cluster was at rest; it may come into trouble so often in that time.
REST_S = 10.0
TROUBLES_MAX, TROUBLES_IN_S = 10, 600.0


class Loss:
    """Broker connections that end, however they do: shutdown, crash and reset take the same path."""

    __slots__ = (
        "_attachment",
        "_ending",
        "_failed_at",
        "_failing_since",
        "_forced_at",
        "_journal",
        "_requests",
        "_restarts",
        "_restoration",
    )

    def __init__(
        self,
        journal: Journal,
        attachment: Attachment,
        restoration: Restoration,
        restarts: Restarts,
        requests: Requests,
        ending: Ending,
    ) -> None:
        self._journal = journal
        self._attachment = attachment
        self._restoration = restoration
        self._restarts = restarts
        self._requests = requests
        self._ending = ending
        self._forced_at: float | None = None
        self._failing_since: list[float] = []
        self._failed_at = -math.inf

    def closed(self, uplink: Uplink, close: m.ConnectionClose) -> None:
        """A broker said `connection.close`: recover if it is the node's affair, else it is the client's."""
        journal = self._journal
        uplink.tell(0, m.ConnectionCloseOk())
        in_handshake = uplink.stage in (Stage.GREETED, Stage.TUNED, Stage.OPENING)
        if uplink is journal.candidate and (in_handshake or not self._attachment.searching):
            self._attachment.refused(close)
        elif uplink is journal.leaving or self._recovers(close):
            text = close.reply_text.decode("utf-8", "replace")
            self.lost(uplink, text, "forced_close" if _NODE_LEAVES.search(close.reply_text) else None)
        else:
            uplink.stage = Stage.CLOSING
            text = close.reply_text.decode("utf-8", "replace")
            journal.lifecycle.end_client(close.reply_code, text, close.class_id, close.method_id)

    def _recovers(self, close: m.ConnectionClose) -> bool:
        journal = self._journal
        if journal.phase not in (Phase.RUNNING, Phase.FLUSHING):
            return True
        if close.reply_code == 320 and (_NODE_LEAVES.search(close.reply_text) or _VHOST_DOWN.search(close.reply_text)):
            return True
        operators = (
            close.reply_code == 320
            and journal.policy.forced_close == "recover"
            and not _OBJECT_DELETED.search(close.reply_text)
        )
        if close.reply_code == 541:
            return self._may_come_to_rest()
        if not operators:
            return False
        if self._forced_at is not None and journal.now < self._forced_at + FORCED_CLOSE_PAUSE_S:
            return False
        self._forced_at = journal.now
        return True

    def _may_come_to_rest(self) -> bool:
        """Whether internal errors are still the cluster's affair: for as long as any failover may take.

        A queue without a leader costs whoever asks it for a message the connection, and a stream whose coordinator has
        no quorum whoever wants to read it, on every node. A request that breaks a broker ends here as well: at once and
        again and again, or every now and then.
        """
        now = self._journal.now
        if now >= self._failed_at + REST_S:
            self._failing_since = [since for since in self._failing_since if now < since + TROUBLES_IN_S] + [now]
        self._failed_at = now
        spent = len(self._failing_since) > TROUBLES_MAX
        return not spent and now < self._failing_since[-1] + self._journal.policy.failover_timeout_s

    def lost(self, uplink: Uplink, reason: str, outcome: Observation | None, cause: str = "operator_close") -> None:
        """A broker connection is over; its channels need another one. `cause` is for what is no outcome."""
        journal = self._journal
        if uplink is journal.candidate:
            self._attachment.failed(reason, "failover_failed" if outcome == "lost" else outcome)
            return
        expected = uplink.stage is Stage.CLOSING
        if outcome is not None and not expected:
            journal.commands.append(Observe(uplink.generation, outcome))
        journal.hang_up(uplink, abort=outcome == "heartbeat_missed")
        self._restoration.abandon(uplink)
        if journal.phase is Phase.CLOSING:
            if not journal.uplinks:
                self._ending.end()
        elif not expected:
            self._orphan(uplink, reason, outcome or cause)

    def hangs(self, uplink: Uplink) -> None:
        """A broker does not close a channel. One that is to be left anyway says nothing of its health by that."""
        outcome: Observation | None = None if uplink is self._journal.leaving else "lost"
        self.lost(uplink, "broker did not close a channel", outcome, "move_ended")

    def _orphan(self, uplink: Uplink, reason: str, cause: str) -> None:
        """Take the channels off a broker that is gone, and find them another one."""
        journal = self._journal
        attachment = self._attachment
        orphans = [channel for channel in journal.live_channels() if channel.uplink is uplink]
        attachment.failovers += 1
        journal.report("failover_started", endpoint=uplink.endpoint, reason=reason)
        if any(channel.streaming for channel in orphans):
            # Nothing else may be said on that channel: the client is inside a content.
            self._ending.because("lost_inside_body")
            journal.lifecycle.end_client(320, "CONNECTION_FORCED - broker connection lost inside message body")
            return
        exposed = sum(channel.exposed for channel in orphans)
        if exposed:
            journal.report("deliveries_at_risk", cause="no_ack", count=exposed)
        for channel in orphans:
            self._restoration.detach(channel)
            for request in channel.pending:
                request.declared_before = request.request == m.method_id(m.QueueDeclare)
            channel.attach(None)
            channel.restart_deadline = None  # what went wrong there may well go right elsewhere
            self._restarts.forget(channel)
        if journal.uplink is None:
            self._restoration.obituary.connection_lost()
            attachment.search(reason, cause, uplink.endpoint)
            if journal.phase is Phase.FLUSHING:
                self._ending.flush()
        else:
            if journal.uplink.generation < uplink.generation:
                journal.lifecycle.move_failed()
                for _, frame in journal.secret_updates:
                    journal.uplink.update_secret(frame)
            attachment.fell_back(reason, cause)
            self.attach_orphans()

    def attach_orphans(self) -> None:
        """Every channel without a broker connection goes to the present one, if what it uses is there."""
        journal = self._journal
        self._restoration.released = False
        if journal.uplink is None:
            return
        for channel in journal.crowded:
            journal.refuse_channel(channel)
        for channel in journal.live_channels():
            # What one of them had sent meanwhile may have ended them all.
            waits = channel.awaits_close_ok or self._restoration.misses(channel)
            if channel.uplink is None and not waits:
                self._restoration.restore(channel)
                self._requests.drain(channel)
        self._attachment.report_done()

    def give_up(self) -> None:
        """No broker was found in time: the client is told the truth."""
        journal = self._journal
        waited_s = journal.policy.failover_timeout_s
        last_error = self._attachment.last_error
        self._attachment.stop()
        journal.report("failover_given_up", reason=last_error, waited_s=waited_s)
        self._ending.because("no_broker")
        text = f"CONNECTION_FORCED - no broker reachable for {waited_s:g}s (last: {last_error})"
        journal.lifecycle.end_client(320, text)
