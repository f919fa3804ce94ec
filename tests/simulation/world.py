"""One engine between a model client and a model cluster, in simulated time, with everything that may go wrong."""

from __future__ import annotations

from proxy.session.description import describe
from proxy.session.journal import Phase
from tests.simulation.broker_channel import HOMED
from tests.simulation.client import Client
from tests.simulation.client_channel import LASTING, SHARED
from tests.simulation.clock import Clock
from tests.simulation.cluster import Cluster, Queue, Violation
from tests.simulation.faults import BUG, LONG_BLACKOUT_S, OPERATOR, Faults
from tests.simulation.memory import check_count
from tests.simulation.recipe import Recipe
from tests.simulation.roles import CARELESS, CASUAL, HOMEBODY, OWNER
from tests.simulation.shell import FORCED_CLOSE_PAUSE_S, Shell

# Between two acts of the client, on average, in a life that has as much to do as there is time.
PAUSES_S = (0.001, 0.01, 0.06)
WIND_DOWN_PAUSES_S = (0.001, 0.01)
IDLE_PAUSE_S = 0.05
# After the last fault everything must have settled within this time; a channel's own mistake, replayed again and again
# with what was published before it, can take several times `failover_timeout_s`.
PROGRESS_S = 300.0
# What is around a body in a delivery, at most; what is larger than a session keeps streams, and is shown.
STREAMING_BYTES = 2000
# A move makes a channel wait for its client, and a hidden confirm for a moment.
ALONE_S = 7.0
# A search may have begun shortly before the last node went.
SEARCHED_BEFORE_S = 5.0


