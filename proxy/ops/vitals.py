"""What can be told about a running sidecar. API, metrics and status page read it; none of them keeps anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.core import Metric

from proxy.net.census import SessionView
from proxy.ops.build import Build
from proxy.upstream.endpoint import DiscoveryStatus, Rejected, Snapshot
from proxy.upstream.member import EndpointView

# The name that stands for the endpoint of sessions that have none at the moment. No endpoint can be called so, since
# its name would come from a registry key or an address.
DETACHED = "(detached)"


@dataclass(slots=True)
class Load:
    """What the live sessions of one endpoint hold at this moment."""

    sessions: int = 0
    channels: int = 0
    consumers: int = 0
    unsettled_publishes: int = 0
    unsettled_bytes: int = 0
    outstanding_deliveries: int = 0
    parked_bytes: int = 0


@dataclass(slots=True)
class Condition:
    """How well clients can be served at this moment: what speaks against it on our side, and the brokers."""

    troubles: list[str] = field(default_factory=list)
    endpoints: list[EndpointView] = field(default_factory=list)
    usable: int = 0
    panic: bool = False


@dataclass(slots=True)
class SessionPage:
    """Some of the live sessions, and how many there are."""

    sessions: list[SessionView]
    total: int


class Plane(Protocol):
    """Everything that serves clients: in this process (`plane.DataPlane`), or in several others (`crew.Crew`).

    `now` is monotonic seconds. `start` raises `OSError` where the address is taken; `run` serves until cancelled.
    """

    @property
    def port(self) -> int:
        """The port that clients connect to, once started."""
        ...

    async def start(self) -> None:
        """Accept clients from here on."""
        ...

    async def run(self) -> None:
        """Do what has to be done all the time."""
        ...

    def apply(self, snapshot: Snapshot, now: float) -> None:
        """Take a whole answer of discovery."""
        ...

    async def headcount(self) -> int:
        """Count the live sessions."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Go on serving until the last client has left, or the grace is over."""
        ...

    async def close(self) -> int:
        """Accept nobody any more, and end what is left. Returns how many sessions that cut."""
        ...

    async def condition(self, now: float) -> Condition:
        """Look whether a client that connects now would be served."""
        ...

    async def loads(self, now: float) -> dict[str, Load]:
        """Sum up the live sessions per endpoint, every known endpoint included."""
        ...

    async def metrics(self, now: float) -> Iterable[Metric]:
        """Read all numbers as they are now."""
        ...

    async def sessions(self, offset: int, limit: int, now: float) -> SessionPage:
        """Describe `limit` live sessions at most, beginning with that number `offset`, oldest first."""
        ...


@dataclass(slots=True)
class Vitals:
    """The parts of a running sidecar, to be read only. `stop` ends the process as a SIGTERM does."""

    build: Build
    plane: Plane
    discovery: DiscoveryStatus
    stop: Callable[[str], None]
    rejected: tuple[Rejected, ...] = ()

    def not_ready(self, condition: Condition) -> list[str]:
        """Why a client that connects now would not get a broker; empty if it would."""
        return condition.troubles if condition.usable else [*condition.troubles, self._no_broker(condition.endpoints)]

    def _no_broker(self, views: list[EndpointView]) -> str:
        if views:
            told = "; ".join(f"{view.name} is {view.state}: {view.cause or 'no reason known'}" for view in views[:10])
            return f"no broker is usable: {told}"
        if self.discovery.synced_at is None:
            why = f": {self.discovery.last_error}" if self.discovery.last_error else ""
            return f"discovery ({self.discovery.source}) has not answered yet{why}"
        return f"discovery ({self.discovery.source}) names no broker"
