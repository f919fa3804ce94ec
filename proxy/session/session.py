"""One conversation of a client: events in, bytes and commands out. Total: every event is legal in every state.

The shell calls an event method, then writes what waits in `journal.client_out` and in `out` of each of
`journal.uplinks`, carries out `journal.commands` and asks `deadline` when to call `tick`. `now` is monotonic seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.amqp.fragments import cut
from proxy.amqp.frames import BROKER_FRAME_MAX_BYTES
from proxy.errors import BrokerError, ClientError
from proxy.session.answers import Answers
from proxy.session.attachment import Attachment
from proxy.session.cancellations import Cancellations
from proxy.session.channel import Channel
from proxy.session.clearance import Clearance
from proxy.session.commands import Observation, ReadClient
from proxy.session.commits import Commits
from proxy.session.confirms import Confirms
from proxy.session.credentials import Face
from proxy.session.ending import Ending
from proxy.session.greeting import take_header
from proxy.session.intake import scan_client
from proxy.session.journal import Journal, Phase
from proxy.session.ledger import DIRECT_REPLY_TO
from proxy.session.loss import Loss
from proxy.session.move import Move
from proxy.session.policy import SessionPolicy
from proxy.session.pulse import Pulse
from proxy.session.relay import scan_broker
from proxy.session.replies import Replies
from proxy.session.requests import Requests
from proxy.session.restarts import Restarts
from proxy.session.restoration import Restoration
from proxy.session.schedule import rest_due
from proxy.session.stopwatch import Stopwatch
from proxy.session.unrouted import Unrouted
from proxy.session.uplink import Stage, Uplink


class Session:
    """The engine of one client connection.

    `troubled` tells whether the cluster is known to be unwell at a time; refusals are then not believed at once. `via`
    is added to the client's connection name. `place_by_vhost`: the choice of a broker depends on the virtual host.
    `quiet`: nothing is under way but heartbeats, whose deadlines traffic only moves back, so that a timer may stay as
    it is, and bytes whose every frame simply passes change nothing else.
    """

    def __init__(
        self,
        policy: SessionPolicy,
        rng: random.Random,
        face: Face,
        now: float,
        *,
        troubled: Callable[[float], bool] = lambda _: False,
        via: str = "sidehop",
        place_by_vhost: bool = False,
    ) -> None:
        self.journal = Journal(policy, rng, face, troubled, via, now)
        self.journal.lifecycle = self
        self.restoration = Restoration(self.journal)
        self.unrouted = Unrouted(self.journal)
        self.clearance = Clearance(self.journal, self.unrouted)
        self.attachment = Attachment(self.journal, self.restoration, self.clearance, place_by_vhost)
        self.requests = Requests(self.journal)
        self.confirms = Confirms(self.journal)
        self.commits = Commits(self.journal, self.unrouted, self.requests)
        self.cancellations = Cancellations(self.journal, self.restoration)
        self.answers = Answers(
            self.journal,
            self.attachment,
            self.restoration,
            self.confirms,
            self.commits,
            self.unrouted,
            self.cancellations,
        )
        self.pulse = Pulse(self.journal)
        self.restarts = Restarts(self.journal, self.restoration, self.requests, self.pulse)
        self.stopwatch = Stopwatch(self.journal)
        self.ending = Ending(self.journal, self.attachment, self.restoration)
        self.loss = Loss(self.journal, self.attachment, self.restoration, self.restarts, self.requests, self.ending)
        self.move = Move(self.journal, self.attachment, self.restarts, self.requests)
        self.replies = Replies(self.journal) if policy.direct_reply_to == "emulated" else None
        self.quiet = False
        # When there is something to do but for heartbeats; None if that has to be found out.
        self._rest_at: float | None = None

    # Events.

    def from_client(self, chunk: bytes, now: float) -> None:
        """The client sent bytes."""
        journal = self.journal
        journal.now = self.pulse.client_heard_at = now
        journal.counters.bytes_from_client += len(chunk)
        try:
            buf, pos = b"", 0
            for buf, pos in journal.inlet.regions(chunk):
                if journal.phase is Phase.GREETING:
                    pos = take_header(journal, self.ending, buf, pos)
                if self.replies is not None and DIRECT_REPLY_TO in buf:
                    buf, pos = self.replies.readdress(buf, pos)
                if journal.body_room_bytes or journal.stamp is not None:
                    buf, pos = self.clearance.fit(buf, pos)
                if journal.phase is not Phase.GREETING:
                    # Old clients count frame_max without the frame's own 8 octets; RabbitMQ forgives that.
                    pos = scan_client(self.requests, buf, pos, journal.frame_max_bytes)
            journal.inlet.keep(buf, pos)
            self.stopwatch.published()
            if journal.load.unsettled_bytes > journal.policy.publish_bytes_max:
                journal.bound_unfinished()
        except ClientError as error:
            journal.stirred = True
            self.client_broke(error)
        if not self.quiet or journal.stirred or journal.load.unsettled_bytes > journal.policy.unsettled_bytes_max:
            self._progress()

    def from_broker(self, generation: int, chunk: bytes, now: float) -> None:
        """The broker of a generation sent bytes."""
        journal = self.journal
        uplink = self._uplink(generation)
        if uplink is None:
            return
        journal.now = uplink.heard_at = now
        journal.counters.bytes_from_broker += len(chunk)
        self.answers.speaker = uplink
        try:
            buf, pos = b"", 0
            for buf, pos in uplink.inlet.regions(chunk):
                if uplink.delivery_room_bytes:
                    buf, pos = cut(buf, pos, uplink.delivery_room_bytes, BROKER_FRAME_MAX_BYTES)
                pos = scan_broker(self.answers, buf, pos)
                if uplink.stage is Stage.OVER:
                    break  # what a broker says after its close is nobody's business
            uplink.inlet.keep(buf, pos)
            self.stopwatch.confirmed()
        except (BrokerError, ClientError) as error:
            journal.stirred = True
            if uplink.stage is not Stage.OVER:
                self.loss.lost(uplink, error.reason, "lost")
        if not self.quiet or journal.stirred:
            self._progress()

    def broker_up(self, generation: int, endpoint: str, now: float) -> None:
        """The connection that `Dial` asked for is there."""
        self.journal.now = now
        if self._uplink(generation) is not None:
            self.attachment.connected(endpoint)
        self._progress()

    def dial_failed(self, generation: int, endpoint: str, reason: str, now: float) -> None:
        """The connection that `Dial` asked for cannot be had. `endpoint` was tried, empty if there was none to try."""
        self.journal.now = now
        uplink = self._uplink(generation)
        if uplink is not None:
            uplink.endpoint = endpoint
            self.attachment.failed(reason)
        self._progress()

    def broker_lost(self, generation: int, reason: str, now: float, outcome: Observation = "lost") -> None:
        """The connection to a broker broke, or its endpoint is known to be down."""
        self.journal.now = now
        uplink = self._uplink(generation)
        if uplink is not None:
            self.loss.lost(uplink, reason, outcome)
        self._progress()

    def leave(self, reason: str, now: float) -> None:
        """The present broker is to be left politely, while it is well: it drains, or discovery dropped it."""
        self.journal.now, self._rest_at = now, None
        self.move.plan(reason)

    def stay(self, now: float) -> None:
        """The present broker need not be left any more."""
        self.journal.now, self._rest_at = now, None
        self.move.cancel()

    def client_gone(self, now: float) -> None:
        """The client's socket is closed."""
        self.journal.now = now
        self.ending.client_gone("client_gone")
        self._progress()

    def press(self, share_bytes: int | None, now: float) -> None:
        """The process is short of memory: keep no more than this for the client. None: it is not any more."""
        self.journal.now, self.journal.share_bytes = now, share_bytes
        self._progress()

    def overdraw(self, reason: str, now: float) -> None:
        """The process is out of memory, and only the end of this client's unfinished publishes gives any back."""
        self.journal.now = now
        self.client_broke(ClientError(reason, reply_code=506))
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
        if self.quiet and not journal.stirred and self._rest_at is not None and now < self._rest_at:
            return  # nothing but heartbeats
        attachment = self.attachment
        if attachment.searching and now >= attachment.deadline:
            self.loss.give_up()
        elif attachment.retry_at is not None and now >= attachment.retry_at:
            attachment.dial()
        if self.restoration.retry_at is not None and now >= self.restoration.retry_at:
            self.restoration.retry()
        self.move.tick()
        self.confirms.tick()
        self.restoration.restraint.tick()
        self.requests.tick()
        self.ending.tick()
        self._progress()

    def deadline(self) -> float | None:
        """When `tick` is due, None for never."""
        if self.journal.phase is Phase.ENDED:
            return None
        if not self.quiet or self._rest_at is None or self.journal.stirred:
            self._rest_at = rest_due(self)
        at = min(self._rest_at, self.pulse.due())
        return at if at < math.inf else None

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
        self.end_client(error.reply_code, error.reply_text)

    def client_closes(self) -> None:
        """The client wants to end the connection."""
        self.ending.client_closes()

    def end_client(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        """Tell the client that its connection is over."""
        self.ending.tell(code, text, class_id, method_id)

    def client_is_told(self) -> None:
        """The last close-ok is here."""
        self.ending.told()

    def broker_is_told(self, uplink: Uplink) -> None:
        """A broker answered our close."""
        self.loss.lost(uplink, "closed", None)

    def broker_closes(self, uplink: Uplink, close: m.ConnectionClose) -> None:
        """A broker ends the connection."""
        self.loss.closed(uplink, close)

    def unite(self) -> None:
        """An exclusive queue belongs to one connection: the rest of a move is done at once, like a failover."""
        leaving, home = self.journal.leaving, self.journal.uplink
        if leaving is not None and home is not None:
            streaming = any(each.streaming and each.uplink is leaving for each in self.journal.live_channels())
            given_up = home if streaming else leaving
            self.loss.lost(given_up, "an exclusive queue needs all channels at one broker", None, "move_ended")

    def too_narrow(self, uplink: Uplink, reason: str) -> None:
        """A broker cannot take what the client says: one that can is looked for, as if it were lost."""
        self.loss.lost(uplink, reason, None, "frame_too_large")

    def broker_hangs(self, uplink: Uplink) -> None:
        """A broker does not let a channel go: it is left all the same, with all that it has."""
        self.loss.hangs(uplink)

    def seek(self, reason: str) -> None:
        """The present broker lacks what a channel needs: another one may have it."""
        self.move.seek(reason)

    def move_failed(self) -> None:
        """The broker to move to could not be had."""
        self.move.failed()

    def restart(self, channel: Channel, reason: str, *, open_upstream: bool, redeclare: bool = False) -> None:
        """Set one channel up again on the same connection."""
        self.restarts.begin(channel, reason, open_upstream=open_upstream, redeclare=redeclare)

    def consumer_refused(self, channel: Channel, close: m.ChannelClose) -> bool:
        """A replay was refused; True if a consumer's queue is out of reach and is waited for from here on."""
        return self.cancellations.refused(channel, close)

    def settled(self, channel: Channel) -> None:
        """What waited for hidden confirms may go on."""
        self.requests.settled(channel)

    def replayed(self, channel: Channel) -> None:
        """One channel is as it was; the failover is over when all are."""
        if not channel.ledger.unsettled and not any(each.declared_before for each in channel.pending):
            channel.healed()
        self.attachment.report_done()

    # Inside.

    def _uplink(self, generation: int) -> Uplink | None:
        """The broker connection of a generation, if it is not over."""
        home = self.journal.uplink
        if home is not None and home.generation == generation:
            return home  # as for nearly every chunk: no list has to be made
        return next((each for each in self.journal.uplinks if each.generation == generation), None)

    def _progress(self) -> None:
        """What has become possible since the last event."""
        journal = self.journal
        self.answers.progress()
        candidate = journal.candidate
        if candidate is not None and candidate.stage is Stage.RESTORING:
            searching = self.attachment.searching
            if self.restoration.topology_done if searching else self.move.may_split():
                self.attachment.attached()
                self.loss.attach_orphans()
        if self.restoration.released:
            self.loss.attach_orphans()
        self.restarts.progress()
        if self.attachment.since is not None and not self.attachment.searching and not self.restarts.under_way:
            self.attachment.report_done()
        self.cancellations.progress()
        self.move.progress()
        if journal.load.withheld:
            self.unrouted.progress()
        self.ending.progress()
        wanted = journal.wants_input(self.pulse.reading)
        if wanted is not self.pulse.reading:
            self.pulse.read(wanted)
            journal.commands.append(ReadClient(wanted))
        journal.stirred = False
        self._rest_at = None
        self.quiet = wanted and self._nothing_waits()

    def _nothing_waits(self) -> bool:
        journal = self.journal
        return (
            journal.phase is Phase.RUNNING
            and journal.attached
            and journal.share_bytes is None
            and self.attachment.since is None
            and self.ending.until is None
            and not journal.load.parked_bytes
            and not journal.load.withheld
            and not self.restarts.under_way
            and not self.move.under_way
            and not self.confirms.in_doubt
            and not self.cancellations.under_way
            and not self.answers.owing
            and self.restoration.retry_at is None
        )

    def _watch_pulses(self) -> None:
        journal = self.journal
        self.pulse.beat()
        if self.ending.client_here and (reason := self.pulse.client_missed()):
            journal.stirred = True
            # As RabbitMQ does: a silent client is not told, its socket is closed.
            self.ending.client_gone(reason)
        for uplink in journal.uplinks:
            if uplink.stage is Stage.OVER:
                continue  # since another one was lost
            if uplink.stage_deadline is not None and journal.now >= uplink.stage_deadline:
                if uplink.stage is Stage.CLOSING:
                    journal.hang_up(uplink, abort=True)
                else:
                    self.attachment.failed("no answer to the handshake", "handshake_failed")
            elif self.pulse.broker_silent(uplink):
                journal.stirred = True
                self.loss.lost(uplink, "missed heartbeats", "heartbeat_missed")