class World:
    """A run of one seed. `run` raises `Violation`, or what the engine raises, with the seed in the caller's hands."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.rng = recipe.rng("pace")
        self.length = recipe.length()
        self.leisure = self.length.work_s / self.length.acts * len(PAUSES_S) / sum(PAUSES_S)
        self.clock = Clock()
        self.cluster = Cluster(self.clock, recipe.rng("cluster"))
        self.cluster.may_settle = self._may_settle
        self.cluster.careless = {CARELESS}
        voters = self.cluster.nodes if recipe.has("quorum") else ()
        for name in SHARED:
            self.cluster.queues[name] = Queue(name, voters=voters)
        self.cluster.queues[CASUAL] = Queue(CASUAL)
        self.cluster.queues[HOMED] = Queue(HOMED, home=recipe.rng("home").choice(self.cluster.nodes))
        self.shell = Shell(recipe, self.clock, self.cluster, lambda data: self.client.received(data))
        *frame_maxima, of_client = recipe.frame_maxima()
        for node, frame_max in zip(self.cluster.nodes, frame_maxima, strict=True):
            node.frame_max = frame_max
        self.client = Client(recipe.rng("client"), "m", self.shell.to_engine.send, recipe.roles(), recipe.large_bytes())
        self.client.frame_max = of_client
        self.client.covered = not recipe.has("as_sent")
        self.client.names = recipe.has("names")
        self.client.may_be_told = self._may_be_told
        self.faults = Faults(self)
        # What a channel that uses none of the shared queues waits for, and since when, while those stand still.
        self._waits_for: tuple[object, ...] = ()
        self._waits_since = 0.0
        self.acting = True

    # The run.

    def run(self) -> None:
        self.clock.after(0.001, self._act)
        self.clock.after(0.001, self._client_beat)
        self.faults.start()
        self.shell.start()
        self._watch_others()
        self._advance(self.length.work_s)
        self.faults.stop()
        self.client.finishing = True
        self._until(lambda: self.client.told or self._settled(), self._unfinished)
        if self.client.told:
            self._check_an_early_end()
            return
        if self.recipe.has("long_blackout"):
            raise Violation("the client was not told that there is no broker")
        account = self.client.account
        replayed = self.shell.session.journal.counters.replayed_publishes
        account.check_delivery(self.cluster.taken, replayed, all_seen=not self.client.acks_all)
        if self.shell.policy.suppress_duplicates:
            hold_bytes = self.shell.policy.delivery_hold_bytes_max
            held = [body for body in account.seen if len(body) + STREAMING_BYTES <= hold_bytes]
            # Without a mark, one that was published again is another message.
            marks = self.recipe.has("marks")
            account.check_once(body for body in held if marks or self.cluster.taken[body] == 1)
        self._advance(2.0)  # an answer to the client's last mistake may still be on the wire
        self._until(self._settled, self._unfinished)  # and make it ask for something anew
        live = self.shell.session.journal.live_channels
        self._until(lambda: not any(channel.pending for channel in live()), lambda: "a channel is not set up")
        self._check_what_lives()
        self.acting = False
        self.client.close()
        self._until(lambda: self.shell.closed, lambda: "the connection was not closed")
        self._advance(1.0)  # the last bytes are still on the wire
        self._check_the_end("closed")

    def _check_an_early_end(self) -> None:
        self.acting = False
        self._until(lambda: self.shell.closed, lambda: "the connection was not closed")
        self._advance(5.0)
        self._check_the_end("told")
        self.client.account.check_safety(self.cluster.taken)

    def _advance(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.step(until):
            pass

    def _until(self, fact, complaint) -> None:
        limit = self.clock.now + PROGRESS_S
        while not fact():
            if self.clock.now >= limit:
                raise Violation(f"no progress in {PROGRESS_S:g}s: {complaint()}")
            self._advance(0.05)

    def _settled(self) -> bool:
        load = self.shell.session.journal.load
        if load.parked_bytes or load.unsettled_bytes or self.client.state != "running":
            return False
        if not self.shell.to_engine.empty:
            return False  # a publish whose client waits for nothing
        if describe(self.shell.session)["waiting"]:
            return False  # some channel is on its way
        home = self.client.channels.get(HOMEBODY)
        if HOMEBODY in self.client.roles and not (home and home.consumers):
            return False  # nobody takes what is in its queue
        return self.client.idle and not any(self.cluster.queues[name].ready for name in LASTING) and not any(
            queue.name in LASTING
            for node in self.cluster.nodes for c in node.connections for channel in c.channels.values()
            for queue, _ in channel.unacked.values()
        )  # fmt: skip

    def _unfinished(self) -> str:
        load = self.shell.session.journal.load
        busy = {
            channel.number: (channel.state, list(channel.asked)[:2], list(channel.unconfirmed)[:3],
                             list(channel.open_tags)[:3], len(channel.half), channel.arriving)
            for channel in self.client.channels.values() if channel.busy
        }  # fmt: skip
        ready = {name: len(self.cluster.queues[name].ready) for name in LASTING}
        return f"parked {load.parked_bytes}, unsettled {load.unsettled_bytes}, ready {ready}, client owes {busy}"

    # What must hold.

    def _watch_others(self) -> None:
        """A channel whose queue has no quorum waits alone."""
        if self.shell.closed:
            return
        owner, connection = self.client.channels.get(OWNER), self.shell.attached_connection()
        stalled = any(self.cluster.queues[name].stalled for name in SHARED)
        well = connection is not None and connection.state == "running" and not connection.node.troubled
        waits_for: tuple[object, ...] = ()
        read = self.shell.session.pulse.reading  # all channels share the socket that limits stop the reading of
        if stalled and well and read and owner is not None and owner.asked:
            waits_for = (connection, owner.asked[0])
        if not waits_for or any(a is not b for a, b in zip(waits_for, self._waits_for or (0, 0), strict=True)):
            self._waits_for, self._waits_since = waits_for, self.clock.now
        elif self.clock.now > self._waits_since + ALONE_S:
            raise Violation(f"a channel waits for a queue without a quorum that it does not use: {owner.asked}")
        self.clock.after(0.5, self._watch_others)

    def _may_settle(self, body: bytes) -> bool:
        """never an ack to the broker for a message the client has not settled"""
        return self.client.acks_all or body in self.client.account.settled

    def _may_be_told(self, code: int, text: str) -> bool:
        """The few ends that are honest."""
        now, faults = self.clock.now, self.faults
        if (code, text) in ((320, OPERATOR), (541, BUG)):
            return sum(now < at + FORCED_CLOSE_PAUSE_S + SEARCHED_BEFORE_S for at in faults.operated_at) >= 2
        if code == 320 and "inside message body" in text:
            return self.recipe.has("large") and any(channel.arriving for channel in self.client.channels.values())
        if code == 320 and "no broker reachable" in text and faults.dark_since is not None:
            waited_s = self.shell.policy.failover_timeout_s
            return now >= faults.dark_since + waited_s - SEARCHED_BEFORE_S and now < faults.dark_since + LONG_BLACKOUT_S
        return False

    def _check_what_lives(self) -> None:
        """Every channel, consumer and own queue of the client is there at its present broker, and nothing else is."""
        journal = self.shell.session.journal
        client = self.client
        asked = {n: set(channel.consumers) for n, channel in client.channels.items() if channel.state == "open"}
        links = [self.shell.links.get(uplink.generation) for uplink in journal.uplinks]
        connections = [link[0] for link in links if link is not None]
        # The courier is ours, and stays open for the next publish that no queue takes.
        open_there = [
            (n, ch) for c in connections for n, ch in c.channels.items() if n != journal.courier or ch.consumers
        ]
        there = {n: set(channel.consumers) for n, channel in open_there}
        if len(open_there) != len(there):
            raise Violation("a channel is open at two brokers")
        if asked != there:
            raise Violation(f"the client has {asked}, its broker has {there}")
        owned = {channel.queue for channel in client.channels.values() if getattr(channel, "queue", b"")}
        exclusive = {name for c in connections for name in c.exclusive}
        if not owned <= exclusive:
            raise Violation(f"the client owns {owned}, its broker has {exclusive}")
        if client.blocked and not any(c.blocked for c in connections):
            raise Violation("the client is blocked and its broker is not")

    def _check_the_end(self, state: str) -> None:
        session = self.shell.session
        check_count(session)
        load = session.journal.load
        if load.retained_bytes:
            raise Violation(f"memory is still in use: {load.retained_bytes} bytes")
        if session.journal.phase is not Phase.ENDED or session.deadline() is not None:
            raise Violation("the session is not over")
        if self.client.state != state:
            raise Violation(f"the client was not told that its connection is closed: {self.client.state}")

    # What goes on.

    def _act(self) -> None:
        if self.acting and not self.shell.closed:
            self.client.act()
            if not self.client.finishing:
                pause_s = self.rng.choice(PAUSES_S) * self.leisure
            elif self.client.idle:
                pause_s = IDLE_PAUSE_S
            else:
                pause_s = self.rng.choice(WIND_DOWN_PAUSES_S)
            self.clock.after(pause_s, self._act)

    def _client_beat(self) -> None:
        if not self.shell.closed:
            if self.client.state == "running":
                self.shell.to_engine.send(b"\x08\0\0\0\0\0\0\xce")
            self.clock.after(5.0, self._client_beat)
