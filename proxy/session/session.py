"""One conversation of a client: events in, bytes and commands out. Total: every event is legal in every state.

The shell calls an event method, then writes what waits in `journal.client_out` and `journal.broker_out`, carries out
`journal.commands` and asks `deadline` when to call `tick`. `now` is monotonic seconds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER, Inlet
from proxy.errors import BrokerError, ClientError
from proxy.session.answers import Answers
from proxy.session.attachment import Attachment
from proxy.session.channel import Channel
from proxy.session.commands import HangUp, Observation, Observe, ReadClient
from proxy.session.credentials import Face
from proxy.session.ending import Ending
from proxy.session.greeting import spoken
from proxy.session.journal import Journal, Phase
from proxy.session.policy import SessionPolicy
from proxy.session.pulse import Pulse
from proxy.session.relay import scan_broker, scan_client
from proxy.session.requests import Requests
from proxy.session.restarts import Restarts
from proxy.session.restoration import Restoration
from proxy.session.stopwatch import Stopwatch
from proxy.session.uplink import Stage

# A node that ends all connections because it goes away itself (texts of RabbitMQ 3.x and 4.x).
_NODE_LEAVES = re.compile(rb"reason 'shutdown'|maintenance mode")
# One virtual host failed there: its clients have to leave, the node is fine for all others.
_VHOST_DOWN = re.compile(rb"vhost '.*' is down", re.DOTALL)
_OBJECT_DELETED = re.compile(rb"(vhost|user) '.*' is deleted", re.DOTALL)
# An operator's close, and an internal error of the broker, are recovered from at most this often.
FORCED_CLOSE_PAUSE_S = 60.0


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
        self.journal = Journal(policy, rng, face, troubled, via, now)
        self.journal.lifecycle = self
        self.restoration = Restoration(self.journal)
        self.attachment = Attachment(self.journal, self.restoration)
        self.requests = Requests(self.journal)
        self.answers = Answers(self.journal, self.attachment, self.restoration)
        self.restarts = Restarts(self.journal, self.restoration, self.requests)
        self.pulse = Pulse(self.journal)
        self.stopwatch = Stopwatch(self.journal)
        self.ending = Ending(self.journal, self.attachment, self.restoration)
        self._inlet = Inlet()
        self._forced_at: float | None = None

    # Events.

    def from_client(self, chunk: bytes, now: float) -> None:
        """The client sent bytes."""
        journal = self.journal
        journal.now = self.pulse.client_heard_at = now
        journal.counters.bytes_from_client += len(chunk)
        try:
            buf, pos = b"", 0
            for buf, pos in self._inlet.regions(chunk):
                if journal.phase is Phase.GREETING:
                    pos = self._protocol_header(buf, pos)
                if journal.phase is not Phase.GREETING:
                    # Old clients count frame_max without the frame's own 8 octets; RabbitMQ forgives that.
                    pos = scan_client(self.requests, buf, pos, journal.frame_max_bytes)
            self._inlet.keep(buf, pos)
            self.stopwatch.published()
        except ClientError as error:
            self.client_broke(error)
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
                if journal.uplink is not uplink:
                    break  # what a broker says after its close is nobody's business
            uplink.inlet.keep(buf, pos)
            self.stopwatch.confirmed()
        except (BrokerError, ClientError) as error:
            if journal.uplink is uplink:
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
        """The client's socket is closed."""
        self.journal.now = now
        self.ending.client_gone("client_gone")
        self._progress()

    def shut_down(self, now: float) -> None:
        """The proxy itself has to go."""
        self.journal.now = now
        self.ending.because("shutdown")
        self.end_client(320, "CONNECTION_FORCED - sidehop is shutting down")
        self._progress()

    def fail(self, now: float) -> None:
        """A bug was met: end this session and no other."""
        self.journal.now = now
        self.ending.because("internal_error")
        self.end_client(541, "INTERNAL_ERROR - sidehop met an internal error, see its log")

    def tick(self, now: float) -> None:
        """A deadline has passed."""
        journal = self.journal
        journal.now = now
        self._watch_pulses()
        attachment = self.attachment
        if attachment.searching and now >= attachment.deadline:
            self._give_up()
        elif attachment.retry_at is not None and now >= attachment.retry_at:
            attachment.dial()
        if self.restoration.retry_at is not None and now >= self.restoration.retry_at:
            self.restoration.retry()
        for channel in journal.live_channels() if journal.load.parked_bytes else ():
            if channel.settling_until is not None and now >= channel.settling_until:
                self.settled(channel)
        self.ending.tick()
        self._progress()

    def deadline(self) -> float | None:
        """When `tick` is due, None for never."""
        journal = self.journal
        if journal.phase is Phase.ENDED:
            return None
        attachment = self.attachment
        due = [self.ending.until, attachment.retry_at, self.restoration.retry_at]
        due.extend(self.restarts.due())
        due.extend(self.pulse.due())
        if attachment.searching:
            due.append(attachment.deadline)
        if journal.uplink is not None:
            due.append(journal.uplink.stage_deadline)
        if journal.load.parked_bytes:
            due.extend(channel.settling_until for channel in journal.live_channels())
        return min((at for at in due if at is not None), default=None)

    @property
    def steady(self) -> bool:
        """Nothing is under way but heartbeats, whose deadlines traffic only moves back: a timer may stay as it is."""
        return (
            self.journal.attached
            and self.ending.until is None
            and not self.journal.load.parked_bytes
            and not self.restarts.under_way
            and self.restoration.retry_at is None
        )

    # Lifecycle: what one frame can cause.

    def credentials_given(self) -> None:
        """Look for the client's first broker."""
        self.ending.until = None
        self.attachment.search("")

    def client_asked(self) -> None:
        """It is the client's turn in the handshake, within its time."""
        self.ending.until = self.journal.now + self.journal.policy.handshake_timeout_s

    def vhost_given(self) -> None:
        """The client's handshake is done but for the broker's answer."""
        self.ending.until = None
        self.attachment.open()

    def client_broke(self, error: ClientError) -> None:
        """The client broke the protocol or a limit: the broker has no part in it."""
        self.ending.because("client_error")
        self.end_client(error.reply_code, f"{_NAMES.get(error.reply_code, 'ERROR')} - {error.reason}")

    def client_closes(self) -> None:
        """The client wants to end the connection."""
        self.ending.client_closes()

    def end_client(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        """Tell the client that its connection is over."""
        self.ending.tell(code, text, class_id, method_id)

    def client_is_told(self) -> None:
        """The last close-ok is here."""
        self.ending.told()

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
        elif journal.phase not in (Phase.RUNNING, Phase.FLUSHING):
            self.ending.end()
        elif self._recovers(close):
            self._lost(text, "forced_close" if _NODE_LEAVES.search(close.reply_text) else None)
        else:
            self.end_client(close.reply_code, text, close.class_id, close.method_id)

    def restart(self, channel: Channel, reason: str, *, open_upstream: bool, redeclare: bool = False) -> None:
        """Set one channel up again on the same connection."""
        self.restarts.begin(channel, reason, open_upstream=open_upstream, redeclare=redeclare)

    def settled(self, channel: Channel) -> None:
        """What waited for hidden confirms may go on."""
        if channel.settling_until is not None and self.journal.attached:
            channel.flowing = True
            self.requests.drain(channel)
            if channel.flowing:
                channel.settling_until = None

    def replayed(self, channel: Channel) -> None:
        """One channel is as it was; the failover is over when all are."""
        if not channel.ledger.unsettled:
            channel.healed()
        self.attachment.report_done()

    # Inside.

    def _protocol_header(self, buf: bytes, pos: int) -> int:
        """The first eight bytes. A stranger is told what is spoken here, and left (section 4.2.2)."""
        journal = self.journal
        given = buf[pos : pos + len(PROTOCOL_HEADER)]
        if given == PROTOCOL_HEADER:
            journal.phase = Phase.STARTING
            journal.tell_client(0, m.ConnectionStart(0, 9, journal.face.properties, b"PLAIN AMQPLAIN", b"en_US"))
            return pos + len(given)
        if PROTOCOL_HEADER.startswith(given):
            return pos
        journal.client_out.append(PROTOCOL_HEADER)
        reason = f"it spoke {spoken(buf[pos:])}; this port expects AMQP 0-9-1"
        journal.report("session_refused", cause="wrong_protocol", reason=reason)
        self.ending.because("wrong_protocol")
        self.ending.end()
        return len(buf)

    def _is_current(self, generation: int) -> bool:
        return self.journal.uplink is not None and self.journal.uplink.generation == generation

    def _recovers(self, close: m.ConnectionClose) -> bool:
        journal = self.journal
        if close.reply_code == 320 and (_NODE_LEAVES.search(close.reply_text) or _VHOST_DOWN.search(close.reply_text)):
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
        attachment = self.attachment
        if attachment.searching and not uplink.is_attached:
            attachment.failed(reason, "failover_failed" if outcome == "lost" else outcome)
            return
        if outcome is not None:
            journal.commands.append(Observe(uplink.generation, outcome))
        journal.commands.append(HangUp(uplink.generation, abort=outcome == "heartbeat_missed"))
        if journal.phase is Phase.CLOSING:
            self.ending.end()
            return
        if journal.blocked:
            journal.blocked = False
            if journal.credentials is not None and journal.credentials.can(b"connection.blocked"):
                journal.tell_client(0, m.ConnectionUnblocked())
        streaming = any(channel.streaming for channel in journal.live_channels())
        for channel in journal.live_channels():
            self.restoration.detach(channel)
        self.restoration.abandon()
        self.restarts.clear()
        self.stopwatch.stop()
        journal.report("failover_started", endpoint=uplink.endpoint, reason=reason)
        if streaming:
            journal.uplink = None
            self.ending.because("lost_inside_body")
            self.end_client(320, "CONNECTION_FORCED - broker connection lost inside message body")
            return
        attachment.failovers += 1
        attachment.search(reason, outcome or "operator_close")
        if journal.phase is Phase.FLUSHING:
            self.ending.flush()

    def _give_up(self) -> None:
        journal = self.journal
        waited_s = journal.policy.failover_timeout_s
        last_error = self.attachment.last_error
        self.attachment.stop()
        journal.report("failover_given_up", reason=last_error, waited_s=waited_s)
        self.ending.because("no_broker")
        self.end_client(320, f"CONNECTION_FORCED - no broker reachable for {waited_s:g}s (last: {last_error})")

    def _progress(self) -> None:
        """What has become possible since the last event."""
        journal = self.journal
        uplink = journal.uplink
        if uplink is not None and uplink.stage is Stage.RESTORING and self.restoration.topology_done:
            self.attachment.attached()
            for channel in journal.live_channels():
                self.restoration.restore(channel)
                self.requests.drain(channel)
            self.attachment.report_done()
        self.restarts.progress()
        self.ending.progress()
        wanted = journal.wants_input(self.pulse.reading)
        if wanted is not self.pulse.reading:
            self.pulse.read(wanted)
            journal.commands.append(ReadClient(wanted))

    def _watch_pulses(self) -> None:
        journal = self.journal
        self.pulse.beat()
        if self.ending.client_here and self.pulse.client_silent():
            # As RabbitMQ does: a silent client is not told, its socket is closed.
            self.ending.client_gone("client_silent")
        uplink = journal.uplink
        if uplink is None:
            return
        if uplink.stage_deadline is not None and journal.now >= uplink.stage_deadline:
            self.attachment.failed("no answer to the handshake", "handshake_failed")
        elif self.pulse.broker_silent():
            self._lost("missed heartbeats", "heartbeat_missed")


# Reply codes as RabbitMQ names them at the start of a reply text.
_NAMES = {
    501: "FRAME_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    506: "RESOURCE_ERROR",
    505: "UNEXPECTED_FRAME",
    530: "NOT_ALLOWED",
    541: "INTERNAL_ERROR",
}
