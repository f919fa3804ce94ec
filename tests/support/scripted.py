"""A tiny broker and a tiny client over real sockets, for tests of the shell: what they say is under control."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEAD, HEADER, METHOD, PROTOCOL_HEADER
from proxy.net.census import Census
from proxy.net.policy import DialPolicy, ListenPolicy
from proxy.net.server import Server
from proxy.session.policy import SessionPolicy
from proxy.upstream.balance import BalancePolicy, load_balancer
from proxy.upstream.endpoint import Endpoint, Snapshot
from proxy.upstream.health import HealthPolicy
from proxy.upstream.pool import Pool, PoolPolicy
from tests.support.engine_frames import (
    ALL_CAPABILITIES,
    BROKER_OPEN_OK,
    BROKER_START,
    BROKER_TUNE,
    CLASS_BASIC,
    HEARTBEAT,
    ack,
    consume_ok,
    ident_of,
    on,
    start_ok,
)
from tests.support.ports import free_port

PATIENCE_S = 60
START_OK = m.method_id(m.ConnectionStartOk)
OPEN = m.method_id(m.ConnectionOpen)
ANSWERS = {
    OPEN: lambda number: BROKER_OPEN_OK,
    m.method_id(m.ChannelOpen): lambda number: on(number, m.ChannelOpenOk()),
    m.method_id(m.BasicConsume): consume_ok,
    m.method_id(m.ConnectionClose): lambda number: on(0, m.ConnectionCloseOk()),
}


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(HEAD.size)
    return head + await reader.readexactly(HEAD.unpack(head)[2] + 1)


class BrokerLink:
    """One connection at the broker. `publishes` are bodies; `frames` are methods of the conversation, by number."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.idents: list[int] = []
        self.publishes = 0
        # By channel: body bytes that are still to come, and what was published since confirms were asked for.
        self.left: dict[int, int] = {}
        self.confirmed: dict[int, int] = {}


class ScriptedBroker:
    """Speaks as much AMQP as the shell needs to work.

    `silent_at`: it goes silent instead of answering this (`"header"`, or the number of a method); `cut_at`: it cuts.
    `reading` cleared: it stops reading. `changed` is set whenever something came or went.
    """

    def __init__(self, name: str = "b1") -> None:
        self.name = name
        self.silent_at: object = None
        self.cut_at: object = None
        self.banner = b""
        self.reading = asyncio.Event()
        self.reading.set()
        self.links: list[BrokerLink] = []
        self.accepted = 0
        self.changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task] = set()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, "127.0.0.1", self.port)

    async def start(self) -> ScriptedBroker:
        self.port = free_port()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        return self

    async def stop(self) -> None:
        self._server.close()
        self.reading.set()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for link in self.links:
            link.writer.transport.abort()

    async def until(self, fact) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(fact)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        link = BrokerLink(reader, writer)
        self.links.append(link)
        self.accepted += 1
        pulse = asyncio.create_task(self._beat(writer))
        try:
            await self._tell()
            await self._serve(link)
        except (OSError, EOFError):
            pass
        finally:
            pulse.cancel()
            self.links.remove(link)
            self._tasks.discard(task)
            writer.transport.abort()
            await self._tell()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(0.4)
            if not self.silent_at:
                writer.write(HEARTBEAT)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _serve(self, link: BrokerLink) -> None:
        link.writer.write(self.banner)
        assert await link.reader.readexactly(8) == PROTOCOL_HEADER
        if await self._refuses(link, "header"):
            return
        link.writer.write(BROKER_START)
        while True:
            await self.reading.wait()
            frame = await read_frame(link.reader)
            kind, number, _ = HEAD.unpack_from(frame)
            if kind == METHOD:
                ident = ident_of(frame)
                link.idents.append(ident)
                if await self._refuses(link, ident):
                    return
                self._answer(link, ident, number, frame)
            elif kind == HEADER:
                link.left[number] = CLASS_BASIC.unpack_from(frame, 7)[2]
            elif kind == BODY:
                link.left[number] -= len(frame) - 8
            if kind in (HEADER, BODY) and not link.left[number]:
                link.publishes += 1
                if number in link.confirmed:
                    link.confirmed[number] += 1
                    link.writer.write(ack(number, link.confirmed[number]))
            await self._tell()

    async def _refuses(self, link: BrokerLink, at: object) -> bool:
        if at == self.silent_at:
            await self._tell()
            await link.reader.read()
            return True
        return at == self.cut_at

    def _answer(self, link: BrokerLink, ident: int, number: int, frame: bytes) -> None:
        if ident == START_OK:
            link.writer.write(BROKER_TUNE)
        elif ident == m.method_id(m.ConfirmSelect):
            link.confirmed.setdefault(number, 0)
            if not m.decode(m.ConfirmSelect, frame[7:-1]).nowait:
                link.writer.write(on(number, m.ConfirmSelectOk()))
        elif ident in ANSWERS:
            if ident == m.CHANNEL_OPEN:
                link.confirmed.pop(number, None)
            link.writer.write(ANSWERS[ident](number))


