"""Where clients connect."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl

from proxy.net.budget import Budget
from proxy.net.census import Census
from proxy.net.dialler import Dialler, broker_tls
from proxy.net.driver import Driver
from proxy.net.link import Link
from proxy.net.policy import DialPolicy, ListenPolicy
from proxy.net.refusals import Refusals, watch_handshakes
from proxy.net.surroundings import Surroundings
from proxy.reports import Report, ReportSink
from proxy.session.credentials import Face
from proxy.session.policy import SessionPolicy
from proxy.upstream.pem import unusable
from proxy.upstream.pool import Pool

# How long clients may take to answer the close of a proxy that goes.
CLOSE_WAIT_S = 1.0
# The kernel asks whether a silent client is still there: one without heartbeats may vanish while it is not read.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Server:
    """Accepts clients and owns their sessions. `budget` is what is kept for all of them together, `broker_tls` what
    they say and believe on TLS connections to brokers.

    `worker` is the number of this process where several share the address (`listen.workers`), 0 where it has its own.
    """

    def __init__(
        self,
        listen: ListenPolicy,
        dial: DialPolicy,
        session: SessionPolicy,
        pool: Pool,
        census: Census,
        report: ReportSink,
        rng: random.Random,
        worker: int = 0,
    ) -> None:
        self._policy = listen
        self._worker = worker
        self._census = census
        self._report = Refusals(report)
        self.budget = Budget(listen.retained_bytes_max, self._drivers, report)
        self.broker_tls = broker_tls(dial)
        self._around = Surroundings(
            policy=session,
            pool=pool,
            dialler=Dialler(dial, pool, rng, self.broker_tls),
            census=census,
            budget=self.budget,
            face=Face(),
            rng=rng,
            report=self._report,
        )
        self._tls = tls_context(listen)
        if self._tls is not None:
            watch_handshakes(self._tls, lambda reason: self._refused("tls", reason))
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._count = 0
        self._empty = asyncio.Event()
        pool.on_down(self._endpoint_down)
        pool.on_withdrawn(self._endpoint_withdrawn)

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
            # Strangers may not hold a socket longer than clients.
            ssl_handshake_timeout=self._around.policy.handshake_timeout_s if self._tls is not None else None,
            backlog=self._policy.backlog,
            reuse_port=True if self._worker else None,
        )
        for listener in self._server.sockets:
            _keep_alive(listener)
        self.budget.start()

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
        self.budget.stop()
        for driver in self._drivers():
            driver.abort()
        for link in self._links:
            link.abort()

    async def _emptied(self, limit_s: float) -> None:
        """Wait until the last session is over and the last client's socket is closed, or the limit."""
        try:
            async with asyncio.timeout(limit_s):
                while self._census.sessions or self._links:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return

    def _drivers(self) -> list[Driver]:
        return [driver for driver in self._census.sessions.values() if isinstance(driver, Driver)]

    def _endpoint_down(self, name: str, cause: str) -> None:
        for driver in self._drivers():
            driver.endpoint_down(name, cause)

    def _endpoint_withdrawn(self, name: str, withdrawn: bool) -> None:
        for driver in self._drivers():
            driver.endpoint_withdrawn(name, withdrawn)

    def _accepted(self) -> Link:
        return _ClientLink(self)

    def admit(self, link: Link) -> Driver | None:
        """Open a session for a client, unless there are too many, or they keep too much already."""
        if self.budget.full:
            self._refused("memory", "listen.retained_bytes_max is reached", link.peer)
            return None
        if len(self._census.sessions) >= self._policy.sessions_max:
            self._refused("sessions_max", "listen.sessions_max is reached", link.peer)
            return None
        self._links.add(link)
        self._count += 1
        number = f"{self._worker}-{self._count:x}" if self._worker else f"{self._count:x}"
        return Driver(self._around, link, number, self._empty.set)

    def left(self, link: Link) -> None:
        """A client's socket is closed."""
        self._links.discard(link)
        self._empty.set()

    def _refused(self, cause: str, reason: str, client: str = "") -> None:
        refused = self._census.sessions_refused
        refused[cause] = refused.get(cause, 0) + 1
        self._report(Report("session_refused", {"client": client, "cause": cause, "reason": reason}))


class _ClientLink(Link):
    """A client's socket; its session exists once it is connected."""

    __slots__ = ("_server",)

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name or "")
        self._owner = self._server.admit(self)
        if self._owner is None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.left(self)


def _keep_alive(listener: socket.socket) -> None:
    """What is accepted inherits it. Not every system has all of these options."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option: int | None = getattr(socket, name, None)
        if option is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


def tls_context(policy: ListenPolicy) -> ssl.SSLContext | None:
    """What is shown and asked on connections from clients; None for plain ones.

    Raises `ConfigError` that names an unusable file.
    """
    if not policy.tls_cert:
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # An empty password: OpenSSL would ask for one at the terminal, and wait.
        context.load_cert_chain(policy.tls_cert, policy.tls_key, password="")
        if policy.tls_client_ca:
            context.load_verify_locations(policy.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        names = ("tls_cert", "tls_key", "tls_client_ca")
        raise unusable({f"listen.{name}": getattr(policy, name) for name in names}, error) from error
    return context
