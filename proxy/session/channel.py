"""One channel of a client: what the client asked of it, and where its current broker stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.amqp import methods as m
from proxy.amqp.frames import Buffer, method_frame
from proxy.amqp.wire import U32
from proxy.session.arrears import Arrears
from proxy.session.ledger import Ledger, Load
from proxy.session.patience import Patience
from proxy.session.pending import Pending
from proxy.session.setup import ACKED, MIXED, UNACKED, Setup
from proxy.session.stream import NO_STREAM, UNPLACED, offset_in
from proxy.session.uplink import Uplink
from proxy.session.verdict import Verdict
from proxy.session.window import Window

if TYPE_CHECKING:
    from proxy.session.copies import Handed

_RETURN = U32.pack(m.BASIC_RETURN)

# `Channel.publish_left` and `deliver_left`: body bytes still to come, or one of these.
NO_CONTENT = -2
HEADER_DUE = -1

# Brokers count deliveries one by one. A tag far ahead would leave no numbers for those of the next broker.
TAG_GAP_MAX = 2**32

PLAIN, CONFIRM, TX = 0, 1, 2

# So many requests of a channel may be without an answer; half of them must be answered before it goes on.
ASKED_MAX = 256

# `Channel.confirm_path`: what becomes of a broker's ack of publishes. Somebody has to think about it; it passes as it
# is; it counts, and is told under the client's number to a client that has asked for confirms.
CONSIDERED, PASSES, RENUMBERED = 0, 1, 2


class Channel:
    """State of one client channel. The relay reads and writes the first block for every frame."""

    __slots__ = (
        "arrears",
        "awaits_close_ok",
        "committing",
        "confirm_base",
        "confirm_path",
        "deliver_left",
        "discarding",
        "doubted",
        "flowing",
        "handed",
        "held",
        "held_bytes",
        "held_get",
        "last_error",
        "last_queue",
        "ledger",
        "ledgered",
        "load",
        "mode",
        "muted",
        "no_ack",
        "number",
        "offset",
        "opened",
        "out",
        "parked",
        "pending",
        "publish_left",
        "read_since",
        "reader",
        "reader_offset",
        "readers",
        "replay_until",
        "restart_at",
        "restart_deadline",
        "restart_topology",
        "restart_wanted",
        "restarts",
        "returning",
        "rewrites",
        "settling",
        "setup",
        "streaming",
        "tx_dirty",
        "tx_wanted_back",
        "uplink",
        "verdict",
        "window",
        "withheld",
    )

    def __init__(self, number: int, load: Load) -> None:
        self.number = number
        # The broker connection that it is attached to, and what is to be written there.
        self.uplink: Uplink | None = None
        self.out: list[Buffer] = []
        self.flowing = False  # client to broker: attached and replayed, so that frames may pass
        self.publish_left = NO_CONTENT
        self.ledgered = False
        self.ledger = Ledger(load)
        self.mode = PLAIN
        self.tx_dirty = False
        self.committing = False  # a commit is not answered yet, so that nothing may follow it
        self.tx_wanted_back: frozenset[bytes] | None = frozenset()  # routes with returns of its own; None: any route
        # Broker to client. `muted`: the broker's channel is being closed by us, nothing of it reaches the client.
        self.muted = False
        self.deliver_left = NO_CONTENT
        self.held: list[Buffer] | None = None
        self.held_bytes = 0
        self.held_get: Pending | None = None
        self.streaming = False
        # A content under way is one of our own publishes that comes back, since no queue took it.
        self.returning = False
        self.rewrites = False  # what is said of deliveries does not pass as it is
        self.offset = 0
        self.window = Window()
        # What the client holds of brokers that are gone, if anything; by what its messages are known, if that is asked.
        self.arrears: Arrears | None = None
        self.handed: Handed | None = None
        self.no_ack = ACKED
        # Consumers of streams, or None, so that no delivery is looked at. `reader` is the one whose delivery is under
        # way; above the tag `read_since` all deliveries are a stream's.
        self.readers: dict[bytes, Setup] | None = None
        self.reader: Setup | None = None
        self.reader_offset = UNPLACED
        self.read_since = 0
        self.confirm_path = CONSIDERED
        self.confirm_base = 0
        # Confirms and a refusal before them that is not believed yet: tag, multiple, nack.
        self.doubted: list[tuple[int, bool, bool]] = []
        # Publishes that no queue took: their confirms wait until one has. Their numbers are settled in the ledger.
        self.withheld: set[int] | None = None
        self.load = load
        self.opened = self.awaits_close_ok = False
        self.setup: list[Setup] = []
        self.last_queue = b""
        self.pending: list[Pending] = []  # a deque takes 0.7 KiB; the first of 10 000 is taken in 2 us all the same
        self.parked: list[bytes] = []
        # The rest of a content whose beginning is lost with its broker (`as_sent`, tx) goes nowhere.
        self.discarding = False
        # A close waits so long for confirms behind the client's back.
        self.settling: Patience | None = None
        # A restart of this channel alone, on the same connection.
        self.restart_at: float | None = None
        self.restart_deadline: float | None = None
        self.replay_until = 0.0  # the broker must have answered its replay by then
        self.restart_topology = False
        self.restart_wanted = False
        self.restarts = 0
        self.last_error = (0, b"")
        self.verdict: Verdict | None = None  # it is over; its client is told when its broker has closed it

    @property
    def may_flow(self) -> bool:
        """Whether what the client sends may pass once the channel is attached and set up."""
        return not self.discarding and not self.committing and len(self.pending) < ASKED_MAX

    @property
    def covered(self) -> bool:
        """Publishes are confirmed behind the client's back: it has not asked for confirms itself."""
        return self.ledgered and self.mode == PLAIN

    @property
    def unsettled(self) -> int:
        """How many publishes no broker has taken for good."""
        return self.ledger.unsettled + len(self.withheld or ())

    @property
    def consumers(self) -> int:
        """How many consumers the client has on it."""
        return sum(1 for entry in self.setup if entry.tag)

    @property
    def replayed(self) -> bool:
        """It is to be set up, so that its consumers need not be asked for one by one."""
        return self.uplink is None or self.restart_at is not None or self.restart_wanted

    @property
    def exposed(self) -> int:
        """How many consumers and requests take messages without acknowledgements: those on the wire may be lost."""
        consumers = sum(entry.no_ack == UNACKED and not entry.absent for entry in self.setup if entry.tag)
        return consumers + sum(request.no_ack for request in self.pending)

    @property
    def holds(self) -> bool:
        """The client has deliveries that another broker would give out again. A stream's are never given out again."""
        if self.readers is not None:
            return self.window.any_open(0, self.read_since)
        return self.window.open_count > 0

    @property
    def hidden_pending(self) -> bool:
        """Part of its replay is not answered yet."""
        return any(request.hidden for request in self.pending)

    def attach(self, uplink: Uplink | None) -> None:
        """Belong to a broker connection from here on; None: to none, and what is said to the broker goes nowhere."""
        self.uplink = uplink
        self.out = uplink.out if uplink is not None else []

    def tell_broker(self, method: tuple[object, ...]) -> None:
        """Queue a method for the broker."""
        self.out.append(method_frame(self.number, method))

    def withhold(self, number: int) -> None:
        """A publish is settled in the ledger, and its confirm waits."""
        self.withheld = self.withheld or set()
        self.withheld.add(number)
        self.confirm_path = CONSIDERED

    def park(self, frame: bytes) -> None:
        """Keep a client's frame until the channel has a broker again."""
        self.parked.append(frame)
        self.load.parked_bytes += len(frame)

    def unpark(self) -> bytes:
        """All parked frames in order; the channel keeps none."""
        frames = b"".join(self.parked)
        self.parked.clear()
        self.load.parked_bytes -= len(frames)
        return frames

    def hold(self, piece: Buffer, size: int) -> None:
        """Keep a piece of a delivery until its last body frame is here."""
        if self.held is None:
            self.held = []
        self.held.append(piece)
        self.held_bytes += size
        self.load.held_bytes += size

    def release(self) -> list[Buffer]:
        """The held pieces, to be forwarded; the channel keeps none."""
        self.returning = False
        held, self.held = self.held or [], None
        self.load.held_bytes -= self.held_bytes
        self.held_bytes = 0
        return held

    @property
    def half_seen(self) -> bool:
        """The delivery that has the highest tag is not complete, so that the client knows nothing of it."""
        if self.deliver_left == NO_CONTENT or self.streaming:
            return False
        return not self.held or self.held[0][7:11] != _RETURN

    def relieve(self, out: list[Buffer]) -> None:
        """Show what the client now has room for; all of it once it holds nothing of brokers that are gone."""
        if self.arrears is not None:
            self.arrears.release(self.window, out)
            if not self.arrears.stale.open_count:
                self.arrears = None

    def forgive(self) -> None:
        """What the client holds is void: what waits behind it comes again."""
        if self.arrears is not None:
            self.arrears.drop(self.window)
            self.arrears = None
        if self.handed is not None:
            self.handed.forget()

    def remember(self, entry: Setup) -> None:
        """Add a qos or a consumer; a qos directly after its like replaces it, so the list cannot grow without end."""
        last = self.setup[-1] if self.setup else None
        if last is not None and not last.tag and not entry.tag and last.is_global == entry.is_global:
            self.setup[-1] = entry
        else:
            self.setup.append(entry)
        self._review_consumers()

    def choose_confirm_path(self) -> None:
        """Let confirms pass untouched if the broker counts as the client does and none is withheld."""
        if self.withheld or self.doubted or self.restart_wanted or self.mode == TX:
            self.confirm_path = CONSIDERED
        elif self.mode == CONFIRM and self.confirm_base == 0 and self.ledger.untranslated:
            self.confirm_path = PASSES
        else:
            self.confirm_path = RENUMBERED

    def healed(self) -> None:
        """It works again: a later trouble is a new one."""
        self.restarts = 0
        self.restart_deadline = None
        self.last_error = (0, b"")

    def forget_consumer(self, tag: bytes) -> Setup | None:
        """A consumer is over; returns its entry. A qos that no consumer follows any more keeps its place."""
        if not tag:
            return None  # what no consumer can be called; it would name every qos
        for at, entry in enumerate(self.setup):
            if entry.tag == tag:
                del self.setup[at]
                self._merge_qos()
                self._review_consumers()
                return entry
        return None

    def consumer_no_ack(self, tag: bytes) -> int:
        """One of ACKED, UNACKED, REPLIES for deliveries of a consumer; ACKED for an unknown one."""
        return next((entry.no_ack for entry in self.setup if entry.tag == tag), ACKED)

    def follow(self, header: bytes, complete: bool) -> None:
        """A content frame for `reader`; `header` is its payload if it is one. The offset counts when all is shown."""
        if header:
            self.reader_offset = offset_in(header)
        reader = self.reader
        if not complete or reader is None:
            return
        self.reader = None
        if self.reader_offset > reader.stream_offset:
            reader.stream_offset = self.reader_offset
            if self.arrears is not None:
                self.arrears.review(self.setup)
        else:
            self.lose_place(reader)

    def lose_place(self, entry: Setup) -> None:
        """What was taken for a stream's offset is none; looked for no more, where no stream was asked for."""
        entry.stream_offset = UNPLACED if entry.sought else NO_STREAM
        self.read_since = self.window.top
        self._review_consumers()

    def detach(self) -> None:
        """The broker behind it is gone: what it delivered is stale, what it was sent and did not settle is ours.

        The next broker numbers deliveries from 1 again, so the offset moves past the highest tag the client saw.
        """
        self.flowing = False
        self.muted = False
        self.offset = self.window.top
        self.window.reset(self.offset)
        self.rewrites = self.offset > 0 or self.handed is not None
        self.deliver_left = NO_CONTENT
        self.release()
        self.reader = None
        if self.held_get is not None:
            self.pending.insert(0, self.held_get)
            self.held_get = None
        unfinished = self.ledger.take_unfinished()
        if unfinished:
            self.parked.insert(0, unfinished)
            self.load.parked_bytes += len(unfinished)
            self.publish_left = NO_CONTENT
        elif self.publish_left != NO_CONTENT:
            self.discarding = True
        # A close that waits for confirms will wait for those of the next broker.
        self.settling = None
        self.restart_at = None
        self.restart_wanted = False
        self.pending = [request for request in self.pending if not request.hidden]

    def drop(self) -> None:
        """The channel is over: give back what it keeps."""
        self.unpark()
        self.release()
        self.forgive()
        self.ledger.clear()
        for request in self.pending:
            if request.commit is not None:
                request.commit.release(self.load)
        self.pending.clear()
        self.doubted.clear()
        self.withheld = None
        self.setup.clear()
        self._review_consumers()
        self.flowing = False
        self.muted = True
        self.deliver_left = NO_CONTENT
        self.restart_at = None

    def _merge_qos(self) -> None:
        merged: list[Setup] = []
        for entry in self.setup:
            if merged and not entry.tag and not merged[-1].tag and merged[-1].is_global == entry.is_global:
                merged[-1] = entry
            else:
                merged.append(entry)
        self.setup = merged

    def _review_consumers(self) -> None:
        # A stream is read with acknowledgements only (540).
        may_read = [e for e in self.setup if e.tag and not e.no_ack and e.stream_offset != NO_STREAM]
        if self.readers is None:
            self.read_since = self.window.top
        self.readers = {entry.tag: entry for entry in may_read} or None
        kinds = {entry.no_ack for entry in self.setup if entry.tag}
        self.no_ack = MIXED if len(kinds) > 1 else kinds.pop() if kinds else ACKED
        if self.arrears is not None:
            self.arrears.review(self.setup)
