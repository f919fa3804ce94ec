"""How a broker is hurt, and how the cluster is made whole again, so that every fault hits a healthy one."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.stand import NODE_PREFIX, Cluster, StandError

# SIGSTOP long enough for a heartbeat of 10 s to be missed by the slowest honest count.
PAUSE_S = 15.0
# A killed node stays away this long: a client must live on the others, not wait for its own.
DOWN_S = 2.0
HEAL_S = 120.0
# A quorum member that is still missing then doesn't come back by itself; the node is restarted.
MEMBER_MISSING_S = 45.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One injury: what was done to which node, because whose session was on it, and when (monotonic seconds)."""

    kind: str
    node: int
    role: str
    at_s: float


class Injuries:
    """The faults by name. Each hurts, keeps the node away for a while, and starts what it ended."""

    def __init__(self, brokers: Cluster, queue: str, *, quorum: bool) -> None:
        self._brokers = brokers
        self._queue = queue
        self._quorum = quorum

    def inflict(self, kind: str, node: int, connection: str) -> float:
        """Hurt the node (for `close`: end the connection with this pid) and start it again. Returns the moment."""
        at_s = time.monotonic()
        FAULTS[kind](self._brokers, node, connection)
        return at_s

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
        if down or not self._quorum:
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
            for line in brokers.ctl(node, "list_connections", "pid", "client_properties", timeout_s=30).splitlines():
                pid, _, properties = line.partition("\t")
                if name in properties:
                    return int(pid.partition("@")[0].removeprefix(f"<{NODE_PREFIX}")), pid
    return None


def _kill9(brokers: Cluster, node: int, _: str) -> None:
    brokers.run("kill9", node)
    time.sleep(DOWN_S)
    brokers.run("start", node)


def _sigterm(brokers: Cluster, node: int, _: str) -> None:
    brokers.run("stop", node)
    time.sleep(DOWN_S)
    brokers.run("start", node)


def _stop_app(brokers: Cluster, node: int, _: str) -> None:
    brokers.ctl(node, "stop_app")
    time.sleep(DOWN_S)
    brokers.ctl(node, "start_app")


def _pause(brokers: Cluster, node: int, _: str) -> None:
    brokers.run("pause", node)
    time.sleep(PAUSE_S)
    brokers.run("resume", node)
    # Longer than the cluster's net tick: the node may be partitioned for good, and only a restart heals that.
    brokers.run("stop", node)
    brokers.run("start", node)


def _close(brokers: Cluster, node: int, connection: str) -> None:
    brokers.ctl(node, "close_connection", connection, "drill")


FAULTS: dict[str, Callable[[Cluster, int, str], None]] = {
    "kill9": _kill9,
    "sigterm": _sigterm,
    "stop_app": _stop_app,
    "pause": _pause,
    "close": _close,
}
