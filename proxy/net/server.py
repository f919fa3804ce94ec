"""Where clients connect."""

from __future__ import annotations

import asyncio
import random
import ssl

from proxy.errors import ConfigError
from proxy.net.census import Census
from proxy.net.dialler import Dialler
from proxy.net.driver import Driver, Surroundings
from proxy.net.link import Link
from proxy.net.policy import DialPolicy, ListenPolicy
from proxy.reports import Report, ReportSink
from proxy.session.credentials import Face
from proxy.session.policy import SessionPolicy
from proxy.upstream.pool import Pool

# How long clients may take to answer the close of a proxy that goes.
CLOSE_WAIT_S = 1.0


class Server:
    """Accepts clients and owns their sessions."""

    def __init__(
        self,
        listen: ListenPolicy,
        dial: DialPolicy,
        session: SessionPolicy,
        pool: Pool,
        census: Census,
        report: ReportSink,
        rng: random.Random,
    ) -> None:
        self._policy = listen
        self._census = census
        self._report = report
        self._around = Surroundings(
            policy=session,
            pool=pool,
            dialler=Dialler(dial, pool, rng),
            census=census,
            face=Face(),
            rng=rng,
            report=report,
        )
        self._tls = _tls_context(listen)
        self._server: asyncio.Server | None = None
        self._count = 0
        self._empty = asyncio.Event()
        pool.on_down(self._endpoint_down)

    @property
    def listening(self) -> bool:
        """Whether clients are accepted."""
        return self._server is not None and self._server.is_serving()

    @property
    def port(self) -> int:
        """The port that is listened on, which matters where the policy says 0."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Bind and accept. Raises `OSError` where the address is taken."""
        self._server = await asyncio.get_running_loop().create_server(
            self._accepted,
            self._policy.host,
            self._policy.port,
            ssl=self._tls,
            backlog=self._policy.backlog,
        )

    async def drain(self, grace_s: float) -> None:
        """Go on serving until the last client has left, or the grace is over. New clients are still accepted: an
        application that is shutting down may need them (peers call this the sidecar's life cycle)."""
        await self._emptied(grace_s)

    async def close(self) -> None:
        """Stop accepting and end what is left with an honest close, which the clients get a moment to answer."""
        if self._server is not None:
            self._server.close()
        for driver in self._drivers():
            driver.shut_down()
        await self._emptied(CLOSE_WAIT_S)
        for driver in self._drivers():
            driver.abort()

    async def _emptied(self, limit_s: float) -> None:
        """Wait until the last session is over, or the limit."""
        try:
            async with asyncio.timeout(limit_s):
                while self._census.sessions:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return

    def _drivers(self) -> list[Driver]:
        return [driver for driver in self._census.sessions.values() if isinstance(driver, Driver)]

    def _endpoint_down(self, name: str, cause: str) -> None:
        for driver in self._drivers():
            driver.endpoint_down(name, cause)

    def _accepted(self) -> Link:
        return _ClientLink(self)

    def admit(self, link: _ClientLink) -> Driver | None:
        """Open a session for a client, unless there are too many."""
        if len(self._census.sessions) >= self._policy.sessions_max:
            refused = self._census.sessions_refused
            refused["sessions_max"] = refused.get("sessions_max", 0) + 1
            self._report(Report("session_refused", {"client": link.peer, "reason": "listen.sessions_max is reached"}))
            return None
        self._count += 1
        return Driver(self._around, link, self._count)

    def left(self) -> None:
        """A client's socket is closed."""
        if not self._census.sessions:
            self._empty.set()


class _ClientLink(Link):
    """A client's socket; its session exists once it is connected."""

    __slots__ = ("_server",)

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._owner = self._server.admit(self)
        if self._owner is None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.left()


def _tls_context(policy: ListenPolicy) -> ssl.SSLContext | None:
    if not policy.tls_cert:
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(policy.tls_cert, policy.tls_key)
        if policy.tls_client_ca:
            context.load_verify_locations(policy.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"listen: tls_cert, tls_key or tls_client_ca cannot be used: {error}") from error
    return context
