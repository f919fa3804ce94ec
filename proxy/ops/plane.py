"""The data plane of one process: everything between clients and brokers, and what it tells of itself."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from itertools import islice
from random import Random

from prometheus_client.core import Metric

from proxy.net.census import Census
from proxy.net.server import Server
from proxy.ops.heap import Heap
from proxy.ops.telemetry import Counted
from proxy.ops.vitals import DETACHED, Condition, Load, SessionPage
from proxy.reports import ReportSink
from proxy.settings import Settings
from proxy.upstream.balance import load_balancer
from proxy.upstream.endpoint import Snapshot
from proxy.upstream.pool import Pool
from proxy.upstream.probe import Prober

_SLICE = 200


class DataPlane:
    """A `Plane` (see `vitals`) that is this process. `worker` is its number where it is one of several, else 0."""

    def __init__(
        self, settings: Settings, report: ReportSink, lines_dropped: Callable[[], int], worker: int = 0
    ) -> None:
        rng = Random()
        choice = settings.balance.choice
        balancer = load_balancer(choice.policy, choice, rng)
        self.pool = Pool(settings.balance.pool, settings.health, balancer, rng, report)
        self.census = Census(self.pool.knows)
        self.server = Server(
            settings.listen, settings.dial, settings.session, self.pool, self.census, report, rng, worker
        )
        self._prober = Prober(self.pool, settings.health, self.server.broker_tls, report)
        self._heap = Heap()
        self._counted = Counted(self.census, self.server.budget, self.pool, lines_dropped)

    @property
    def port(self) -> int:
        """The port that clients connect to, once started."""
        return self.server.port

    async def start(self) -> None:
        """Accept clients. Raises `OSError` where the address is taken."""
        self._heap.keep()
        await self.server.start()
        # Modules and parts stay for good: a full collection would look through 50 000 objects, 30 ms with every session
        # waiting, and find nothing.
        gc.freeze()

    async def run(self) -> None:
        """Probe brokers, and give back memory that nobody needs, until cancelled."""
        budget = self.server.budget
        await asyncio.gather(self._prober.run(), self._heap.run(lambda: budget.read_bytes))

    def apply(self, snapshot: Snapshot, now: float) -> None:
        """Take a whole answer of discovery."""
        self.pool.apply(snapshot, now)

    async def headcount(self) -> int:
        """Count the live sessions."""
        return len(self.census.sessions)

    async def drain(self, grace_s: float) -> None:
        """Go on serving until the last client has left, or the grace is over."""
        await self.server.drain(grace_s)

    async def close(self) -> int:
        """End what is left. Returns how many sessions that cut."""
        cut = len(self.census.sessions)
        await self.server.close()
        return cut

    async def condition(self, now: float) -> Condition:
        """Look at listener, memory and brokers."""
        troubles = []
        if not self.server.listening:
            troubles.append("the listener is not up")
        if self.server.budget.full:
            kept, limit = self.server.budget.retained_bytes, self.server.budget.limit_bytes
            troubles.append(f"{kept} bytes are kept for clients, listen.retained_bytes_max is {limit}")
        return Condition(troubles, self.pool.views(now), self.pool.usable(now), self.pool.panicking())

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

    async def metrics(self, now: float) -> list[Metric]:
        """Read all numbers as they are now."""
        loads = await self.loads(now)
        return list(self._counted.collect(loads, now))

    async def sessions(self, offset: int, limit: int, now: float) -> SessionPage:
        """Describe some live sessions, oldest first."""
        sessions = self.census.sessions
        page = [session.view(now) for session in islice(sessions.values(), offset, offset + limit)]
        return SessionPage(page, len(sessions))
