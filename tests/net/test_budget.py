"""What all sessions together may keep: who waits, who is refused, who has to go, and that nothing is lost of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest_asyncio

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, frame
from proxy.net.budget import CALM_S, FULL_PATIENCE_S, HIGH, LOW, Budget
from proxy.net.policy import ListenPolicy
from tests.support.engine_frames import CLASS_BASIC, consume, deliver, frames_of, on, publish
from tests.support.ports import free_port
from tests.support.scripted import RawClient, ScriptedBroker, shell

MIB = 1024 * 1024
LIMIT = 16 * MIB
# What one read from each client and broker may add before anybody looks.
ON_TOP = 6 * MIB


class Kept:
    """A session that keeps what a test says."""

    def __init__(self, retained: int, unfinished: int = 0) -> None:
        self.retained_bytes = retained
        self.unfinished_bytes = unfinished
        self.share: int | None = None
        self.ended = ""

    def press(self, share_bytes: int | None) -> None:
        self.share = share_bytes

    def overdraw(self, reason: str) -> None:
        self.ended = reason
        self.retained_bytes = self.unfinished_bytes = 0


def budget_of(*sessions: Kept) -> tuple[Budget, list[str]]:
    told: list[str] = []
    return Budget(1000 * 1000, lambda: list(sessions), lambda report: told.append(report.event)), told


def test_nobody_waits_below_the_mark_and_all_share_what_is_above_it():
    one, other = Kept(700_000), Kept(0)
    budget, told = budget_of(one, other)
    budget.look(0)
    assert (one.share, other.share, told) == (None, None, [])
    one.retained_bytes = int(1_000_000 * HIGH)
    budget.look(1)
    assert one.share == other.share == one.retained_bytes // 2
    one.retained_bytes = 900_000
    budget.look(2)
    assert 0 < one.share < 900_000 // 2
    one.retained_bytes = int(1_000_000 * LOW) + 1
    budget.look(3)
    assert (one.share, told) == (375_000, ["memory_high"])
    one.retained_bytes -= 1
    budget.look(4)
    assert (one.share, other.share, told) == (None, None, ["memory_high"])
    one.retained_bytes = 900_000
    budget.look(4 + CALM_S - 1)
    one.retained_bytes = 0
    budget.look(4 + CALM_S)
    assert told == ["memory_high"]
    budget.look(4 + CALM_S - 1 + CALM_S)
    assert told == ["memory_high", "memory_eased"]


def test_at_the_limit_nothing_may_be_added_and_it_is_told_once():
    one = Kept(1_000_000)
    budget, told = budget_of(one)
    budget.look(0)
    assert (one.share, budget.full, told) == (0, True, ["memory_full", "memory_high"])
    one.retained_bytes = 999_000
    budget.look(1)
    assert not budget.full
    one.retained_bytes = 1_100_000
    budget.look(2)
    assert (one.share, len(told)) == (0, 2)


def test_publishes_that_cannot_end_give_way_one_at_a_time_and_only_if_nothing_else_does():
    larger, smaller, whole = Kept(400_000, 400_000), Kept(300_000, 300_000), Kept(300_000)
    budget, _ = budget_of(smaller, larger, whole)
    for now in (0.0, FULL_PATIENCE_S - 1):
        budget.look(now)
    assert not larger.ended
    budget.look(FULL_PATIENCE_S)
    assert "listen.retained_bytes_max (1000000 bytes)" in larger.ended
    budget.look(FULL_PATIENCE_S + 1)
    assert (smaller.ended, whole.ended, budget.full) == ("", "", False)


def test_confirms_that_do_not_come_end_nobody():
    one = Kept(2_000_000)
    budget, _ = budget_of(one)
    for now in range(100):
        budget.look(now)
    assert (one.ended, one.share) == ("", 0)


def test_it_is_added_up_again_before_what_was_read_could_fill_what_is_free_and_takes_little_of_the_time():
    one = Kept(0)
    budget, _ = budget_of(one)
    budget.look(0)
    assert 0 < budget.credit_bytes <= 750_000 // 2
    one.retained_bytes = 740_000
    budget.unseen_bytes = budget.credit_bytes
    budget.look(1)
    assert (budget.unseen_bytes, budget.credit_bytes) == (0, 1_000_000 // 64)
    crowd, _ = budget_of(*[one] * 100_000)
    assert crowd.look(0) >= 2.0


@pytest_asyncio.fixture
async def broker():
    started = await ScriptedBroker().start()
    yield started
    await started.stop()


@asynccontextmanager
async def small(broker: ScriptedBroker, **session):
    async with shell(
        broker, listen=ListenPolicy(port=free_port(), retained_bytes_max=LIMIT), heartbeat_s=60, **session
    ) as proxy:
        yield proxy


async def publisher(port: int) -> RawClient:
    client = await RawClient.running(port)
    await client.open_channel()
    return client


async def test_publishers_wait_for_room_others_do_not_and_all_arrives(broker) -> None:
    count, size = 80, 100_000
    async with small(broker) as proxy:
        clients = [await publisher(proxy.port) for _ in range(6)]
        idle = await publisher(proxy.port)
        broker.reading.clear()
        for client in clients:
            client.say(*(publish(1, bytes(size)) for _ in range(count)))
        budget = proxy.server.budget
        await proxy.until(lambda: budget.pressed)
        most = budget.retained_bytes
        for _ in range(10):
            await asyncio.sleep(0.1)
            most = max(most, budget.retained_bytes)

        # They all would have fitted their own limit.
        assert most <= LIMIT + ON_TOP < len(clients) * count * size
        assert "listen.retained_bytes_max" in proxy.drivers[0].view(0.0).waiting
        # One of which nothing is kept may go on.
        idle.say(on(2, m.ChannelOpen()))
        await proxy.until(lambda: proxy.drivers[6].view(0.0).channels == 2)

        broker.reading.set()
        await broker.until(lambda: sum(link.publishes for link in broker.links) == len(clients) * count)
        await proxy.until(lambda: not budget.pressed)
        for client in (*clients, idle):
            await client.leave()
        assert (len(proxy.events("memory_high")), proxy.events("memory_full")) == (1, [])
        assert proxy.census.failovers == {}


async def test_consumers_that_do_not_read_cost_less_when_memory_is_short_and_get_all_of_it(broker) -> None:
    count, size, many = 60, 100_000, 24
    async with small(broker) as proxy:
        clients = [await publisher(proxy.port) for _ in range(many)]
        for client in clients:
            client.say(consume(1, no_ack=True))
            await client.frame()
            client.reader._transport.pause_reading()
        for link in broker.links:
            for tag in range(1, count + 1):
                link.writer.write(deliver(1, tag, bytes(size)))
        await proxy.until(lambda: proxy.server.budget.pressed)
        await asyncio.sleep(1)
        assert proxy.server.budget.retained_bytes <= LIMIT + ON_TOP
        for client in clients:
            client.reader._transport.resume_reading()

        async def read(client: RawClient) -> None:
            got = 0
            while got < count * size:
                piece = await client.frame()
                got += len(piece) - 8 if piece[0] == BODY else 0

        await asyncio.gather(*map(read, clients))
        assert proxy.events("failover_started") == []


async def test_at_the_limit_new_clients_are_refused_and_the_largest_half_publish_ends(broker, monkeypatch) -> None:
    monkeypatch.setattr("proxy.net.budget.FULL_PATIENCE_S", 1.0)
    async with small(broker) as proxy:
        clients = [await publisher(proxy.port) for _ in range(3)]
        method = frames_of(publish(1))[0]
        for client in clients:
            head = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 10 * MIB, 0))
            client.say(method, head, *(frame(BODY, 1, bytes(100_000)) for _ in range(60)))
        await proxy.until(lambda: proxy.server.budget.full)
        late = await RawClient.connect(proxy.port)
        assert await late.rest() == b""
        late.cut()
        assert proxy.census.sessions_refused == {"memory": 1}
        heard = [asyncio.create_task(client.frame()) for client in clients]
        (told,), others = await asyncio.wait(heard, return_when=asyncio.FIRST_COMPLETED)
        close = m.decode(m.ConnectionClose, told.result()[7:-1])
        assert (close.reply_code, b"listen.retained_bytes_max" in close.reply_text) == (506, True)
        ended = clients[heard.index(told)]
        ended.say(on(0, m.ConnectionCloseOk()))
        await ended.rest()
        await proxy.until(lambda: not proxy.server.budget.full)
        assert len(proxy.drivers) == 2
        await publisher(proxy.port)
        for other in others:
            other.cancel()
