"""What can be told about a running sidecar. API, metrics and status page read it; none of them keeps anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from proxy.net.budget import Budget
from proxy.net.census import Census
from proxy.ops.build import Build
from proxy.upstream.endpoint import DiscoveryStatus, Rejected
from proxy.upstream.pool import Pool

# The name that stands for the endpoint of sessions that have none at the moment. No endpoint can be called so, since
# its name would come from a registry key or an address.
DETACHED = "(detached)"
_SLICE = 200


class Listener(Protocol):
    """What is asked of the server."""

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""
        ...


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
class Vitals:
    """The parts of a running sidecar, to be read only. `stop` ends the process as a SIGTERM does."""

    build: Build
    census: Census
    budget: Budget
    pool: Pool
    discovery: DiscoveryStatus
    listener: Listener
    lines_dropped: Callable[[], int]
    stop: Callable[[str], None]
    rejected: tuple[Rejected, ...] = ()

    def not_ready(self, now: float) -> list[str]:
        """Why a client that connects now would not get a broker; empty if it would."""
        reasons = []
        if not self.listener.listening:
            reasons.append("the listener is not up")
        if self.budget.full:
            kept, limit = self.budget.retained_bytes, self.budget.limit_bytes
            reasons.append(f"{kept} bytes are kept for clients, listen.retained_bytes_max is {limit}")
        if not self.pool.usable(now):
            reasons.append(self._no_broker(now))
        return reasons

    def _no_broker(self, now: float) -> str:
        views = self.pool.views(now)
        if views:
            told = "; ".join(f"{view.name} is {view.state}: {view.cause or 'no reason known'}" for view in views[:10])
            return f"no broker is usable: {told}"
        if self.discovery.synced_at is None:
            why = f": {self.discovery.last_error}" if self.discovery.last_error else ""
            return f"discovery ({self.discovery.source}) has not answered yet{why}"
        return f"discovery ({self.discovery.source}) names no broker"

    async def loads(self, now: float) -> dict[str, Load]:
        """Sum up the live sessions per endpoint, every known endpoint included.

        Ten thousand sessions take some 50 ms to describe, so other work gets its turn every few of them.
        """
        loads = {view.name: Load() for view in self.pool.views(now)}
        for number, session in enumerate(list(self.census.sessions.values()), start=1):
            view = session.view(now)
            load = loads.setdefault(view.endpoint or DETACHED, Load())
            load.sessions += 1
            load.channels += view.channels
            load.consumers += view.consumers
            load.unsettled_publishes += view.unsettled_publishes
            load.unsettled_bytes += view.unsettled_bytes
            load.outstanding_deliveries += view.outstanding_deliveries
            load.parked_bytes += view.parked_bytes
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        return loads
