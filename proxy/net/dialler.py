"""Connections to brokers: which one, with TLS where discovery says so, and not too many at once."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from functools import cache, partial

from proxy.net.link import Link
from proxy.net.policy import DialPolicy
from proxy.upstream.balance import PickContext
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.pem import unusable
from proxy.upstream.pool import Pool


class NoBroker(Exception):
    """No connection could be had; the text is for people. `endpoint` names what was tried, if anything was."""

    def __init__(self, reason: str, endpoint: str = "") -> None:
        super().__init__(reason)
        self.endpoint = endpoint


class _Places:
    """The places at one endpoint; `users` are the sessions that have one or wait for one."""

    __slots__ = ("free", "users")

    def __init__(self, limit: int) -> None:
        self.free = asyncio.Semaphore(limit)
        self.users = 0


class Dialler:
    """Picks endpoints and connects. Shared by all sessions of a process.

    At most `attachments_max` sessions at once are between connecting to an endpoint and being attached there: a
    thousand sessions of a dead node must not break the next one. `release` gives the place back.
    """

    def __init__(self, policy: DialPolicy, pool: Pool, rng: random.Random, tls: Callable[[], ssl.SSLContext]) -> None:
        self._policy = policy
        self._pool = pool
        self._rng = rng
        self._places: dict[str, _Places] = {}
        self._tls = tls

    async def dial(
        self, context: PickContext, avoid: frozenset[str], resumes: bool, make_link: Callable[[], Link]
    ) -> tuple[Endpoint, Link]:
        """Connect to the endpoint that the pool picks. Raises `NoBroker`; a place is held only on success."""
        if resumes and self._policy.spread_s:
            await asyncio.sleep(self._rng.uniform(0, self._policy.spread_s))
        loop = asyncio.get_running_loop()
        while True:
            endpoint = self._pool.pick(loop.time(), context, avoid)
            if endpoint is None:
                raise NoBroker("no usable broker node is known")
            if link := await self._attach(endpoint, avoid, make_link):
                return endpoint, link

    async def _attach(self, endpoint: Endpoint, avoid: frozenset[str], make_link: Callable[[], Link]) -> Link | None:
        """Wait for a place and connect; None if the endpoint is no choice any more when the place is there."""
        places = self._places.setdefault(endpoint.name, _Places(self._policy.attachments_max))
        places.users += 1
        self._pool.attaching(endpoint.name)
        try:
            waits = places.free.locked()
            await places.free.acquire()
            try:
                now = asyncio.get_running_loop().time()
                link = None
                if not waits or self._pool.takes(endpoint.name, now, avoid):
                    link = await self._connect(endpoint, make_link)
            except BaseException:
                places.free.release()
                raise
        except BaseException:
            self._leave(endpoint.name)
            raise
        if link is None:
            self.release(endpoint.name)
        return link

    def release(self, name: str) -> None:
        """A session is attached to an endpoint, or has given up there."""
        self._places[name].free.release()
        self._leave(name)

    def _leave(self, name: str) -> None:
        places = self._places[name]
        places.users -= 1
        if not places.users:
            del self._places[name]  # names of pods come and go without end
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
                    ssl=self._tls() if endpoint.tls else None,
                    server_hostname=(endpoint.server_name or endpoint.host) if endpoint.tls else None,
                )
        except TimeoutError as error:
            self._pool.observe(endpoint.name, "connect_failed", loop.time())
            raise NoBroker(
                f"no connection to {endpoint.address} within {self._policy.connect_timeout_s:g}s", endpoint.name
            ) from error
        # Refused, unreachable, unknown host, TLS. UnicodeError: a host name that cannot be encoded for DNS.
        except (OSError, UnicodeError) as error:
            self._pool.observe(endpoint.name, "connect_failed", loop.time())
            reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
            raise NoBroker(f"{endpoint.address}: {reason}", endpoint.name) from error
        now = loop.time()
        self._pool.observe(endpoint.name, "connected", now, now - started_at)
        return link


def broker_tls(policy: DialPolicy) -> Callable[[], ssl.SSLContext]:
    """What all TLS connections to brokers share, made for the first of them: the system's authorities take 0.1 s and
    1 MiB to read. Files of the policy are read at once. Raises `ConfigError` that names an unusable one.
    """
    context = cache(partial(tls_context, policy))
    if policy.tls_ca or policy.tls_cert:
        context()
    return context


def tls_context(policy: DialPolicy) -> ssl.SSLContext:
    """What is said and believed on TLS connections to brokers. Raises `ConfigError` that names an unusable file."""
    try:
        context = ssl.create_default_context(cafile=policy.tls_ca or None)
        if policy.tls_cert:
            # An empty password: OpenSSL would ask for one at the terminal, and wait.
            context.load_cert_chain(policy.tls_cert, policy.tls_key, password="")
    except (OSError, ssl.SSLError) as error:
        names = ("tls_ca", "tls_cert", "tls_key")
        raise unusable({f"dial.{name}": getattr(policy, name) for name in names}, error) from error
    if not policy.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
