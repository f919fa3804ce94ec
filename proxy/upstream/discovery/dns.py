"""Endpoints from DNS: every A and AAAA record of one name, such as a headless Kubernetes service."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from proxy.errors import ConfigError
from proxy.upstream.discovery.source import Answer, Fail
from proxy.upstream.endpoint import Endpoint, Snapshot

ADDRESSES_MAX = 1000

Resolve = Callable[[str, int], Awaitable[Iterable[str]]]


@dataclass(frozen=True, slots=True)
class DnsPolicy:
    """`name` is resolved every `interval_s` seconds, jittered by a fifth; each address is one broker on `port`."""

    name: str = ""
    port: int = 5672
    tls: bool = False
    interval_s: float = 15.0
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError("discovery.dns.port must be 1 to 65535")
        if self.interval_s <= 0 or self.timeout_s <= 0:
            raise ConfigError("discovery.dns.interval_s and discovery.dns.timeout_s must be above 0")


async def resolve_with_system(name: str, port: int) -> list[str]:
    """Ask the system's resolver; it keeps to /etc/hosts and to the search list of the pod."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class DnsDiscovery:
    """Answer with what a name resolves to. Endpoints are named `host:port` by address."""

    def __init__(self, policy: DnsPolicy, rng: random.Random, resolve: Resolve = resolve_with_system) -> None:
        if not policy.name:
            raise ConfigError("discovery.dns.name: say which name to resolve")
        self._policy = policy
        self._rng = rng
        self._resolve = resolve

    async def run(self, answer: Answer, fail: Fail) -> None:
        """Resolve again and again until cancelled."""
        policy = self._policy
        while True:
            try:
                async with asyncio.timeout(policy.timeout_s):
                    addresses = sorted(set(await self._resolve(policy.name, policy.port)))
            except TimeoutError:
                fail(f"{policy.name}: no answer within {policy.timeout_s:g} s")
            except (OSError, UnicodeError) as error:
                fail(f"{policy.name}: {error}")
            else:
                answer(Snapshot(tuple(self._endpoint(address) for address in addresses[:ADDRESSES_MAX])))
            await asyncio.sleep(policy.interval_s * self._rng.uniform(0.8, 1.2))

    def _endpoint(self, address: str) -> Endpoint:
        # A certificate names the service and hardly ever an address, hence server_name.
        name = self._policy.name if self._policy.tls else ""
        endpoint = Endpoint("", address, self._policy.port, tls=self._policy.tls, server_name=name)
        return Endpoint(endpoint.address, address, self._policy.port, tls=self._policy.tls, server_name=name)
