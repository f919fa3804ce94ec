"""What goes wrong while a session lives, one thing after the other, often during the recovery from the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.broker_channel import HOMED
from tests.simulation.client_channel import SHARED
from tests.simulation.cluster import Node, Queue
from tests.simulation.roles import CASUAL

if TYPE_CHECKING:
    from tests.simulation.broker import Connection
    from tests.simulation.world import World

OPERATOR = "CONNECTION_FORCED - Closed via management plugin"
BUG = "INTERNAL_ERROR - boom"
KINDS = (
    "crash",
    "crash",
    "leave",
    "hang",
    "cut",
    "cut",
    "slow",
    "alarm",
    "operator",
    "operator",
    "operator",
    "blackout",
    "minority",
    "minority",
    "minority",
    "delete",
    "delete",
)
LONG_BLACKOUT_S = 20.0


class Faults:
    """Draws and does them, until `stop`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.recipe = world.recipe
        self.rng = world.recipe.rng("faults")
        self.tearing = world.recipe.rng("tear")
        self.homes = world.recipe.rng("homeless")
        self.home = world.recipe.rng("home") if world.recipe.has("home") else None
        self.clock = world.clock
        self.cluster = world.cluster
        self.span_s = world.length.work_s
        self.active = True
        # When operators closed a connection of this session, and since when no node is up.
        self.operated_at: list[float] = []
        self.dark_since: float | None = None

    def start(self) -> None:
        if self.recipe.has("long_blackout"):
            self.clock.after(self.rng.uniform(0.1, 0.8) * self.span_s, self._long_blackout)
        if self.recipe.has("tear"):
            self.world.shell.after_broker = self._tear
        self.clock.after(self.rng.uniform(0.0, 0.25) * self.span_s, self._next)

    def stop(self) -> None:
        """Everything becomes well again, soon; later if a quorum is missed, since those who wait for it must do so."""
        self.active = False
        stalled = any(queue.stalled for queue in self.cluster.queues.values())
        for node in self.cluster.nodes:
            if self.dark_since is None:
                after_s = self.rng.uniform(15, 20) if stalled else self.rng.uniform(0, 5)
                self.clock.after(after_s, lambda node=node: self._heal(node))
        self.cluster.queues.setdefault(CASUAL, Queue(CASUAL))

    def say(self, text: str) -> None:
        self.world.shell.story.append(f"{self.clock.now:.3f} {text}")

    def _next(self) -> None:
        if not self.active:
            return
        rng, shell = self.rng, self.world.shell
        connection = shell.attached_connection()
        near, other = rng.random() < 0.7, rng.choice(self.cluster.nodes)
        kind, drains, stays = rng.choice(KINDS), rng.random() < 0.5, rng.random() < 0.1
        pause_s = min(rng.choice((0.002, 0.02, 0.2, 1.0, 5.0)), self.span_s / 3) * rng.uniform(0.5, 2.0)
        node = (connection.node if connection is not None else None) if near else other
        if self.home is not None and kind in ("crash", "leave") and self.home.random() < 0.5:
            node = self.cluster.queues[HOMED].home
        if node is not None and self.recipe.has(kind):
            self._do(kind, node)
        if drains and self.recipe.has("drain"):
            self.say("drain")
            shell.session.leave("it drains", self.clock.now)
        elif stays:
            shell.session.stay(self.clock.now)
        shell.carry_out()
        self.clock.after(pause_s, self._next)

    def _do(self, kind: str, node: Node) -> None:
        rng = self.rng
        well = all(each.up and not each.frozen for each in self.cluster.nodes)
        heal_s = rng.choice((0.5, 4.0, 15.0))
        if kind in ("crash", "leave", "hang", "blackout", "minority") and not well:
            return
        self.say(f"{kind} {node.name}")
        if kind == "crash":
            node.crash()
        elif kind == "leave":
            node.leave()
        elif kind == "hang":
            node.frozen = True
        elif kind == "cut":
            for connection in node.connections[:]:
                connection.reset()
        elif kind == "slow":
            node.slow = True
        elif kind == "alarm" and node.up:
            node.alarm(True)
            heal_s = min(heal_s, 4.0)
        elif kind == "operator":
            self._operate(node)
        elif kind == "blackout":
            for each in self.cluster.nodes:
                each.crash()
                self.clock.after(rng.uniform(0.5, 8.0), lambda each=each: self._heal(each))
        elif kind == "minority":
            heal_s = rng.choice((1.0, 15.0, 20.0))
            others = [each for each in self.cluster.nodes if each is not node]
            for each in others:
                each.crash()
                self.clock.after(heal_s * rng.uniform(0.9, 1.1), lambda each=each: self._heal(each))
        elif kind == "delete":
            self.cluster.delete(CASUAL)
            self.clock.after(rng.uniform(0.1, 2.0), self._declare_again)
        if kind in ("crash", "leave") and self.recipe.has("homeless"):
            self.cluster.homeless.add(self.homes.choice(SHARED))
        if kind in ("crash", "leave", "hang", "slow", "alarm"):
            self.clock.after(heal_s, lambda: self._heal(node, kind))

    def _tear(self, connection: Connection) -> None:
        """Break a connection while a large message streams through it."""
        streaming = any(channel.streaming for channel in self.world.shell.session.journal.live_channels())
        if streaming and self.active and not connection.closed and self.tearing.random() < 0.5:
            self.say(f"tear {connection.node.name}")
            connection.reset()

    def _declare_again(self) -> None:
        self.cluster.queues.setdefault(CASUAL, Queue(CASUAL))

    def _operate(self, node: Node) -> None:
        """Somebody closes the session's connections there, or the broker trips over itself. Mostly only once."""
        if self.operated_at and self.rng.random() < 0.6:
            return
        code, text = self.rng.choice(((320, OPERATOR), (541, BUG)))
        for connection in node.connections[:]:
            if connection.force(code, text):
                self.operated_at.append(self.clock.now)

    def _long_blackout(self) -> None:
        self.say("long blackout")
        self.dark_since = self.clock.now
        for node in self.cluster.nodes:
            node.crash()
            self.clock.after(LONG_BLACKOUT_S, lambda node=node: self._heal(node, "blackout"))

    def _heal(self, node: Node, kind: str = "") -> None:
        dark = self.dark_since is not None and self.clock.now < self.dark_since + LONG_BLACKOUT_S
        if dark:
            return
        self.say(f"heal {node.name} {kind}")
        if node.alarmed and kind in ("alarm", ""):
            node.alarm(False)
        if kind in ("slow", ""):
            node.slow = False
        if kind in ("slow", "alarm"):
            return
        if node.frozen:
            if self.rng.random() < 0.5:
                node.crash()
            else:
                node.thaw()
        node.up = True
        self.cluster.homeless.clear()
        self.cluster.review()
