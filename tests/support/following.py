"""A discovery at work in a test, and waiting for what it says."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable

from proxy.reports import Report
from proxy.upstream.discovery import DiscoveryPolicy, load_discovery
from proxy.upstream.endpoint import Discovery, Snapshot

PATIENCE_S = 30


class Following:
    """What a running discovery has published and reported so far."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.reports: list[Report] = []
        self.discovery: Discovery
        self._news = asyncio.Event()

    @property
    def names(self) -> list[str]:
        """Names of the endpoints in use."""
        return [endpoint.name for endpoint in self.snapshots[-1].endpoints] if self.snapshots else []

    def told(self, event: str) -> list[Report]:
        """The reports of one kind."""
        return [report for report in self.reports if report.event == event]

    def published(self, snapshot: Snapshot) -> None:
        """As the pool would be told."""
        self.snapshots.append(snapshot)
        self._news.set()

    def reported(self, report: Report) -> None:
        """As the log would be told."""
        self.reports.append(report)
        self._news.set()

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait until something holds; it is looked at after each piece of news and, for status, now and then."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not fact():
                    self._news.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), 0.02)
        except TimeoutError as error:
            raise AssertionError(f"never: {self.names} {self.discovery.status} {self.reports}") from error

    async def until_names(self, *names: str) -> None:
        """Wait until exactly these endpoints are in use."""
        await self.until(lambda: self.names == list(names))


async def eventually(fact: Callable[[], object]) -> None:
    """Wait until something outside of us holds, that can only be asked for."""
    async with asyncio.timeout(PATIENCE_S):
        while not fact():  # noqa: ASYNC110 - it cannot tell us
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def following(policy: DiscoveryPolicy) -> AsyncIterator[Following]:
    """Run the discovery of a policy for the length of a block."""
    follower = Following()
    follower.discovery = load_discovery(policy, follower.reported, random.Random(1))
    task = asyncio.create_task(follower.discovery.run(follower.published))
    try:
        yield follower
        assert not task.done(), f"discovery ended by itself: {task}"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
