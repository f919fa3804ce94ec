"""The prober against servers that answer as brokers do, well and ill; the real broker is in integration/test_health."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from random import Random

import pytest
import trustme

from proxy.amqp.frames import method_frame
from proxy.amqp.methods import ConnectionClose, ConnectionCloseOk, ConnectionOpenOk, ConnectionStart, ConnectionTune
from proxy.upstream.balance import BalancePolicy, load_balancer
from proxy.upstream.endpoint import Endpoint, Snapshot
from proxy.upstream.health import HealthPolicy
from proxy.upstream.pool import Pool, PoolPolicy
from proxy.upstream.probe import PROBES_MAX, Prober

START = method_frame(0, ConnectionStart(0, 9, b"", b"PLAIN", b"en_US"))
TUNE = method_frame(0, ConnectionTune(2047, 131072, 60))
OPEN_OK = method_frame(0, ConnectionOpenOk())
CLOSE_OK = method_frame(0, ConnectionCloseOk())
LOGIN_REFUSED = method_frame(0, ConnectionClose(403, b"ACCESS_REFUSED - Login was refused"))
VHOST_DOWN = method_frame(0, ConnectionClose(541, b"INTERNAL_ERROR - vhost '/' is down"))
QUICK = {"timeout_s": 0.5, "interval_s": 0.1, "down_interval_s": 0.1, "down_interval_max_s": 0.1, "rise": 1, "fall": 1}


class Server:
    """Says what it is told, a piece for everything it hears. A piece of None is silence, b"" hangs up."""

    def __init__(self, *pieces) -> None:
        self.pieces = pieces
        self.heard = []
        self.connections = self.open = self.open_max = 0

    async def serve(self, reader, writer):
        self.connections += 1
        self.open += 1
        self.open_max = max(self.open_max, self.open)
        try:
            await self._serve(reader, writer)
        finally:
            self.open -= 1

    async def _serve(self, reader, writer):
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            for piece in self.pieces:
                chunk = await reader.read(65536)
                if not chunk:
                    return
                self.heard.append(chunk)
                if piece == b"":
                    return
                if piece is not None:
                    writer.write(piece)
            await reader.read()


class World:
    """One endpoint, its prober, and a way to wait for what they come to."""

    def __init__(self, port, policy, tls=None, count=1) -> None:
        rng = Random(1)
        self.said = []
        self.changed = asyncio.Event()
        self.pool = Pool(
            PoolPolicy(), policy, load_balancer("first", BalancePolicy(), rng), rng, lambda report: self.hear(report)
        )
        self.prober = Prober(self.pool, policy, lambda: tls, self.hear)
        endpoints = [Endpoint(f"mq{n}", "127.0.0.1", port, tls=tls is not None) for n in range(1, count + 1)]
        self.pool.apply(Snapshot(tuple(endpoints)), 0.0)

    def hear(self, report):
        self.said.append(report)
        self.changed.set()

    def view(self):
        return self.pool.views(asyncio.get_running_loop().time())[0]

    def saw(self, outcome, name="mq1"):
        self.pool.observe(name, outcome, asyncio.get_running_loop().time())

    async def until(self, fact):
        while not fact():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 10)

    async def until_state(self, state):
        await self.until(lambda: self.view().state == state)

    async def until_said(self, event):
        await self.until(lambda: any(report.event == event for report in self.said))


@contextlib.asynccontextmanager
async def probed(*pieces, http=None, facts=None, server_tls=None, **policy):
    """A world around a server that answers with these pieces, its prober running."""
    server, web = Server(*pieces), Server(http)
    async with contextlib.AsyncExitStack() as stack:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=server_tls)
        await stack.enter_async_context(listener)
        if http is not None:
            web_listener = await stack.enter_async_context(await asyncio.start_server(web.serve, "127.0.0.1", 0))
            policy |= {"http_port": web_listener.sockets[0].getsockname()[1], "user": "sidehop", "password": "secret"}
        port = listener.sockets[0].getsockname()[1]
        world = World(port, HealthPolicy(**{**QUICK, **policy}), **(facts or {}))
        world.server, world.web, world.listener, world.port = server, web, listener, port
        task = asyncio.create_task(world.prober.run())
        try:
            yield world
        finally:
            assert not task.done(), "the prober survives everything"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            listener.close()


LOGIN = {"user": "sidehop", "password": "secret"}


async def test_a_well_endpoint_is_only_connected_to():
    async with probed(START, fall=2) as world:
        world.saw("lost")
        await world.until_state("up")
        assert world.server.heard == []
        assert world.view().probes_failed == 0


async def test_an_endpoint_that_refuses_is_down():
    async with probed() as world:
        world.listener.close()
        await world.until_state("down")
        assert world.view().cause.startswith("connect probe: ")


async def test_the_way_back_is_a_polite_handshake():
    async with probed(START, TUNE, OPEN_OK, CLOSE_OK, **LOGIN) as world:
        world.saw("heartbeat_missed")
        await world.until_state("up")
        assert world.server.heard[0] == b"AMQP\x00\x00\x09\x01"
        assert b"\0sidehop\0secret" in world.server.heard[1]
        assert world.server.heard[3] == method_frame(0, ConnectionClose(200, b"probed"))


async def test_without_a_login_a_silent_endpoint_must_greet():
    async with probed(START) as world:
        world.saw("heartbeat_missed")
        await world.until_state("suspect")
        assert world.view().cause == "back, and on probation until a session has tried it"
        assert world.server.heard == [b"AMQP\x00\x00\x09\x01"]


@pytest.mark.parametrize(
    ("pieces", "cause"),
    [
        ((None,), "handshake probe: no answer within 0.5 s"),
        ((b"",), "handshake probe: 0 bytes read"),
        ((b"AMQP\x00\x01\x00\x00",), "handshake probe: it speaks another version of AMQP"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "handshake probe: it does not speak AMQP 0-9-1"),
        ((START[:-1] + b"x",), "handshake probe: it does not speak AMQP 0-9-1"),
        ((b"\x01\x00\x00\x7f\xff\xff\xff",), "handshake probe: it does not speak AMQP 0-9-1"),
        ((b"\x01\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x0a\x00\xce",), "handshake probe: method arguments end too early"),
        ((START, OPEN_OK), "handshake probe: it sent method 10.41 in the handshake"),
        ((START, TUNE, VHOST_DOWN), "handshake probe: 541 INTERNAL_ERROR - vhost '/' is down"),
        ((START, TUNE, OPEN_OK, None), "handshake probe: no answer within 0.5 s"),
    ],
)
async def test_an_endpoint_that_answers_wrongly_stays_down(pieces, cause):
    async with probed(*pieces, **LOGIN) as world:
        told = asyncio.get_running_loop().create_future()
        world.pool.on_down(lambda name, cause: told.done() or told.set_result(cause))
        world.saw("forced_close")
        assert (await asyncio.wait_for(told, 10)).startswith(cause)
        assert world.view().state == "down"


@pytest.mark.parametrize(
    "pieces", [(START, LOGIN_REFUSED), (START, TUNE, method_frame(0, ConnectionClose(530, b"no")))]
)
async def test_a_refused_login_is_reported_once_and_is_not_held_against_the_endpoint(pieces):
    async with probed(*pieces, **LOGIN) as world:
        for _ in range(2):
            world.saw("heartbeat_missed")
            await world.until_state("suspect")
        refusals = [report.facts for report in world.said if report.event == "probe_refused"]
        assert len(refusals) == 1
        assert refusals[0]["kind"] == "handshake"
        assert "secret" not in str(world.said)
        assert world.view().probes_failed == 0


async def test_a_tls_endpoint_is_not_shaken_hands_with_in_clear():
    async with probed(START, facts={"tls": ssl.create_default_context()}, **LOGIN) as world:
        told = asyncio.get_running_loop().create_future()
        world.pool.on_down(lambda name, cause: told.done() or told.set_result(cause))
        world.saw("forced_close")
        await asyncio.wait_for(told, 10)
        assert all(chunk.startswith(b"\x16\x03") for chunk in world.server.heard)


@pytest.mark.parametrize(("trusted", "state"), [(True, "up"), (False, "down")])
async def test_a_tls_endpoint_must_show_a_certificate_we_trust(trusted, state):
    authority, server_tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    tls = ssl.create_default_context()
    (authority if trusted else trustme.CA()).configure_trust(tls)
    handshake = (START, TUNE, OPEN_OK, CLOSE_OK)
    async with probed(*handshake, server_tls=server_tls, facts={"tls": tls}, **LOGIN) as world:
        world.pool.on_due(world.changed.set)
        world.saw("heartbeat_missed")
        await world.until(lambda: world.view().state == "up" or world.view().probes_failed)
        assert world.view().state == state


async def test_no_more_than_so_many_probes_are_under_way_at_once():
    async with probed(None, facts={"count": 4 * PROBES_MAX}) as world:
        world.pool.on_due(world.changed.set)
        for n in range(1, 4 * PROBES_MAX + 1):
            world.saw("heartbeat_missed", f"mq{n}")
        await world.until(lambda: all(view.probes_failed for view in world.pool.views(0.0)))
        # The server may see the end of one after the beginning of the next.
        assert PROBES_MAX <= world.server.open_max <= 2 * PROBES_MAX


async def test_a_host_name_that_cannot_be_is_a_failure_and_no_more():
    async with probed() as world:
        world.pool.apply(Snapshot((Endpoint("mq1", "a..b", 5672),)), asyncio.get_running_loop().time())
        await world.until_state("down")


async def test_a_503_of_the_management_api_puts_it_down():
    async with probed(http=b"HTTP/1.1 503 Service Unavailable\r\n\r\n") as world:
        await world.until_state("down")
        assert world.view().cause == "the management API says 503"
        request = world.web.heard[0].decode()
        assert request.startswith(f"GET /api/health/checks/port-listener/{world.port} HTTP/1.0\r\n")
        assert "Authorization: Basic c2lkZWhvcDpzZWNyZXQ=" in request


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 500 Oops\r\n\r\n", b"", b"x" * 70000])
async def test_anything_else_of_the_management_api_says_nothing(answer):
    async with probed(http=answer, fall=2) as world:
        world.saw("lost")
        await world.until_state("up")
        assert world.web.connections
        assert world.view().probes_failed == 0


async def test_a_refused_login_at_the_management_api_is_reported():
    async with probed(http=b"HTTP/1.1 401 Unauthorized\r\n\r\n") as world:
        await world.until_said("probe_refused")
        assert world.view().state == "up"
