"""How a conversation ends: nothing accepted is dropped, the broker is left politely, the client is told the truth."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.session.attachment import Attachment
from proxy.session.commands import CloseClient
from proxy.session.cover import covered_waiting
from proxy.session.journal import Journal, Phase
from proxy.session.patience import Patience
from proxy.session.restoration import Restoration
from proxy.session.uplink import Stage

# How long a close may wait for the other side's close-ok.
CLOSE_WAIT_S = 5.0


class Ending:
    """The end of one session, and the time limits of what leads there."""

    __slots__ = (
        "_attachment",
        "_flush_until",
        "_journal",
        "_owes_close_ok",
        "_patience",
        "_restoration",
        "client_here",
        "reason",
        "until",
    )

    def __init__(self, journal: Journal, attachment: Attachment, restoration: Restoration) -> None:
        self._journal = journal
        self._attachment = attachment
        self._restoration = restoration
        self._owes_close_ok = False
        self.client_here = True
        # When the handshake, the flush or the close that is under way has taken too long.
        self.until: float | None = journal.now + journal.policy.handshake_timeout_s
        # When a flush has taken too long, however often it begins anew.
        self._flush_until: float | None = None
        self._patience: Patience | None = None
        # The first cause counts: one word, since it becomes a metric's label.
        self.reason = ""

    def because(self, reason: str) -> None:
        """Say why the session is about to end."""
        self.reason = self.reason or reason

    def client_closes(self) -> None:
        """The client wants to end: let the broker take what was published, close there, then here."""
        self._owes_close_ok = True
        self.because("client_closed")
        if self._journal.phase is Phase.RUNNING:
            self.flush()
        else:
            self.end()

    def client_gone(self, reason: str) -> None:
        """Nobody listens any more. What was published may still wait for a broker."""
        self.client_here = False
        self._journal.client_heartbeat_s = 0
        self.because(reason)
        if self._journal.phase in (Phase.RUNNING, Phase.FLUSHING):
            self.flush()
        elif self._journal.phase is not Phase.ENDED:
            self.end()

    def tell(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        """End with `connection.close`, where the client is there and far enough to understand one."""
        journal = self._journal
        # A broker's words to a client that had been let in before are told because nothing else can be done.
        recovering = self._attachment.since is not None and self._attachment.reason
        self.because("refused" if recovering else "broker_closed")
        if journal.phase in (Phase.RUNNING, Phase.FLUSHING) and not journal.attached:
            journal.report_dropped(*journal.live_channels())
        if journal.phase in (Phase.CLOSING, Phase.ENDED) or not self.client_here:
            self.end()
            return
        self._leave_broker()
        # RabbitMQ closes the socket of a client that fails to log in and has not said that it understands more.
        capable = journal.credentials is not None and journal.credentials.can(b"authentication_failure_close")
        if journal.phase in (Phase.GREETING, Phase.STARTING) or (journal.phase is Phase.AUTHENTICATING and not capable):
            self.end()
            return
        journal.phase = Phase.CLOSING
        self.until = journal.now + CLOSE_WAIT_S
        journal.tell_client(0, m.ConnectionClose(code, text.encode(), class_id, method_id))

    def told(self) -> None:
        """The last close-ok is here."""
        if self._journal.phase is Phase.CLOSING:
            self.end()

    def flush(self) -> None:
        """Wait for what only we know to be unconfirmed, within limits.

        What was accepted is worth a whole failover; if all brokers are well, a confirm should come soon. It begins anew
        with each broker that is lost meanwhile, and both times together are all that it may take.
        """
        journal = self._journal
        policy = journal.policy
        journal.phase = Phase.FLUSHING
        if self._flush_until is None:
            self._flush_until = journal.now + policy.failover_timeout_s + policy.close_flush_timeout_s
        self._patience = Patience(policy, journal.now, well=journal.well, at_most=self._flush_until)
        self.until = self._patience.until

    def progress(self) -> None:
        """Go on from the flush when it is done."""
        journal = self._journal
        kept = journal.load.parked_bytes or journal.load.withheld
        if journal.phase is Phase.FLUSHING and not kept and not any(map(covered_waiting, journal.live_channels())):
            self._close_broker()
        if not self.client_here:
            journal.client_out.clear()

    def tick(self) -> None:
        """Enforce the time limit."""
        journal, patience = self._journal, self._patience
        if self.until is None or journal.now < self.until:
            return
        if journal.phase is Phase.FLUSHING and patience is not None:
            if not patience.is_over(journal.now, well=journal.well):
                self.until = patience.until
                return
            journal.report_dropped(*journal.live_channels())
            self._close_broker()
            return
        self.because("handshake_timeout")
        self.end()

    def end(self) -> None:
        """It is over."""
        journal = self._journal
        if journal.phase is Phase.ENDED:
            return
        if self._owes_close_ok:
            journal.tell_client(0, m.ConnectionCloseOk())
        journal.phase = Phase.ENDED
        self.until = None
        self._leave_broker()
        journal.commands.append(CloseClient())

    def _close_broker(self) -> None:
        journal = self._journal
        if not journal.attached:
            self.end()
            return
        journal.phase = Phase.CLOSING
        self.until = journal.now + CLOSE_WAIT_S
        for uplink in journal.uplinks:
            if uplink.stage is Stage.ATTACHED:
                uplink.stage = Stage.CLOSING
                uplink.tell(0, m.ConnectionClose(200, b"client closed the connection"))
            elif uplink.stage is not Stage.CLOSING:
                journal.hang_up(uplink, goodbye=b"client closed the connection")

    def _leave_broker(self) -> None:
        journal = self._journal
        for channel in journal.live_channels():
            journal.end_channel(channel, awaits_close_ok=True)
        self._attachment.stop()
        for uplink in journal.uplinks:
            journal.hang_up(uplink, goodbye=b"client is gone")
            self._restoration.abandon(uplink)
