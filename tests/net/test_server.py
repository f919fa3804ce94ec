"""Accepting, refusing, draining, and what is left after many sessions."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER
from proxy.net.policy import DialPolicy, ListenPolicy
from tests.support.engine_frames import on, publish
from tests.support.ports import free_port
from tests.support.scripted import OPEN, RawClient, ScriptedBroker, shell


@pytest_asyncio.fixture
async def broker():
    started = await ScriptedBroker().start()
    yield started
    await started.stop()


async def test_no_more_attachments_at_once_than_allowed(broker) -> None:
    broker.silent_at = OPEN
    async with shell(broker, dial=DialPolicy(attachments_max=3, spread_s=0)) as proxy:
        clients = [await RawClient.connect(proxy.port) for _ in range(12)]
        for client in clients:
            await client.greet()
        await proxy.until(lambda: proxy.attaching == 12)
        await broker.until(lambda: broker.accepted == 3)

        # Whoever gives up makes room for the next, whether it had a place or waited for one.
        for gone in (clients[0], clients[11]):
            gone.cut()
        await proxy.until(lambda: proxy.attaching == 10)
        await broker.until(lambda: broker.accepted == 4 and len(broker.links) == 3)

        async def go_on(client: RawClient) -> None:
            await client.method(m.ConnectionTune)
            client.say(on(0, m.ConnectionTuneOk(2045, 131072, 0), m.ConnectionOpen(b"/")))
            await client.method(m.ConnectionOpenOk)

        broker.silent_at = None
        broker.cut()
        await asyncio.gather(*map(go_on, clients[1:11]))
        await proxy.until(lambda: not proxy.attaching)


async def test_the_kernel_asks_whether_silent_clients_are_still_there(broker) -> None:
    async with shell(broker) as proxy:
        await RawClient.running(proxy.port)

        accepted = proxy.drivers[0]._client._transport.get_extra_info("socket")

        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30


async def test_a_client_above_the_limit_is_refused_and_told_at_a_bounded_rate(broker) -> None:
    async with shell(broker, listen=ListenPolicy(port=free_port(), sessions_max=2)) as proxy:
        first, second = await RawClient.running(proxy.port), await RawClient.running(proxy.port)
        for _ in range(5):
            refused = await RawClient.connect(proxy.port)
            assert await refused.rest() == b""
            refused.cut()

        assert proxy.census.sessions_refused == {"sessions_max": 5}
        assert len(proxy.events("session_refused")) == 1
        await first.leave()
        await proxy.until(lambda: len(proxy.drivers) == 1)
        third = await RawClient.running(proxy.port)
        await third.open_channel()
        await second.open_channel()


@pytest.mark.parametrize(
    ("hello", "spoken"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "TLS"),
        (b"AMQP\x00\x01\x00\x00", "AMQP 1.0.0 (protocol id 0)"),
        (b"AMQP\x03\x01\x00\x00", "AMQP 1.0.0 (protocol id 3)"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id", "MQTT"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", "something else"),
    ],
)
async def test_a_stranger_is_told_what_is_spoken_here_and_left(broker, hello, spoken) -> None:
    async with shell(broker) as proxy:
        stranger = await RawClient.connect(proxy.port)
        stranger.say(hello)
        assert await stranger.rest() == PROTOCOL_HEADER
        stranger.cut()
        await proxy.until_idle()

        [facts] = proxy.events("session_refused")
        assert facts["reason"] == f"it spoke {spoken}; this port expects AMQP 0-9-1"
        assert facts["client"].startswith("127.0.0.1:")
        assert broker.accepted == 0


async def test_strangers_that_knock_in_a_loop_are_reported_once(broker) -> None:
    async with shell(broker) as proxy:
        for _ in range(20):
            stranger = await RawClient.connect(proxy.port)
            stranger.say(b"GET / HTTP/1.1\r\n")
            await stranger.rest()
            stranger.cut()
        assert len(proxy.events("session_refused")) == 1


async def test_a_drain_ends_with_the_last_client(broker) -> None:
    async with shell(broker) as proxy:
        client = await RawClient.running(proxy.port)
        drained = asyncio.create_task(proxy.server.drain(600))
        late = await RawClient.running(proxy.port)
        await client.leave()
        await late.open_channel()
        assert not drained.done()
        await late.leave()
        await asyncio.wait_for(drained, 30)


async def test_a_drain_ends_with_the_last_flush_of_a_client_that_is_gone(broker) -> None:
    async with shell(broker) as proxy:
        client = await RawClient.running(proxy.port)
        await client.open_channel()
        broker.reading.clear()
        client.say(publish(1))
        await proxy.until(lambda: proxy.drivers[0].engine.journal.channels[1].unsettled == 1)
        client.cut()
        await proxy.until(lambda: not proxy.server._links)
        drained = asyncio.create_task(proxy.server.drain(600))
        broker.reading.set()
        await asyncio.wait_for(drained, 30)
        assert proxy.census.per_endpoint()["b1"].confirms == 1


async def test_a_close_tells_the_clients_and_waits_for_none_for_ever(broker) -> None:
    async with shell(broker) as proxy:
        polite, deaf = await RawClient.running(proxy.port), await RawClient.running(proxy.port)
        undecided = await RawClient.connect(proxy.port)
        closing = asyncio.create_task(proxy.server.close())
        for client in (polite, deaf):
            frame = await client.frame()
            assert m.decode(m.ConnectionClose, frame[7:-1]).reply_code == 320
        polite.say(on(0, m.ConnectionCloseOk()))
        assert await polite.rest() == b""
        assert await undecided.rest() == b""
        await asyncio.wait_for(closing, 30)
        assert await deaf.rest() == b""
        assert proxy.census.sessions_ended == {"shutdown": 3}
        with pytest.raises(OSError):
            await RawClient.connect(proxy.port if proxy.server.listening else deaf.writer.get_extra_info("peername")[1])


async def test_many_short_sessions_leave_nothing_behind(broker) -> None:
    async with shell(broker) as proxy:

        async def visit(number: int) -> None:
            client = await RawClient.running(proxy.port)
            await client.open_channel()
            client.say(publish(1))
            match number % 4:
                case 0:
                    await client.leave()
                case 1:
                    client.cut()
                case 2:
                    client.writer.close()
                case 3:
                    broker.links[-1].writer.transport.abort()
                    await client.leave()

        async def settled() -> tuple[int, int, int]:
            await proxy.until_idle()
            await proxy.until(lambda: not proxy.server._links)
            await broker.until(lambda: not broker.links)
            gc.collect()
            return open_files(), len(asyncio.all_tasks()), live_timers()

        def open_files() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        def live_timers() -> int:
            scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
            return sum(not timer.cancelled() for timer in scheduled)

        for number in range(8):
            await visit(number)
        before = await settled()
        for number in range(200):
            await visit(number)
        after = await settled()

        assert after == before
        assert proxy.census.sessions_total == sum(proxy.census.sessions_ended.values()) == 208
        assert not proxy.server._around.dialler._places
        assert sum(each.publishes for each in proxy.census.per_endpoint().values()) <= 208
        assert proxy.events("internal_error") == []
