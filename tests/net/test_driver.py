"""One session's sockets: who waits for whom, who is told what, and what is left when it is over."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import pytest_asyncio

from proxy.amqp import methods as m
from proxy.net.link import WRITE_HIGH_WATER_BYTES
from proxy.net.policy import DialPolicy
from proxy.upstream.endpoint import Snapshot
from tests.support.engine_frames import ack, consume, deliver, on, publish
from tests.support.scripted import OPEN, START_OK, RawClient, ScriptedBroker, shell

BASIC_CONSUME = m.method_id(m.BasicConsume)
MIB = 1024 * 1024
# What may be on its way between two peers that do not read: the proxy's buffer, one chunk, and the kernel's buffers.
ON_THE_WAY_MAX = WRITE_HIGH_WATER_BYTES + MIB
FLOOD_MAX = 640


@pytest_asyncio.fixture
async def brokers():
    async with AsyncExitStack() as stack:
        started = [await ScriptedBroker(name).start() for name in ("b1", "b2")]
        for broker in started:
            stack.push_async_callback(broker.stop)
        yield started


def buffered(link) -> int:
    return link._transport.get_write_buffer_size()


async def flood(writer, message) -> int:
    """Write `message(1)`, `message(2)`, ... until the reader stalls for good. Returns how many."""
    for number in range(1, FLOOD_MAX):
        writer.write(message(number))
        try:
            async with asyncio.timeout(2):
                await writer.drain()
        except TimeoutError:
            return number
    raise AssertionError(f"{FLOOD_MAX} messages were taken and nobody read them")


def delivery(number: int) -> bytes:
    return deliver(1, number, bytes(100_000))


def large_publish(number: int) -> bytes:
    return publish(1, bytes(100_000))


async def test_a_client_that_does_not_read_stops_the_reading_of_its_broker_only(brokers) -> None:
    broker = brokers[0]
    async with shell(broker, heartbeat_s=1) as proxy:
        slow, quick = await RawClient.running(proxy.port), await RawClient.running(proxy.port)
        for client in (slow, quick):
            await client.open_channel()
            client.say(consume(1, no_ack=True))
            await client.frame()
        at_slow, at_quick = broker.links

        sent = await flood(at_slow.writer, delivery)

        driver = proxy.drivers[0]
        assert buffered(driver._client) <= ON_THE_WAY_MAX
        at_quick.writer.write(deliver(1, 1, b"to the other"))
        while b"to the other" not in await quick.frame():
            pass
        # Longer than two heartbeats: what is not read must not be taken for silent.
        await asyncio.sleep(3)
        assert proxy.events("failover_started") == []
        assert driver.endpoint == "b1"

        got = 0
        while got < sent:
            got += len(await slow.frame()) > 1000
        assert not driver._client.full
        await asyncio.sleep(3)  # the pulse goes on
        assert proxy.events("failover_started") == []


async def test_a_session_whose_client_does_not_read_is_attached_to_another_broker(brokers) -> None:
    first, second = brokers
    async with shell(first, second, handshake_timeout_s=2) as proxy:
        client = await RawClient.running(proxy.port)
        await client.open_channel()
        client.say(consume(1, no_ack=True))
        await client.frame()
        await flood(first.links[0].writer, delivery)
        driver = proxy.drivers[0]
        assert driver._client.full

        driver.endpoint_down("b1", "the probe says so")

        await proxy.until(lambda: driver.endpoint == "b2")
        assert proxy.events("failover_attempt_failed") == []
        await second.until(lambda: second.links and BASIC_CONSUME in second.links[0].idents)
        at_second = second.links[0].writer
        sent = await flood(at_second, delivery)  # once attached it is not read either
        assert buffered(driver._client) <= ON_THE_WAY_MAX
        at_second.write(deliver(1, sent + 1, b"the last"))
        while b"the last" not in await client.frame():
            pass
        assert proxy.events("failover_attempt_failed") == proxy.events("channel_restarted") == []


async def test_a_broker_that_does_not_read_stops_the_reading_of_its_client(brokers) -> None:
    broker = brokers[0]
    async with shell(broker, publish_guarantee="as_sent", heartbeat_s=60) as proxy:
        client, other = await RawClient.running(proxy.port, heartbeat=1), await RawClient.running(proxy.port)
        await client.open_channel()
        await other.open_channel()
        driver = proxy.drivers[0]
        broker.reading.clear()

        sent = await flood(client.writer, large_publish)

        assert buffered(driver._legs[1].link) <= ON_THE_WAY_MAX
        # The client cannot be heard now, and must not be taken for silent (two heartbeats of 1 s).
        await asyncio.sleep(3)
        assert len(proxy.drivers) == 2
        broker.reading.set()
        client.say(publish(1))
        await broker.until(lambda: broker.links[0].publishes == sent + 1)


async def test_a_client_that_vanishes_while_it_is_not_read_and_has_no_heartbeat_is_noticed(brokers) -> None:
    broker = brokers[0]
    async with shell(
        broker, unsettled_bytes_max=150_000, failover_timeout_s=1, close_flush_timeout_s=1, heartbeat_s=60
    ) as proxy:
        client = await RawClient.running(proxy.port, heartbeat=0)
        await client.open_channel()
        broker.reading.clear()
        client.say(large_publish(1), large_publish(2))
        driver = proxy.drivers[0]
        await proxy.until(lambda: not driver.engine.pulse.reading)

        client.say(publish(1))
        await asyncio.sleep(0)
        client.cut()

        await proxy.until(lambda: driver.engine.ending.reason == "client_gone")
        broker.reading.set()
        await proxy.until_idle()


async def test_a_vanished_client_that_had_stopped_reading_still_gets_its_publishes_confirmed(brokers) -> None:
    broker = brokers[0]
    async with shell(broker) as proxy:
        client = await RawClient.running(proxy.port)
        await client.open_channel()
        client.say(consume(1, no_ack=True))
        await client.frame()
        await flood(broker.links[0].writer, delivery)
        broker.reading.clear()
        client.say(publish(1))
        await proxy.until(lambda: proxy.drivers[0].engine.journal.channels[1].unsettled == 1)
        client.cut()
        broker.reading.set()

        await broker.until(lambda: not broker.links)
        await proxy.until_idle()
        assert proxy.census.per_endpoint()["b1"].confirms == 1


async def test_a_peer_that_never_reads_cannot_keep_a_closed_socket(brokers, monkeypatch) -> None:
    monkeypatch.setattr("proxy.net.link.LINGER_S", 0.2)
    broker = brokers[0]
    async with shell(broker, publish_guarantee="as_sent") as proxy:
        client = await RawClient.running(proxy.port)
        await client.open_channel()
        client.say(consume(1, no_ack=True))
        await client.frame()
        await flood(broker.links[0].writer, delivery)

        client.say(on(0, m.ConnectionClose(200, b"bye")))

        await proxy.until(lambda: not proxy.server._links)


@pytest.mark.parametrize("stage", ["header", START_OK, OPEN])
@pytest.mark.parametrize("how", ["silent_at", "cut_at"])
async def test_a_broker_that_fails_in_the_handshake_is_left_for_another(brokers, stage, how) -> None:
    bad, good = brokers
    setattr(bad, how, stage)
    async with shell(bad, good, handshake_timeout_s=1) as proxy:
        client = await RawClient.running(proxy.port)

        assert proxy.drivers[0].endpoint == "b2"
        assert proxy.attaching == 0
        assert proxy.events("failover_attempt_failed")[0]["endpoint"] == "b1"
        await client.leave()
        await proxy.until_idle()


@pytest.mark.parametrize("stage", ["header", START_OK, OPEN])
async def test_a_client_that_leaves_while_it_is_being_attached_leaves_no_place_taken(brokers, stage) -> None:
    broker = brokers[0]
    broker.silent_at = stage
    async with shell(broker) as proxy:
        client = await RawClient.connect(proxy.port)
        await client.greet()
        if stage == OPEN:
            await client.method(m.ConnectionTune)
            client.say(on(0, m.ConnectionTuneOk(2045, 131072, 0), m.ConnectionOpen(b"/")))
        await broker.until(lambda: broker.links and (stage == "header" or stage in broker.links[0].idents))

        client.cut()

        await proxy.until_idle()
        await broker.until(lambda: not broker.links)
        assert proxy.attaching == 0


async def test_a_stranger_that_greets_first_is_no_broker(brokers) -> None:
    bad, good = brokers
    bad.banner = b"220 mail.example.org ESMTP\r\n"
    async with shell(bad, good) as proxy:
        await RawClient.running(proxy.port)

        assert proxy.drivers[0].endpoint == "b2"
        assert proxy.events("internal_error") == []


async def test_a_host_name_that_cannot_be_asked_for_is_a_failed_attempt(brokers) -> None:
    class Nowhere:
        endpoint = type(brokers[0].endpoint)("bad", "mq..example", 5672)

    async with shell(Nowhere, brokers[1]) as proxy:
        await RawClient.running(proxy.port)

        assert proxy.drivers[0].endpoint == "b2"
        assert proxy.events("internal_error") == []


async def test_counters_stay_where_they_were_counted_and_never_fall(brokers) -> None:
    b1, b2 = brokers
    async with shell(b1, b2) as proxy:
        seen: dict[tuple[str, str], int] = {}

        def check() -> None:
            for endpoint, counters in proxy.census.per_endpoint().items():
                for name in counters.__slots__:
                    value = getattr(counters, name)
                    assert value >= seen.get((endpoint, name), 0), (endpoint, name)
                    seen[endpoint, name] = value

        client = await RawClient.running(proxy.port)
        await client.open_channel()
        client.say(on(1, m.ConfirmSelect(False)))
        await client.method(m.ConfirmSelectOk)
        for round_number in range(1, 7):
            check()
            client.say(publish(1))
            assert (await client.method(m.BasicAck)).delivery_tag == round_number
            check()
            here = {"b1": b1, "b2": b2}[proxy.drivers[0].endpoint]
            here.cut()
            await proxy.until(lambda n=round_number: (check(), len(proxy.events("failover_done")) == n)[1])
        await client.leave()
        await proxy.until_idle()
        check()
        sums = proxy.census.per_endpoint()
        assert sum(each.publishes for each in sums.values()) == 6
        assert sum(each.confirms for each in sums.values()) == 6
        assert sums["b1"].publishes
        assert sums["b2"].publishes


async def test_a_session_leaves_an_endpoint_that_drains_and_is_counted_once(brokers) -> None:
    b1, b2 = brokers
    async with shell(b1, b2, move_spread_s=0) as proxy:
        client = await RawClient.running(proxy.port)
        now = asyncio.get_running_loop().time()

        proxy.pool.apply(Snapshot((replace(b1.endpoint, intent="drain"), b2.endpoint)), now)

        await b1.until(lambda: not b1.links)
        await proxy.until(lambda: proxy.pool._sessions == {"b2": 1})
        assert proxy.drivers[0].endpoint == "b2"
        assert proxy.census.moves == len(proxy.events("session_moved")) == 1
        assert proxy.census.failovers == {}
        await client.open_channel()
        await client.leave()


async def test_a_bug_ends_its_session_with_541_and_no_other(brokers) -> None:
    def bug(*_) -> None:
        raise ZeroDivisionError("a bug")

    async with shell(brokers[0]) as proxy:
        unlucky, other = await RawClient.running(proxy.port), await RawClient.running(proxy.port)
        proxy.drivers[0].engine.from_client = bug

        unlucky.say(on(1, m.ChannelOpen()))
        close = m.decode(m.ConnectionClose, (await unlucky.frame())[7:-1])
        assert close.reply_code == 541
        assert b"sidehop met an internal error" in close.reply_text
        unlucky.say(on(0, m.ConnectionCloseOk()))  # meets the bug again
        assert await unlucky.rest() == b""

        assert proxy.census.sessions_ended == {"internal_error": 1}
        assert "ZeroDivisionError: a bug" in proxy.events("internal_error")[0]["stack"]
        await other.open_channel()
        await other.leave()


@pytest.mark.parametrize("event", ["client_gone", "broker_lost", "shut_down", "tick", "deadline", "dial_failed"])
async def test_a_bug_anywhere_is_kept_to_its_session(brokers, event) -> None:
    def bug(*_) -> None:
        raise ZeroDivisionError("a bug")

    broker = brokers[0]
    dial = DialPolicy(spread_s=0, connect_timeout_s=2)
    async with shell(broker, heartbeat_s=1, dial=dial) as proxy:
        unlucky, other = await RawClient.running(proxy.port), await RawClient.running(proxy.port)
        driver = proxy.drivers[0]
        setattr(driver.engine, event, bug)
        match event:
            case "client_gone":
                unlucky.cut()
            case "broker_lost":
                broker.links[0].writer.transport.abort()
            case "shut_down":
                driver.shut_down()
            case "deadline":
                unlucky.say(on(1, m.ChannelOpen()))
                driver.endpoint_down("b1", "so it is said")
            case "dial_failed":
                broker._server.close()
                broker.links[0].writer.transport.abort()
        await proxy.until(lambda: driver not in proxy.drivers)

        assert proxy.events("internal_error")
        assert proxy.census.sessions_ended == {"internal_error": 1}
        assert proxy.attaching == 0
        await other.open_channel()


async def test_one_timer_serves_a_session(brokers) -> None:
    async with shell(brokers[0], heartbeat_s=1) as proxy:
        client = await RawClient.running(proxy.port, heartbeat=60)
        await client.open_channel()
        client.say(consume(1))
        await client.frame()
        loop = asyncio.get_running_loop()
        for tag in range(1, 201):
            brokers[0].links[0].writer.write(deliver(1, tag))
            while b"m" not in (await client.frame())[7:8]:
                pass
            client.say(ack(1, tag))
        assert proxy.drivers[0]._timer is not None
        if hasattr(loop, "_scheduled"):  # uvloop does not show its timers
            ours = [t for t in loop._scheduled if not t.cancelled() and t._callback == proxy.drivers[0]._tick]
            assert len(ours) == 1