class RawClient:
    """A client of the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, **settings) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=4096, **settings))

    @classmethod
    async def running(cls, port: int, *, heartbeat: int = 0) -> RawClient:
        """Connected, authenticated, virtual host open."""
        client = await cls.connect(port)
        await client.greet()
        await client.method(m.ConnectionTune)
        client.say(on(0, m.ConnectionTuneOk(2045, 131072, heartbeat), m.ConnectionOpen(b"/")))
        await client.method(m.ConnectionOpenOk)
        return client

    async def greet(self) -> None:
        """As far as the client's credentials, which make the proxy dial."""
        self.say(PROTOCOL_HEADER)
        await self.method(m.ConnectionStart)
        self.say(start_ok(*ALL_CAPABILITIES))

    async def open_channel(self, number: int = 1) -> None:
        self.say(on(number, m.ChannelOpen()))
        await self.method(m.ChannelOpenOk)

    def say(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def frame(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await read_frame(self.reader)

    async def method(self, wanted):
        """Read up to this method and return it."""
        while True:
            frame = await self.frame()
            if ident_of(frame) == m.method_id(wanted):
                return m.decode(wanted, frame[7:-1])
            assert ident_of(frame) != m.method_id(m.ConnectionClose), m.decode(m.ConnectionClose, frame[7:-1])

    async def leave(self) -> None:
        """Close as the specification asks for, until the socket is closed."""
        self.say(on(0, m.ConnectionClose(200, b"bye")))
        await self.method(m.ConnectionCloseOk)
        assert await self.rest() == b""
        self.writer.close()

    async def rest(self) -> bytes:
        """All that still comes until the proxy closes the socket."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def cut(self) -> None:
        self.writer.transport.abort()


class Shell:
    """A proxy without discovery, probes and admin API. `reports` is what it said."""

    def __init__(self, brokers, dial: DialPolicy, session: SessionPolicy, listen: ListenPolicy) -> None:
        rng = random.Random(1)
        self.reports = []
        balancer = load_balancer("first", BalancePolicy(), rng)
        self.pool = Pool(PoolPolicy(), HealthPolicy(fall=1000), balancer, rng, self._report)
        self.census = Census(self.pool.knows)
        self.pool.apply(Snapshot(tuple(broker.endpoint for broker in brokers)), asyncio.get_running_loop().time())
        self.server = Server(listen, dial, session, self.pool, self.census, self._report, rng)

    def _report(self, report) -> None:
        self.reports.append(report)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def drivers(self) -> list:
        return list(self.census.sessions.values())

    def events(self, name: str) -> list[dict]:
        return [report.facts for report in self.reports if report.event == name]

    async def until(self, fact) -> None:
        """Wait for what the proxy tells nobody."""
        async with asyncio.timeout(PATIENCE_S):
            while not fact():  # noqa: ASYNC110 - it cannot tell us
                await asyncio.sleep(0.01)

    async def until_idle(self) -> None:
        """No session is left."""
        await self.until(lambda: not self.census.sessions)

    @property
    def attaching(self) -> int:
        """Places taken or waited for at all endpoints, which two parts count."""
        places = sum(places.users for places in self.server._around.dialler._places.values())
        assert places == sum(self.pool._attaching.values())
        return places


@asynccontextmanager
async def shell(*brokers, listen: ListenPolicy | None = None, dial: DialPolicy | None = None, **session):
    """A proxy in front of these brokers, which must leave nothing behind."""
    listen = listen or ListenPolicy(port=free_port())
    proxy = Shell(brokers, dial or DialPolicy(spread_s=0), SessionPolicy(**session), listen)
    await proxy.server.start()
    try:
        yield proxy
    finally:
        await proxy.server.close()
    assert proxy.census.sessions == {}
    await proxy.until(lambda: not proxy.attaching)
    assert not proxy.pool._sessions
