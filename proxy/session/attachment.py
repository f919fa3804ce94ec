"""Finding a broker for the session: the first one, and another one when it is lost."""

from __future__ import annotations

import math
from itertools import chain

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER
from proxy.errors import BrokerError
from proxy.session.clearance import Clearance
from proxy.session.commands import Attached, Dial, Observation, Observe
from proxy.session.journal import NOTHING, OWN_CHANNELS, Journal, Phase
from proxy.session.restoration import Restoration
from proxy.session.uplink import Stage, Uplink, least_limit

# A user refused by this many different nodes, or this often, is refused.
LOGIN_REFUSALS_MAX = 2
# A broker lost sooner than this after it was attached has proven nothing: the search goes on where it was.
PROVEN_S = 5.0
# Attempts that need not wait.
FREE_ATTEMPTS = 3
# So often in a row the client's time limit is renewed all the same: a cluster may need a while to come to rest.
RELAPSES_MAX = 10


class Attachment:
    """One search for a broker at a time, bounded by `failover_timeout_s`; attempts in it are not counted but paced."""

    __slots__ = (
        "_attached_at",
        "_attempts",
        "_behind_at",
        "_place_again",
        "_refusals",
        "_relapses",
        "_reported",
        "_tried",
        "cause",
        "clearance",
        "deadline",
        "failovers",
        "generation",
        "journal",
        "last_error",
        "reason",
        "restoration",
        "resumes",
        "retry_at",
        "searching",
        "since",
    )

    def __init__(self, journal: Journal, restoration: Restoration, clearance: Clearance, place_by_vhost: bool) -> None:
        self._place_again = place_by_vhost
        self.journal = journal
        self.restoration = restoration
        self.clearance = clearance
        self.generation = 0
        self.failovers = 0
        self.searching = False
        self.resumes = False
        self.since: float | None = None
        self.deadline = 0.0
        self.reason = ""
        self.cause = ""  # one word for the same: a metric's label
        self.last_error = ""
        self._behind_at = 0
        self.retry_at: float | None = None
        self._tried: frozenset[str] = NOTHING
        self._reported: frozenset[str] = NOTHING
        self._attempts = 0
        self._refusals = 0
        self._attached_at: float | None = None
        self._relapses = 0

    def search(self, reason: str, cause: str = "", lost: str = "") -> None:
        """Begin to look for a broker. `reason` is why the last one, `lost`, was lost; empty for a new client."""
        journal = self.journal
        relapsed = self._attached_at is not None and journal.now < self._attached_at + PROVEN_S
        self._relapses = self._relapses + 1 if relapsed else 0
        self.searching = True
        self.resumes = bool(reason)
        self.since = journal.now
        self.reason = reason
        self.cause = cause
        self.last_error = reason
        if self._relapses <= RELAPSES_MAX:
            self.deadline = journal.now + journal.policy.failover_timeout_s
        if not relapsed:
            self._attempts = 0
            self._refusals = 0
            self._tried = self._reported = NOTHING
        if lost:
            self._tried |= {lost}
        candidate = journal.candidate
        if candidate is not None and candidate.stage is not Stage.RESTORING:
            return  # a move was under way: what it has found is what is needed now
        if candidate is not None:
            # It waits for the end of a move's preparations, where no topology is declared.
            journal.hang_up(candidate, goodbye=b"needed in another way")
        if self._relapses <= FREE_ATTEMPTS:
            self.dial()
        else:
            self._pace(free=False)

    def dial_beside(self, avoided: frozenset[str]) -> None:
        """Ask for a connection to another broker than the present one, which is well."""
        self._tried = avoided
        self.resumes = True
        self.dial()

    def fell_back(self, reason: str, cause: str) -> None:
        """A broker was lost while there was another one, so that nothing has to be searched."""
        self.since = self.journal.recovered_at = self.journal.now
        self.reason = reason
        self.cause = cause

    def stop(self) -> None:
        """Look no further."""
        self.searching = False
        self.retry_at = None

    def report_done(self) -> None:
        """Say so once when every channel is as it was."""
        journal = self.journal
        if self.since is None or self._behind():
            return
        took_s = round(journal.now - self.since, 6)
        self.since = None
        name = journal.uplink.endpoint if journal.uplink is not None else ""
        if self.reason:
            journal.report("failover_done", endpoint=name, reason=self.reason, took_s=took_s)
        else:
            journal.report("session_opened", endpoint=name, took_s=took_s)

    def _behind(self) -> bool:
        """Some channel is not as it was. Asked for every answer: the one that was found last is looked at first, and
        then what follows it, since brokers answer in order.
        """
        channels = self.journal.channels
        for at in chain(range(self._behind_at, len(channels)), range(min(self._behind_at, len(channels)))):
            channel = channels[at]
            if channel is None or channel.awaits_close_ok:
                continue
            if channel.hidden_pending or channel.uplink is None:
                self._behind_at = at
                return True
        return False

    def dial(self) -> None:
        """Ask for the next connection."""
        journal = self.journal
        self.retry_at = None
        self._place_again = self._place_again and journal.phase is not Phase.OPENING
        self.generation += 1
        journal.candidate = Uplink(self.generation)
        journal.commands.append(Dial(self.generation, self._tried, self.resumes))

    def connected(self, endpoint: str) -> None:
        """The link is up: say who the client is. Header and start-ok go together, the broker reads them in turn."""
        journal = self.journal
        uplink = journal.candidate
        assert uplink is not None
        assert journal.credentials is not None
        uplink.endpoint = endpoint
        if not self.searching and journal.uplink is not None and endpoint == journal.uplink.endpoint:
            self.failed("there is no other broker")
            return
        uplink.stage = Stage.GREETED
        uplink.stage_deadline = journal.now + journal.policy.handshake_timeout_s
        uplink.heard_at = uplink.said_at = journal.now
        uplink.out.append(PROTOCOL_HEADER)
        credentials = journal.credentials
        if journal.secret_updates:
            credentials = credentials.with_secret(journal.secret_updates[-1][0])  # the old one may have expired
        uplink.tell(0, credentials.start_ok(journal.via))

    def started(self, payload: bytes) -> None:
        """The broker introduced itself."""
        uplink = self._at(Stage.GREETED)
        properties = m.decode(m.ConnectionStart, payload).server_properties
        able = self.journal.face.learn(uplink.endpoint, properties, self.journal.now)
        uplink.lacks = self.journal.offered - able or NOTHING

    def tuned(self, payload: bytes) -> None:
        """The credentials are good. The first broker's limits become the client's; later ones may have others."""
        journal = self.journal
        uplink = self._at(Stage.GREETED)
        uplink.stage = Stage.TUNED
        uplink.stage_deadline = None
        uplink.tune = tune = m.decode(m.ConnectionTune, payload)
        objection = self.clearance.objection(uplink, last_resort=self.searching and uplink.endpoint in self._tried)
        if objection:
            self.failed(objection)
        elif journal.phase is Phase.AUTHENTICATING:
            policy = journal.policy
            journal.channel_max = least_limit(tune.channel_max, policy.channel_max) - OWN_CHANNELS
            journal.frame_max_bytes = least_limit(tune.frame_max, policy.frame_max_bytes)
            journal.phase = Phase.TUNING
            journal.lifecycle.client_asked()
            journal.tell_client(
                0, m.ConnectionTune(journal.channel_max, journal.frame_max_bytes, policy.client_heartbeat_s)
            )
        elif journal.phase is not Phase.TUNING:
            self.open()

    def open(self) -> None:
        """The client has said what it wants to open; go on if the broker is that far."""
        journal = self.journal
        uplink = journal.candidate
        if uplink is None or uplink.stage is not Stage.TUNED:
            return
        if self._place_again:
            # The broker that judged the credentials was picked before anything was known of the virtual host.
            journal.hang_up(uplink)
            self.dial()
            return
        uplink.stage = Stage.OPENING
        uplink.stage_deadline = journal.now + journal.policy.handshake_timeout_s
        uplink.heartbeat_s = journal.policy.heartbeat_s
        uplink.tell(0, self.clearance.settle(uplink)._replace(heartbeat=math.ceil(uplink.heartbeat_s)))
        uplink.tell(0, m.ConnectionOpen(journal.vhost))

    def opened(self, payload: bytes) -> None:
        """The virtual host is open: declare again what died with the last broker."""
        journal = self.journal
        uplink = self._at(Stage.OPENING)
        uplink.stage = Stage.RESTORING
        uplink.stage_deadline = None
        self._observe(uplink, "handshaken")
        if self.searching:
            self.restoration.begin(uplink)
        else:
            # A session on the move declares nothing again: what it needs is there, or it would stay.
            uplink.stage_deadline = journal.now + journal.policy.handshake_timeout_s
        if journal.phase is Phase.OPENING:
            journal.phase = Phase.RUNNING
            journal.tell_client(0, m.ConnectionOpenOk())

    def attached(self) -> None:
        """Topology is back; channels may follow."""
        journal = self.journal
        uplink = journal.candidate
        assert uplink is not None
        uplink.stage = Stage.ATTACHED
        uplink.stage_deadline = None
        if journal.leaving is not None:
            journal.hang_up(journal.leaving, abort=True)  # it was only waiting for its close to be answered
        journal.candidate, journal.uplink, journal.leaving = None, uplink, journal.uplink
        for _, frame in journal.secret_updates:
            uplink.update_secret(frame)
        if self.searching and self.reason:
            journal.recovered_at = journal.now
        self.searching = False
        self._attached_at = journal.now
        journal.commands.append(Attached(uplink.generation))

    def failed(self, reason: str, outcome: Observation | None = None) -> None:
        """An attempt came to nothing: pace the next one. The first are free, then they wait longer and longer."""
        journal = self.journal
        uplink = journal.candidate
        name = uplink.endpoint if uplink is not None else ""
        self.last_error = f"{name}: {reason}" if name else reason
        if uplink is not None:
            if outcome is not None:
                self._observe(uplink, outcome)
            journal.hang_up(uplink, abort=True)
            self.restoration.abandon(uplink)
        if not self.searching:
            journal.lifecycle.move_failed()
            return
        if name:
            self._tried |= {name}
        self._pace(free=bool(name))
        if reason not in self._reported:
            # Once for each reason: a thousand sessions that try for a minute would drown the log.
            self._reported |= {reason}
            journal.report("failover_attempt_failed", endpoint=name, reason=reason, attempt=self._attempts)

    def _pace(self, *, free: bool) -> None:
        """Set the time of the next attempt; the first ones come at once if something was there to be tried."""
        journal = self.journal
        policy = journal.policy
        self._attempts += 1
        ceiling = min(policy.retry_max_s, policy.retry_base_s * 2 ** min(self._attempts, 16))
        wait_s = 0.0 if free and self._attempts <= FREE_ATTEMPTS else journal.rng.uniform(0.2, 1.0) * ceiling
        self.retry_at = journal.now + wait_s

    def refused(self, close: m.ConnectionClose) -> None:
        """The broker said no. A new client hears it; a client that was let in before is tried elsewhere first."""
        journal = self.journal
        text = close.reply_text.decode("utf-8", "replace")
        # What one tenant has used up or broken there is no fault of the node: nobody else must suffer for it.
        tenants = " limit " in text or "vhost" in text
        nodes = close.reply_code in (320, 541)
        elsewhere = nodes or (self.resumes and " limit " in text)
        if not elsewhere:
            self._refusals += 1
        if elsewhere or not self.searching or (self.resumes and self._refusals < LOGIN_REFUSALS_MAX):
            self.failed(text, "handshake_failed" if elsewhere and not tenants else None)
            return
        self.searching = False
        journal.lifecycle.end_client(close.reply_code, text, close.class_id, close.method_id)

    def _at(self, stage: Stage) -> Uplink:
        uplink = self.journal.candidate
        if uplink is None or uplink.stage is not stage:
            raise BrokerError("broker sent a handshake method out of order")
        return uplink

    def _observe(self, uplink: Uplink, outcome: Observation) -> None:
        if uplink.endpoint:
            self.journal.commands.append(Observe(uplink.generation, outcome))
