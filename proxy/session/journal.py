"""What a session knows: the client's desired state, the broker's current state, and what waits to be written.

It is a journal of state, not of commands: a failover compares it with an empty broker and makes it true again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from itertools import takewhile
from typing import Never

from proxy.amqp import methods as m
from proxy.amqp.fragments import cut
from proxy.amqp.frames import METHOD, OVERHEAD_BYTES, Buffer, Inlet, method_frame
from proxy.errors import ClientError
from proxy.reports import Report
from proxy.session.channel import CONFIRM, PLAIN, Channel
from proxy.session.commands import Command, HangUp
from proxy.session.copies import Copies
from proxy.session.counters import Counters
from proxy.session.cover import covered_unsettled, covered_waiting
from proxy.session.credentials import Credentials, Face
from proxy.session.ledger import Load
from proxy.session.lifecycle import Lifecycle
from proxy.session.policy import SessionPolicy
from proxy.session.stamp import Stamp, repeated
from proxy.session.topology import Topology
from proxy.session.uplink import Stage, Uplink
from proxy.session.verdict import Verdict

# Compacting costs a look at everything that is kept, so it is not done at each confirm.
COMPACT_INTERVAL_S = 1.0
# Nearly every set of a session is empty nearly always, and would take 216 bytes: they share this one.
NOTHING: frozenset[Never] = frozenset()
_PUBLISH = m.BASIC_PUBLISH.to_bytes(4, "big")
# Above those of the client: one for topology, one for what no queue took.
OWN_CHANNELS = 2


class Phase(Enum):
    """Where the conversation with the client stands. The value is what the API shows."""

    GREETING = "greeting"  # waiting for the protocol header
    STARTING = "starting"  # start was sent, waiting for start-ok
    AUTHENTICATING = "authenticating"  # the broker judges the credentials
    TUNING = "tuning"  # tune was sent, waiting for tune-ok and open
    OPENING = "opening"  # the broker judges the virtual host
    RUNNING = "running"
    FLUSHING = "flushing"  # the client is done, what it published is not confirmed yet
    CLOSING = "closing"  # a close was sent to the client or to the broker on its behalf
    ENDED = "ended"


class Journal:
    """Shared by the parts of one session. The lists are never replaced, only emptied, so that all may keep them."""

    # Without slots each session would pay 1.5 KiB: instances of so many attributes share no dictionary keys.
    __slots__ = (
        "_compacted_at",
        "_told_blocked",
        "body_room_bytes",
        "candidate",
        "channel_max",
        "channels",
        "channels_max",
        "client_heartbeat_s",
        "client_out",
        "commands",
        "copies",
        "counters",
        "credentials",
        "face",
        "frame_max_bytes",
        "inlet",
        "leaving",
        "lifecycle",
        "load",
        "now",
        "offered",
        "phase",
        "policy",
        "recovered_at",
        "reply_queues",
        "rng",
        "secret_updates",
        "share_bytes",
        "stamp",
        "stirred",
        "topology",
        "troubled",
        "unsaid",
        "uplink",
        "vhost",
        "via",
    )

    def __init__(
        self,
        policy: SessionPolicy,
        rng: random.Random,
        face: Face,
        troubled: Callable[[float], bool],
        via: str,
        now: float,
    ) -> None:
        self.policy = policy
        self.rng = rng
        self.face = face
        self.troubled = troubled
        self.via = via
        self.now = now
        self.phase = Phase.GREETING
        self.lifecycle: Lifecycle  # set by the session, which is one
        self.inlet = Inlet()  # of the client
        self.client_out: list[Buffer] = []
        self.commands: list[Command] = []
        self.counters = Counters()
        self.load = Load(policy.unsettled_bytes_max)
        self.channels: list[Channel | None] = []
        self.topology = Topology()
        self.stamp = Stamp(self.token()) if policy.publish_ids else None
        self.copies = Copies(self) if policy.suppress_duplicates else None
        # By channel number: the queue that stands for its reply address.
        self.reply_queues: dict[int, bytes] = {}
        self.credentials: Credentials | None = None
        self.vhost = b""
        self.offered: frozenset[bytes] = frozenset()
        self.channel_max = policy.channel_max
        self.frame_max_bytes = policy.frame_max_bytes
        self.client_heartbeat_s = 0
        # Where a broker takes less than what was agreed with the client; 0 where all take as much.
        self.body_room_bytes = 0
        self.channels_max = 0
        # Where channels attach. `candidate` is not that far yet, `leaving` keeps those that have not moved yet.
        self.uplink: Uplink | None = None
        self.candidate: Uplink | None = None
        self.leaving: Uplink | None = None
        self.recovered_at: float | None = None
        # A frame was thought about, so that something may have become possible.
        self.stirred = False
        self.unsaid: list[tuple[Channel, bytes]] = []
        self._told_blocked = False
        self._compacted_at = now
        self.secret_updates: list[tuple[bytes, bytes]] = []
        # While the process is short of memory: what may be kept for this client. At 0, nothing is read on top of it.
        self.share_bytes: int | None = None

    @property
    def scratch(self) -> int:
        """The channel on which topology is declared again: the one above what the client may use."""
        return self.channel_max + 1

    @property
    def courier(self) -> int:
        """The channel on which is published again what no queue took: the topmost."""
        return self.channel_max + OWN_CHANNELS

    @property
    def attached(self) -> bool:
        """Channels have a broker."""
        return self.uplink is not None

    @property
    def well(self) -> bool:
        """They have, and no broker is known to be down: what is waited for should come soon."""
        return self.attached and not self.troubled(self.now)

    @property
    def uplinks(self) -> list[Uplink]:
        """Every broker connection there is; at most two."""
        return list(filter(None, (self.uplink, self.candidate, self.leaving)))

    def hang_up(self, uplink: Uplink, *, abort: bool = False, goodbye: bytes = b"") -> None:
        """A broker connection is over: channels on it have none. `goodbye` says why to a broker that still listens."""
        if goodbye and uplink.stage in (Stage.RESTORING, Stage.ATTACHED):
            uplink.tell(0, m.ConnectionClose(200, goodbye))
        uplink.stage = Stage.OVER
        self.stirred = True
        self.commands.append(HangUp(uplink.generation, abort, uplink.out))
        if uplink is self.uplink:
            # A session on the move falls back to the broker that it has not left yet.
            stays = self.leaving is not None and self.leaving.stage is Stage.ATTACHED
            self.uplink, self.leaving = (self.leaving, None) if stays else (None, self.leaving)
        elif uplink is self.candidate:
            self.candidate = None
        elif uplink is self.leaving:
            self.leaving = None
        self.review_limits()
        if uplink.blocked and self.phase in (Phase.RUNNING, Phase.FLUSHING):
            self.review_blocked(m.ConnectionUnblocked())

    def review_limits(self) -> None:
        """The strictest of the present brokers counts: a session on the move has two."""
        frame_max = min((each.frame_max_bytes for each in self.uplinks if each.frame_max_bytes), default=2**32)
        self.body_room_bytes = frame_max - OVERHEAD_BYTES if frame_max < self.frame_max_bytes else 0
        channel_max = min((each.channel_max for each in self.uplinks if each.channel_max), default=self.courier)
        self.channels_max = channel_max - OWN_CHANNELS if channel_max < self.courier else 0

    @property
    def crowded(self) -> list[Channel]:
        """Channels beyond the number that the present broker takes. RabbitMQ counts them, whatever their numbers."""
        return self.live_channels()[self.channels_max :] if self.channels_max else []

    def refuse_channel(self, channel: Channel) -> None:
        """Close a channel that the present broker has no room for."""
        text = f"RESOURCE_ERROR - the present broker takes {self.channels_max} channels of a connection"
        self.give_up(channel, Verdict("too_many_channels", m.ChannelClose(506, text.encode())))

    def give_up(self, channel: Channel, verdict: Verdict) -> None:
        """A channel cannot go on: its client is told why, the other channels do."""
        cause, close = verdict
        reason = close.reply_text.decode("utf-8", "replace")
        self.report("channel_given_up", cause=cause, channel=channel.number, reply_code=close.reply_code, reason=reason)
        self.report_dropped(channel)
        self.close_channel(channel, close)

    def condemn(self, channel: Channel, verdict: Verdict) -> None:
        """The same of a channel that a broker may have open: it is closed there first, and then its client is told."""
        if channel.uplink is None:
            self.give_up(channel, verdict)
            return
        channel.verdict = verdict
        if not channel.replayed:
            self.lifecycle.restart(channel, verdict.cause, open_upstream=True)

    def report_dropped(self, *channels: Channel) -> None:
        """Say how many publishes channels had accepted from a client that waits for no confirm; they may be lost now.

        Those that no queue took are not among them: they are tried again until the session ends.
        """
        parked = sum(_is_publish(frame) for channel in channels if channel.mode == PLAIN for frame in channel.parked)
        unconfirmed = sum(covered_unsettled(channel) for channel in channels)
        if parked + unconfirmed:
            self.report(
                "publishes_dropped",
                cause="unconfirmed",
                count=parked + unconfirmed,
                parked_bytes=sum(len(frame) for channel in channels for frame in channel.parked),
            )

    def fitted(self, frames: Buffer) -> Buffer:
        """Whole frames of the client's as every present broker takes them."""
        if not self.body_room_bytes:
            return frames
        return cut(bytes(frames), 0, self.body_room_bytes, len(frames))[0]

    def fitted_again(self, frames: Buffer) -> Buffer:
        """The same of publishes that some broker may have: those with a mark say so."""
        return self.fitted(frames if self.stamp is None else repeated(frames))

    def review_blocked(self, word: tuple[object, ...]) -> None:
        """Tell a client that understands it when the first of its brokers blocks it, and when the last one does not."""
        blocked = any(each.blocked for each in self.uplinks)
        if blocked is not self._told_blocked and self.credentials is not None:
            self._told_blocked = blocked
            if self.credentials.can(b"connection.blocked"):
                self.tell_client(0, word)

    @property
    def retained_bytes(self) -> int:
        """What is kept for this client: publishes, input, deliveries, and frames that are not all here."""
        retained = self.load.retained_bytes + self.inlet.kept_bytes
        for uplink in self.uplinks:
            retained += uplink.inlet.kept_bytes
        return retained

    def wants_input(self, reading: bool) -> bool:
        """Whether the client may go on sending, by what is kept for it; half of a limit must be free to begin again.

        Full sockets are the shell's affair. One publish larger than the limit must be allowed to end, or it would
        wait for itself.
        """
        load, policy = self.load, self.policy
        slack = 1.0 if reading else 0.5
        parked_max, unsettled_max = policy.parked_bytes_max, policy.unsettled_bytes_max
        if self.share_bytes is not None:
            parked_max, unsettled_max = min(parked_max, self.share_bytes), min(unsettled_max, self.share_bytes)
        if load.parked_bytes > parked_max * slack:
            return False
        if load.unsettled_bytes <= unsettled_max * slack:
            return True
        channels = self.live_channels()
        waiting = any(channel.restart_wanted for channel in channels)
        if waiting and load.unsettled_bytes <= unsettled_max + policy.publish_bytes_max:
            return True  # it waits for the rest of a publish, which is still with the client
        if reading or self.now >= self._compacted_at + COMPACT_INTERVAL_S:
            self._compacted_at = self.now
            for channel in channels:
                channel.ledger.compact()
        if load.unsettled_bytes <= unsettled_max * slack:
            return True
        if load.withheld or self.share_bytes == 0:
            return False
        # Only a broker that has something to confirm can make room.
        confirmable = (channel.ledger for channel in channels if not channel.restart_wanted)
        return not any(ledger.unsettled > int(ledger.unfinished) for ledger in confirmable)

    def bound_unfinished(self) -> None:
        """Publishes that are not complete cannot be confirmed, and no other limit stops them. Raises `ClientError`."""
        size = self.unfinished_bytes
        if size > self.policy.publish_bytes_max:
            text = f"publishes of {size} bytes and more exceed session.publish_bytes_max"
            raise ClientError(text, reply_code=506)

    @property
    def unfinished_bytes(self) -> int:
        """Publishes that have begun and not ended, which no broker can confirm."""
        return sum(channel.ledger.unfinished_bytes for channel in self.live_channels())

    def live_channels(self) -> list[Channel]:
        """Channels that the client has open."""
        return [channel for channel in self.channels if channel is not None and not channel.awaits_close_ok]

    def tell_client(self, number: int, method: tuple[object, ...]) -> None:
        """Queue a method for the client."""
        self.client_out.append(method_frame(number, method))

    def say(self, channel: Channel, frame: bytes) -> None:
        """Queue a frame for the client that no broker has placed between others: not inside a delivery that streams."""
        if channel.streaming:
            self.unsaid.append((channel, frame))
        else:
            self.client_out.append(frame)

    def say_rest(self) -> None:
        """Say what had to wait for the end of a delivery, if its channel is still there to hear it."""
        unsaid, self.unsaid = self.unsaid, []
        for channel, frame in unsaid:
            if not channel.awaits_close_ok and self.channels[channel.number] is channel:
                self.say(channel, frame)

    def report(self, event: str, **facts: object) -> None:
        """Say what happened; the shell adds who this session is."""
        self.commands.append(Report(event, facts))

    def token(self) -> bytes:
        """A name part that no other session uses: 110 random bits."""
        return "".join(self.rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=22)).encode()

    def confirm(self, channel: Channel, tag: int, multiple: bool, nack: bool) -> None:
        """A broker's word on publishes counts, and is told to a client that waits for it, under the client's number."""
        number = channel.ledger.number_of(tag)
        if multiple and channel.withheld:
            # Told one by one: together they would include what is withheld.
            for each in list(takewhile(lambda own: own <= number, channel.ledger.window.open_numbers())):
                self._confirm(channel, each, False, nack)
        else:
            self._confirm(channel, number, multiple, nack)

    def _confirm(self, channel: Channel, number: int, multiple: bool, nack: bool) -> None:
        settled = channel.ledger.settle(number, multiple)
        if settled:
            self.counters.confirms += settled
            if not nack and not channel.hidden_pending:
                channel.healed()
            if channel.mode == CONFIRM and number > channel.confirm_base:
                own = number - channel.confirm_base
                self.tell_client(
                    channel.number, m.BasicNack(own, multiple, False) if nack else m.BasicAck(own, multiple)
                )
        if channel.settling is not None and not covered_waiting(channel):
            self.lifecycle.settled(channel)

    def close_channel(self, channel: Channel, close: m.ChannelClose) -> None:
        """Tell the client that a channel is over. A close of its own that crosses this one is answered as well."""
        close_method = m.CHANNEL_CLOSE.to_bytes(4, "big")
        crossed = any(request.frame[7:11] == close_method for request in channel.pending)
        crossed = crossed or any(frame[0] == METHOD and frame[7:11] == close_method for frame in channel.parked)
        self.tell_client(channel.number, close)
        self.end_channel(channel, awaits_close_ok=True)
        if crossed:
            self.tell_client(channel.number, m.ChannelCloseOk())

    def end_channel(self, channel: Channel, *, awaits_close_ok: bool) -> None:
        """A channel is over for the client; auto-delete queues go with their last consumer."""
        queues = {entry.queue for entry in channel.setup if entry.tag}
        self.reply_queues.pop(channel.number, None)
        channel.drop()
        channel.awaits_close_ok = awaits_close_ok
        if not awaits_close_ok:
            self.channels[channel.number] = None
        for queue in queues:
            self.consumer_gone(queue)

    def consumer_gone(self, queue: bytes) -> None:
        """A consumer ended; the broker deletes an auto-delete queue after its last one."""
        still = any(e.queue == queue for channel in self.live_channels() for e in channel.setup if e.tag)
        if not still and self.topology.is_auto_delete(queue):
            self.topology.delete_queue(queue)


def _is_publish(frame: bytes) -> bool:
    return frame[0] == METHOD and frame[7:11] == _PUBLISH
