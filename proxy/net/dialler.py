"""Connections to brokers: which one, with TLS where discovery says so, and not too many at once."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable

from proxy.errors import ConfigError
from proxy.net.link import Link
from proxy.net.policy import DialPolicy
from proxy.upstream.balance import PickContext
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.pool import Pool


class NoBroker(Exception):
    """No connection could be had; the text is for people."""


class Dialler:
    """Picks endpoints and connects. Shared by all sessions of a process.

    At most `attachments_max` sessions at once are between connecting to an endpoint and being attached there: a
    thousand sessions of a dead node must not break the next one. `release` gives the place back.
    """

    def __init__(self, policy: DialPolicy, pool: Pool, rng: random.Random) -> None:
        self._policy = policy
        self._pool = pool
        self._rng = rng
        self._places: dict[str, asyncio.Semaphore] = {}
        self._tls = tls_context(policy)

    async def dial(
        self, context: PickContext, avoid: frozenset[str], resumes: bool, make_link: Callable[[], Link]
    ) -> tuple[Endpoint, Link]:
        """Connect to the endpoint that the pool picks. Raises `NoBroker`; a place is held only on success."""
        if resumes and self._policy.spread_s:
            await asyncio.sleep(self._rng.uniform(0, self._policy.spread_s))
        loop = asyncio.get_running_loop()
        endpoint = self._pool.pick(loop.time(), context, avoid)
        if endpoint is None:
            raise NoBroker("no usable broker node is known")
        places = self._places.setdefault(endpoint.name, asyncio.Semaphore(self._policy.attachments_max))
        self._pool.attaching(endpoint.name)
        try:
            await places.acquire()
            try:
                link = await self._connect(endpoint, make_link)
            except BaseException:
                places.release()
                raise
        except BaseException:
            self._pool.attach_ended(endpoint.name)
            raise
        return endpoint, link

    def release(self, name: str) -> None:
        """A session is attached to an endpoint, or has given up there."""
        self._places[name].release()
        self._pool.attach_ended(name)

    async def _connect(self, endpoint: Endpoint, make_link: Callable[[], Link]) -> Link:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            async with asyncio.timeout(self._policy.connect_timeout_s):
                _, link = await loop.create_connection(
                    make_link,
                    endpoint.host,
                    endpoint.port,
                    ssl=self._tls if endpoint.tls else None,
                    server_hostname=(endpoint.server_name or endpoint.host) if endpoint.tls else None,
                )
        except TimeoutError as error:
            self._pool.observe(endpoint.name, "connect_failed", loop.time())
            raise NoBroker(
                f"{endpoint.name} ({endpoint.address}): no connection within {self._policy.connect_timeout_s:g}s"
            ) from error
        except OSError as error:  # refused, unreachable, unknown host, TLS
            self._pool.observe(endpoint.name, "connect_failed", loop.time())
            raise NoBroker(f"{endpoint.name} ({endpoint.address}): {error.strerror or error}") from error
        now = loop.time()
        self._pool.observe(endpoint.name, "connected", now, now - started_at)
        return link


def tls_context(policy: DialPolicy) -> ssl.SSLContext:
    """What is said and believed on TLS connections to brokers. Raises `ConfigError` for unusable files."""
    try:
        context = ssl.create_default_context(cafile=policy.tls_ca or None)
        if policy.tls_cert:
            context.load_cert_chain(policy.tls_cert, policy.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"dial: tls_ca, tls_cert or tls_key cannot be used: {error}") from error
    if not policy.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
