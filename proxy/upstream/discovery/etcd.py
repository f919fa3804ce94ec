"""Follow a prefix of etcd: list it at revision R, watch from R + 1, and after any failure list again.

Nothing is resumed. Resuming needs a revision that is known to be seen, and the revisions in headers and progress
notifications run ahead of the events (etcd issues 15220 and 20221); broker keys are few, so a list is cheap.
"""

from __future__ import annotations

import asyncio
import random

from proxy.upstream.discovery.registry import EtcdPolicy, Listing, Registry, RegistryError, Watch
from proxy.upstream.discovery.source import Answer, Fail
from proxy.upstream.discovery.view import View

# The back-off doubles up to the policy's cap; beyond this many doublings the cap rules whatever the base is.
_DOUBLINGS_MAX = 16


class EtcdDiscovery:
    """Answer with the brokers below a prefix of etcd, as soon as they change."""

    def __init__(self, policy: EtcdPolicy, rng: random.Random) -> None:
        self._policy = policy
        self._rng = rng
        self._registry = _connect(policy, rng)
        self._view = View(policy.prefix, policy.entries_max)
        self._answered = False
        self._watching_since: float | None = None

    async def run(self, answer: Answer, fail: Fail) -> None:
        """Follow the prefix until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    await self._follow(answer)
                except RegistryError as error:
                    if self._watch_lasted():
                        failures = 0
                    await self._answer_without_quorum(answer)
                    fail(str(error))
                    # A token is kept over an outage: a thousand sidecars that authenticate at the same moment cost
                    # etcd a hundred seconds of CPU.
                    await self._registry.rotate(drop_token=error.auth)
                    await asyncio.sleep(self._delay_s(failures))
                    failures += 1
        finally:
            await self._registry.close()

    async def _follow(self, answer: Answer) -> None:
        self._watching_since = None
        listing = await self._registry.read()
        while True:
            self._view.replace(listing)
            self._tell(answer)
            watch = await self._registry.watch(listing.revision + 1)
            if self._watching_since is None:
                self._watching_since = asyncio.get_running_loop().time()
            try:
                listing = await self._until_it_lags(watch, answer)
            finally:
                watch.close()

    async def _until_it_lags(self, watch: Watch, answer: Answer) -> Listing:
        """Apply what the watch tells; return the list that showed that the watch has missed something."""
        while True:
            try:
                async with asyncio.timeout(self._policy.reconcile_s * self._rng.uniform(0.8, 1.2)):
                    while True:
                        items, revision = await watch.changes()
                        self._view.apply(items, revision)
                        self._tell(answer)
            except TimeoutError:
                listing = await self._registry.read()
            if not self._view.matches(listing):
                return listing
            self._tell(answer)

    async def _answer_without_quorum(self, answer: Answer) -> None:
        """A member that lost its quorum still knows brokers: better than none, but only if there is nothing yet."""
        if self._answered:
            return
        try:
            listing = await self._registry.read(serializable=True)
            self._view.replace(listing)
        except RegistryError:
            return
        self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        self._answered = True
        answer(self._view.snapshot())

    def _watch_lasted(self) -> bool:
        """A watch that ends at once must not reset the back-off, or list and watch would spin."""
        since = self._watching_since
        return since is not None and asyncio.get_running_loop().time() - since >= self._policy.retry_max_s

    def _delay_s(self, failures: int) -> float:
        cap_s = min(self._policy.retry_max_s, self._policy.retry_base_s * 2 ** min(failures, _DOUBLINGS_MAX))
        return self._rng.uniform(0, cap_s)


def _connect(policy: EtcdPolicy, rng: random.Random) -> Registry:
    # Imported late: gRPC costs 20 MB that nobody pays who does not use it.
    first = rng.randrange(len(policy.endpoints))
    if policy.client == "etcd3":
        from proxy.upstream.discovery.etcd_grpc import GrpcRegistry

        return GrpcRegistry(policy, first)
    from proxy.upstream.discovery.etcd_http import GatewayRegistry

    return GatewayRegistry(policy, first)
