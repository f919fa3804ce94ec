"""One conversation of a client: events in, bytes and commands out. Total: every event is legal in every state.

The shell calls an event method, then writes what waits in `journal.client_out` and `journal.broker_out`, carries out
`journal.commands` and asks `deadline` when to call `tick`. `now` is monotonic seconds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.amqp.frames import HEARTBEAT_FRAME, OVERHEAD_BYTES, PROTOCOL_HEADER, Inlet
from proxy.errors import BrokerError, ClientError
from proxy.session.answers import Answers
from proxy.session.attachment import Attachment
from proxy.session.channel import NO_CONTENT, Channel
from proxy.session.commands import CloseClient, HangUp, Observation, Observe, ReadClient
from proxy.session.credentials import Face
from proxy.session.journal import Journal, Phase
from proxy.session.policy import SessionPolicy
from proxy.session.relay import scan_broker, scan_client
from proxy.session.requests import Requests
from proxy.session.restoration import Restoration
from proxy.session.uplink import Stage

# A node that ends all connections because it goes away itself (texts of RabbitMQ 3.x and 4.x).
_NODE_LEAVES = re.compile(rb"reason 'shutdown'|maintenance mode|vhost '.*' is down", re.DOTALL)
_OBJECT_DELETED = re.compile(rb"(vhost|user) '.*' is deleted", re.DOTALL)
# An operator's close, and an internal error of the broker, are recovered from at most this often.
FORCED_CLOSE_PAUSE_S = 60.0
# How long a close may wait for the other side's close-ok.
CLOSE_WAIT_S = 5.0
MISSED_HEARTBEATS = 2


class Session:
    """The engine of one client connection."""

    def __init__(
        self,
        policy: SessionPolicy,
        rng: random.Random,
        face: Face,
        now: float,
        *,
        troubled: Callable[[float], bool] = lambda _: False,
        via: str = "sidehop",
    ) -> None:
        self.journal = Journal(policy, rng, face, troubled, via)
        self.journal.lifecycle = self
        self.journal.now = now
        self.restoration = Restoration(self.journal)
        self.attachment = Attachment(self.journal, self.restoration)
        self.requests = Requests(self.journal)
        self.answers = Answers(self.journal, self.attachment, self.restoration)
        self._inlet = Inlet()
        self._client_here = True
        self._owes_close_ok = False
        self._client_heard_at = now
        self._client_said_at = now
        self._reading = True
        self._until: float | None = now + policy.handshake_timeout_s  # of a handshake, a flush or a close
        self._restarting: list[Channel] = []
        self._forced_at: float | None = None
        # The first cause counts: one word, since it becomes a metric's label.
        self.end_reason = ""

    # Events.

    def from_client(self, chunk: bytes, now: float) -> None:
        """The client sent bytes."""
        journal = self.journal
        journal.now = self._client_heard_at = now
        journal.counters.bytes_from_client += len(chunk)
        try:
            buf, pos = b"", 0
            for buf, pos in self._inlet.regions(chunk):
                if journal.phase is Phase.GREETING:
                    pos = self._protocol_header(buf, pos)
                if journal.phase is not Phase.GREETING:
                    pos = scan_client(self.requests, buf, pos, journal.frame_max_bytes - OVERHEAD_BYTES)
            self._inlet.keep(buf, pos)
        except ClientError as error:
            self._because("client_error")
            self.end_client(error.reply_code, f"{_NAMES.get(error.reply_code, 'ERROR')} - {error.reason}")
        self._progress()

    def from_broker(self, generation: int, chunk: bytes, now: float) -> None:
        """The broker of a generation sent bytes."""
        journal = self.journal
        uplink = journal.uplink
        if uplink is None or uplink.generation != generation:
            return
        journal.now = uplink.heard_at = now
        journal.counters.bytes_from_broker += len(chunk)
        try:
            buf, pos = b"", 0
            for buf, pos in uplink.inlet.regions(chunk):
                pos = scan_broker(self.answers, buf, pos)
            uplink.inlet.keep(buf, pos)
        except (BrokerError, ClientError) as error:
            self._lost(error.reason, "lost")
        self._progress()

    def broker_up(self, generation: int, endpoint: str, now: float) -> None:
        """The connection that `Dial` asked for is there."""
        self.journal.now = now
        if self._is_current(generation):
            self.attachment.connected(endpoint)
        self._progress()

    def dial_failed(self, generation: int, reason: str, now: float) -> None:
        """The connection that `Dial` asked for cannot be had."""
        self.journal.now = now
        if self._is_current(generation):
            self.attachment.failed(reason)
        self._progress()

    def broker_lost(self, generation: int, reason: str, now: float, outcome: Observation = "lost") -> None:
        """The connection to a broker broke, or its endpoint is known to be down."""
        self.journal.now = now
        if self._is_current(generation):
            self._lost(reason, outcome)
        self._progress()

    def client_gone(self, now: float) -> None:
        """The client's socket is closed. What it published may still wait for a broker."""
        journal = self.journal
        journal.now = now
        self._client_here = False
        self._because("client_gone")
        if journal.phase in (Phase.RUNNING, Phase.FLUSHING):
            self._flush()
        elif journal.phase is not Phase.ENDED:
            self._end()
        self._progress()

    def shut_down(self, now: float) -> None:
        """The proxy itself has to go."""
        self.journal.now = now
        self._because("shutdown")
        self.end_client(320, "CONNECTION_FORCED - sidehop is shutting down")
        self._progress()

    def fail(self, now: float) -> None:
        """A bug was met: end this session and no other."""
        self.journal.now = now
        self._because("internal_error")
        self.end_client(541, "INTERNAL_ERROR - sidehop met an internal error, see its log")

    def tick(self, now: float) -> None:
        """A deadline has passed."""
        journal = self.journal
        journal.now = now
        self._client_pulse()
        self._uplink_pulse()
        attachment = self.attachment
        if attachment.searching and now >= attachment.deadline:
            self._give_up()
        elif attachment.retry_at is not None and now >= attachment.retry_at:
            attachment.dial()
        if self.restoration.retry_at is not None and now >= self.restoration.retry_at:
            self.restoration.retry()
        for channel in journal.live_channels() if journal.phase is Phase.RUNNING else ():
            if channel.settling_until is not None and now >= channel.settling_until:
                self.settled(channel)
        if self._until is not None and now >= self._until:
            self._timed_out()
        self._progress()

    def deadline(self) -> float | None:
        """When `tick` is due, None for never."""
        journal = self.journal
        if journal.phase is Phase.ENDED:
            return None
        due = [self._until, self.attachment.retry_at, self.restoration.retry_at]
        due.extend(channel.restart_at for channel in self._restarting if not channel.muted)
        if self.attachment.searching:
            due.append(self.attachment.deadline)
        beat = journal.client_heartbeat_s
        if beat and self._client_here:
            due.append(self._client_said_at + beat / 2)
            if self._reading:
                due.append(self._client_heard_at + MISSED_HEARTBEATS * beat)
        uplink = journal.uplink
        if uplink is not None:
            due.append(uplink.stage_deadline)
            if uplink.heartbeat_s:
                due.append(uplink.said_at + uplink.heartbeat_s / 2)
                due.append(uplink.heard_at + MISSED_HEARTBEATS * uplink.heartbeat_s)
        if journal.phase is Phase.RUNNING and journal.load.parked_bytes:
            due.extend(channel.settling_until for channel in journal.live_channels())
        return min((at for at in due if at is not None), default=None)

    def wrote(self, to_client: bool, to_broker: bool, now: float) -> None:
        """The shell has taken the output: that counts as a heartbeat."""
        if to_client:
            self._client_said_at = now
        if to_broker and self.journal.uplink is not None:
            self.journal.uplink.said_at = now

    # Lifecycle: what one frame can cause.

    def credentials_given(self) -> None:
        """Look for the client's first broker."""
        self._until = None
        self.attachment.search("")

    def vhost_given(self) -> None:
        """The client's handshake is done but for the broker's answer."""
        self._until = None
        self.attachment.open()

    def client_closes(self) -> None:
        """Let the broker take what was published, then close there, then here."""
        self._owes_close_ok = True
        self._because("client_closed")
        if self.journal.phase is Phase.RUNNING:
            self._flush()
        else:
            self._end()

    def end_client(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        """Tell the client that its connection is over, and leave the broker politely."""
        journal = self.journal
        self._because("broker_closed")
        if journal.phase in (Phase.CLOSING, Phase.ENDED) or not self._client_here:
            self._end()
            return
        self._leave_broker()
        tells = journal.phase not in (Phase.GREETING, Phase.STARTING)
        capable = journal.credentials is not None and journal.credentials.can(b"authentication_failure_close")
        if not tells or (journal.phase is Phase.AUTHENTICATING and not capable):
            self._end()
            return
        journal.phase = Phase.CLOSING
        self._until = journal.now + CLOSE_WAIT_S
        journal.tell_client(0, m.ConnectionClose(code, text.encode(), class_id, method_id))

    def client_is_told(self) -> None:
        """The last close-ok is here."""
        if self.journal.phase is Phase.CLOSING:
            self._end()

    def broker_closes(self, close: m.ConnectionClose) -> None:
        """The broker ends the connection: recover if it is the node's affair, else it is the client's."""
        journal = self.journal
        uplink = journal.uplink
        if uplink is None:
            return
        journal.tell_broker(0, m.ConnectionCloseOk())
        text = close.reply_text.decode("utf-8", "replace")
        if uplink.stage in (Stage.GREETED, Stage.TUNED, Stage.OPENING):
            self.attachment.refused(close)
        elif journal.phase is not Phase.RUNNING and journal.phase is not Phase.FLUSHING:
            self._end()
        elif self._recovers(close):
            self._lost(text, "forced_close" if _NODE_LEAVES.search(close.reply_text) else None)
        else:
            self.end_client(close.reply_code, text, close.class_id, close.method_id)

    def restart(self, channel: Channel, reason: str, *, open_upstream: bool, redeclare: bool = False) -> None:
        """Set one channel up again. A content under way is finished first: closing inside it would kill them all."""
        journal = self.journal
        channel.restart_topology = redeclare
        if channel not in self._restarting:
            self._restarting.append(channel)
        if open_upstream and channel.publish_left != NO_CONTENT and not channel.discarding:
            channel.restart_wanted = True
            return
        policy = journal.policy
        self.restoration.detach(channel)
        if open_upstream:
            journal.tell_broker(channel.number, m.ChannelClose(200, b"set up again"))
        if channel.awaits_close_ok:
            return
        channel.muted = open_upstream
        if channel.restart_deadline is None:
            channel.restart_deadline = journal.now + policy.failover_timeout_s
        channel.restart_at = journal.now + min(policy.retry_max_s, policy.retry_base_s * 2 ** min(channel.restarts, 16))
        if open_upstream:
            channel.restarts += 1
        journal.report("channel_restarted", channel=channel.number, reason=reason, attempt=channel.restarts)

    def settled(self, channel: Channel) -> None:
        """What waited for hidden confirms may go on."""
        if channel.settling_until is not None and self._is_attached():
            channel.flowing = True
            self.requests.drain(channel)
            if channel.flowing:
                channel.settling_until = None

    def replayed(self, channel: Channel) -> None:
        """One channel is as it was; the failover is over when all are."""
        if not channel.ledger.unsettled:
            channel.restarts = 0
            channel.restart_deadline = None
        self._report_done()

    # Inside.

    def _protocol_header(self, buf: bytes, pos: int) -> int:
        journal = self.journal
        if len(buf) - pos < len(PROTOCOL_HEADER):
            if not PROTOCOL_HEADER.startswith(buf[pos:]):
                self._wrong_protocol()
            return pos
        if buf[pos : pos + 8] != PROTOCOL_HEADER:
            self._wrong_protocol()
            return len(buf)
        journal.phase = Phase.STARTING
        journal.tell_client(0, m.ConnectionStart(0, 9, journal.face.properties, b"PLAIN AMQPLAIN", b"en_US"))
        return pos + 8

    def _wrong_protocol(self) -> None:
        """The specification's answer to a stranger: say what is spoken here, and hang up (section 4.2.2)."""
        self.journal.client_out.append(PROTOCOL_HEADER)
        self._because("wrong_protocol")
        self._end()

    def _is_current(self, generation: int) -> bool:
        return self.journal.uplink is not None and self.journal.uplink.generation == generation

    def _is_attached(self) -> bool:
        return self.journal.uplink is not None and self.journal.uplink.is_attached

    def _recovers(self, close: m.ConnectionClose) -> bool:
        journal = self.journal
        if close.reply_code == 320 and _NODE_LEAVES.search(close.reply_text):
            return True
        operators = (
            close.reply_code == 320
            and journal.policy.forced_close == "recover"
            and not _OBJECT_DELETED.search(close.reply_text)
        )
        if not operators and close.reply_code != 541:
            return False
        if self._forced_at is not None and journal.now < self._forced_at + FORCED_CLOSE_PAUSE_S:
            return False
        self._forced_at = journal.now
        return True

    def _lost(self, reason: str, outcome: Observation | None) -> None:
        """The broker is gone, however it went: shutdown, crash and reset take the same path."""
        journal = self.journal
        uplink = journal.uplink
        assert uplink is not None
        if uplink.stage is Stage.DIALLING or (self.attachment.searching and not uplink.is_attached):
            self.attachment.failed(reason, "failover_failed" if outcome == "lost" else outcome)
            return
        if outcome is not None:
            journal.commands.append(Observe(uplink.generation, outcome))
        journal.commands.append(HangUp(uplink.generation, abort=outcome == "heartbeat_missed"))
        if journal.phase is Phase.CLOSING:
            self._end()
            return
        streaming = [channel.number for channel in journal.live_channels() if channel.streaming]
        for channel in journal.live_channels():
            self.restoration.detach(channel)
        self.restoration.abandon()
        self._restarting.clear()
        self.attachment.failovers += 1
        self.attachment.cause = outcome or "operator_close"
        journal.report("failover_started", endpoint=uplink.endpoint, reason=reason)
        if streaming:
            journal.uplink = None
            self._because("lost_inside_body")
            self.end_client(320, "CONNECTION_FORCED - broker connection lost inside message body")
            return
        self.attachment.search(reason)
        if journal.phase is Phase.FLUSHING:
            self._until = journal.now + self._flush_limit_s()

    def _give_up(self) -> None:
        journal = self.journal
        attachment = self.attachment
        attachment.searching = False
        attachment.retry_at = None
        waited_s = journal.policy.failover_timeout_s
        journal.report("failover_given_up", reason=attachment.last_error, waited_s=waited_s)
        self._because("no_broker")
        text = f"CONNECTION_FORCED - no broker reachable for {waited_s:g}s (last: {attachment.last_error})"
        self.end_client(320, text)

    def _progress(self) -> None:
        """What has become possible since the last event."""
        journal = self.journal
        uplink = journal.uplink
        if uplink is not None and uplink.stage is Stage.RESTORING and self.restoration.topology_done:
            self._attach()
        if self._restarting:
            self._restart_due()
        if journal.phase is Phase.FLUSHING and self._flushed():
            self._close_broker()
        if not self._client_here:
            journal.client_out.clear()
        wanted = self._wants_input()
        if wanted is not self._reading:
            self._reading = wanted
            self._client_heard_at = journal.now
            journal.commands.append(ReadClient(wanted))

    def _attach(self) -> None:
        journal = self.journal
        self.attachment.attached()
        if self.attachment.reason:
            journal.recovered_at = journal.now
        for channel in journal.live_channels():
            self.restoration.restore(channel)
            self.requests.drain(channel)
        self._report_done()

    def _report_done(self) -> None:
        journal = self.journal
        attachment = self.attachment
        if attachment.since is None or any(channel.hidden_pending for channel in journal.live_channels()):
            return
        uplink = journal.uplink
        took_s = journal.now - attachment.since
        attachment.since = None
        name = uplink.endpoint if uplink is not None else ""
        if attachment.reason:
            journal.report("failover_done", endpoint=name, reason=attachment.reason, took_s=took_s)
        else:
            journal.report("session_opened", endpoint=name, took_s=took_s)

    def _restart_due(self) -> None:
        journal = self.journal
        for channel in list(self._restarting):
            if channel.awaits_close_ok or journal.channels[channel.number] is not channel:
                self._restarting.remove(channel)
            elif channel.restart_wanted:
                if channel.publish_left == NO_CONTENT:
                    channel.restart_wanted = False
                    self.restart(channel, "publish refused during recovery", open_upstream=True)
            elif not channel.muted and channel.restart_at is not None and channel.restart_at <= journal.now:
                self._restart_now(channel)
            elif channel.restart_at is None:
                self._restarting.remove(channel)

    def _restart_now(self, channel: Channel) -> None:
        journal = self.journal
        if channel.restart_deadline is not None and journal.now > channel.restart_deadline and channel.last_error[0]:
            self._restarting.remove(channel)
            self.restoration.give_up(channel, m.ChannelClose(*channel.last_error))
            return
        if channel.restart_topology and self.restoration.topology_done:
            channel.restart_topology = False
            self.restoration.begin()
        if self.restoration.topology_done and self._is_attached():
            self._restarting.remove(channel)
            self.restoration.restore(channel)
            self.requests.drain(channel)

    def _wants_input(self) -> bool:
        """Backpressure by the engine's own limits; full sockets are the shell's affair."""
        load = self.journal.load
        policy = self.journal.policy
        slack = 1.0 if self._reading else 0.5
        if load.parked_bytes > policy.parked_bytes_max * slack:
            return False
        if load.unsettled_bytes <= policy.unsettled_bytes_max * slack:
            return True
        # One publish that is larger than the limit must be allowed to end, or it would wait for itself.
        channels = self.journal.live_channels()
        return not any(channel.ledger.unsettled > int(channel.ledger.unfinished) for channel in channels)

    def _flush(self) -> None:
        journal = self.journal
        if journal.phase is Phase.RUNNING:
            journal.phase = Phase.FLUSHING
            self._until = journal.now + self._flush_limit_s()

    def _flush_limit_s(self) -> float:
        """What was accepted is worth a whole failover; with a broker there, a confirm should come soon."""
        policy = self.journal.policy
        return policy.close_flush_timeout_s if self._is_attached() else policy.failover_timeout_s

    def _flushed(self) -> bool:
        journal = self.journal
        return not journal.load.parked_bytes and not journal.covered_unsettled()

    def _close_broker(self) -> None:
        journal = self.journal
        if not self._is_attached():
            self._end()
            return
        journal.phase = Phase.CLOSING
        self._until = journal.now + CLOSE_WAIT_S
        journal.tell_broker(0, m.ConnectionClose(200, b"client closed the connection"))

    def _leave_broker(self) -> None:
        journal = self.journal
        for channel in journal.live_channels():
            journal.end_channel(channel, awaits_close_ok=True)
        self.attachment.searching = False
        self.attachment.retry_at = None
        self.restoration.abandon()
        uplink = journal.uplink
        if uplink is not None:
            if uplink.stage in (Stage.RESTORING, Stage.ATTACHED):
                journal.tell_broker(0, m.ConnectionClose(200, b"client is gone"))
            journal.commands.append(HangUp(uplink.generation))
            journal.uplink = None

    def _end(self) -> None:
        journal = self.journal
        if journal.phase is Phase.ENDED:
            return
        if self._owes_close_ok:
            journal.tell_client(0, m.ConnectionCloseOk())
        journal.phase = Phase.ENDED
        self._until = None
        self._leave_broker()
        journal.commands.append(CloseClient())

    def _because(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason

    def _timed_out(self) -> None:
        self._until = None
        self._because("handshake_timeout")
        if self.journal.phase is Phase.FLUSHING:
            self._close_broker()
        else:
            self._end()

    def _client_pulse(self) -> None:
        journal = self.journal
        beat = journal.client_heartbeat_s
        if not beat or not self._client_here or journal.phase is Phase.ENDED:
            return
        if journal.now >= self._client_said_at + beat / 2:
            journal.client_out.append(HEARTBEAT_FRAME)
        if self._reading and journal.now >= self._client_heard_at + MISSED_HEARTBEATS * beat:
            # As RabbitMQ does: a silent client is not told, its socket is closed.
            self._client_here = False
            self._because("client_silent")
            self._flush() if journal.phase is Phase.RUNNING else self._end()

    def _uplink_pulse(self) -> None:
        journal = self.journal
        uplink = journal.uplink
        if uplink is None:
            return
        if uplink.stage_deadline is not None and journal.now >= uplink.stage_deadline:
            self.attachment.failed("no answer to the handshake", "handshake_failed")
        elif uplink.heartbeat_s:
            if journal.now >= uplink.heard_at + MISSED_HEARTBEATS * uplink.heartbeat_s:
                self._lost("missed heartbeats", "heartbeat_missed")
            elif journal.now >= uplink.said_at + uplink.heartbeat_s / 2:
                journal.broker_out.append(HEARTBEAT_FRAME)


# Reply codes as RabbitMQ names them at the start of a reply text.
_NAMES = {
    501: "FRAME_ERROR",
    502: "SYNTAX_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    505: "UNEXPECTED_FRAME",
    530: "NOT_ALLOWED",
    541: "INTERNAL_ERROR",
}
