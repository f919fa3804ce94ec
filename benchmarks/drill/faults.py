"""How brokers are hurt, and how the cluster is made whole again, so that every fault hits a healthy one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.stand import NODE_PREFIX, Cluster, StandError, Way

# SIGSTOP long enough for a heartbeat of 10 s to be missed by the slowest honest count.
PAUSE_S = 15.0
# A killed node stays away this long: a client must live on the others, not wait for its own.
DOWN_S = 2.0
# Longer than the cluster's net tick of 8 s, so that no broker takes it for a hiccup.
PARTITION_S = 12.0
HEAL_S = 120.0
# A member that is still missing then doesn't come back by itself; the node is restarted.
MEMBER_MISSING_S = 45.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One injury: what was done to which node, because whose session was on it, and when (monotonic seconds).

    `witnessed`: when each node confirmed by itself, past every proxy (`witness.py`); nothing if nobody looked.
    """

    kind: str
    node: int
    role: str
    at_s: float
    witnessed: Sequence[Sequence[float]] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault happens: the node it is meant for, another one, the pid of the connection that is on the node.

    `delay_s` lies between two injuries of one fault.
    """

    brokers: Cluster
    way: Way
    node: int
    other: int
    connection: str
    delay_s: float


class Ward:
    """The cluster between two faults: whole, with every member of the queue that the applications use."""

    def __init__(self, brokers: Cluster, queue: str, *, replicated: bool) -> None:
        self._brokers = brokers
        self._queue = queue
        self._replicated = replicated

    def await_health(self) -> None:
        """Return when every node answers AMQP and the queue has all of its members. Raises StandError in the end."""
        deadline, restart_s = time.monotonic() + HEAL_S, time.monotonic() + MEMBER_MISSING_S
        while missing := self._missing():
            if time.monotonic() > deadline:
                raise StandError(f"the cluster did not become whole: {missing} missing; see {self._brokers.folder}")
            if time.monotonic() > restart_s:
                restart_s = deadline
                for node in missing:
                    self._brokers.run("stop", node)
            with contextlib.suppress(StandError):
                self._brokers.run("start", *missing)
            time.sleep(0.3)

    def _missing(self) -> list[int]:
        """The nodes that don't answer, or don't have their member of the queue online."""
        lines = [line.split() for line in self._brokers.run("status").splitlines()]
        down = [int(words[0].removeprefix(NODE_PREFIX)) for words in lines if words[1] != "up"]
        if down or not self._replicated:
            return down
        try:
            listing = json.loads(
                self._brokers.ctl(1, "list_queues", "--formatter", "json", "name", "online", timeout_s=30)
            )
        except (StandError, ValueError):
            return list(self._brokers.nodes)
        online = next((str(row["online"]) for row in listing if row["name"] == self._queue), "")
        return [node for node in self._brokers.nodes if f"{NODE_PREFIX}{node}@" not in online]


def connection_of(brokers: Cluster, name: str) -> tuple[int, str] | None:
    """On which node the named connection is, and its pid there: the brokers' word, the same for every way.

    A proxy may add itself to the client's name, so the name is looked for inside.
    A node that is just back may not know of the others' connections yet, so each is asked.
    """
    for node in brokers.nodes:
        with contextlib.suppress(StandError):
            for line in brokers.ctl(node, "list_connections", "pid", "client_properties").splitlines():
                pid, _, properties = line.partition("\t")
                if name in properties:
                    return _node_in(pid), pid
    return None


def home_of(brokers: Cluster, queue: str) -> int:
    """The node that a classic queue lives on, or the leader of a replicated one. Raises StandError."""
    # A replicated queue has a leader; a classic one has none, and a pid that names its node.
    for line in brokers.ctl(1, "list_queues", "name", "leader", "pid").splitlines():
        name, leader, pid = (*line.split("\t"), "", "")[:3]
        if name == queue:
            return _node_in(leader or pid)
    raise StandError(f"no broker knows the queue {queue}")


def _node_in(text: str) -> int:
    """`mq2@localhost` and `<mq2@localhost.1668.0>` are on node 2."""
    return int(text.partition("@")[0].removeprefix("<").removeprefix(NODE_PREFIX))


def _kill9(scene: Scene) -> None:
    scene.brokers.run("kill9", scene.node)
    time.sleep(DOWN_S)
    scene.brokers.run("start", scene.node)


def _sigterm(scene: Scene) -> None:
    scene.brokers.run("stop", scene.node)
    time.sleep(DOWN_S)
    scene.brokers.run("start", scene.node)


def _stop_app(scene: Scene) -> None:
    scene.brokers.ctl(scene.node, "stop_app")
    time.sleep(DOWN_S)
    scene.brokers.ctl(scene.node, "start_app")


def _pause(scene: Scene) -> None:
    scene.brokers.run("pause", scene.node)
    time.sleep(PAUSE_S)
    scene.brokers.run("resume", scene.node)
    _rejoin(scene)


def _partition(scene: Scene) -> None:
    others = [node for node in scene.brokers.nodes if node != scene.node]
    for other in others:
        scene.brokers.run("partition", scene.node, other)
    time.sleep(PARTITION_S)
    for other in others:
        scene.brokers.run("heal", scene.node, other)
    _rejoin(scene)


def _rejoin(scene: Scene) -> None:
    """A node that was away for longer than the net tick may not find back by itself; a restart heals it."""
    scene.brokers.run("stop", scene.node)
    scene.brokers.run("start", scene.node)


def _drain(scene: Scene) -> None:
    """A maintenance as docs/OPERATING.md tells it; without a registry, as RabbitMQ's own manual does."""
    with scene.way.drained(scene.brokers.endpoints[scene.node - 1]):
        scene.brokers.run("upgrade", scene.node, "-q", "drain")
        scene.brokers.run("stop", scene.node)
        time.sleep(DOWN_S)
        scene.brokers.run("start", scene.node)


def _two(scene: Scene) -> None:
    scene.brokers.run("kill9", scene.node, scene.other)
    time.sleep(DOWN_S)
    scene.brokers.run("start", scene.node, scene.other)


def _again(scene: Scene) -> None:
    scene.brokers.run("kill9", scene.node)
    time.sleep(scene.delay_s)
    scene.brokers.run("kill9", scene.other)
    time.sleep(DOWN_S)
    scene.brokers.run("start", scene.node, scene.other)


def _close(scene: Scene) -> None:
    scene.brokers.ctl(scene.node, "close_connection", scene.connection, "drill")


# `home` is a kill as well; it hits the queue's node, not an application's (`Orders.sequence`).
FAULTS: dict[str, Callable[[Scene], None]] = {
    "kill9": _kill9,
    "sigterm": _sigterm,
    "stop_app": _stop_app,
    "pause": _pause,
    "close": _close,
    "drain": _drain,
    "partition": _partition,
    "home": _kill9,
    "two": _two,
    "again": _again,
}
