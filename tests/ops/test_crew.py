"""Workers as real processes: they share an address and the limits, and what becomes of them is noticed."""

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from proxy.net.policy import DialPolicy, ListenPolicy
from proxy.ops import crew
from proxy.ops.crew import Crew
from proxy.settings import Settings, load
from proxy.upstream.endpoint import Endpoint, Snapshot

GREETING = b"AMQP\x00\x00\x09\x01"


@asynccontextmanager
async def running(**listen):
    """A crew at work, and the reports of the process that leads it."""
    reports = []
    led = Crew(Settings(listen=ListenPolicy(port=0, **listen)), reports.append, lambda: 0)
    led.reports = reports
    await led.start()
    keeping = asyncio.create_task(led.run())
    try:
        yield led
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await led.close()


async def client_of(led):
    """A client that has begun to speak, and has got the first word of connection.start."""
    reader, writer = await asyncio.open_connection("127.0.0.1", led.port)
    writer.write(GREETING)
    assert await reader.readexactly(1) == b"\x01"
    return reader, writer


async def clients_of_both(led):
    """Clients until each of the two workers has some."""
    clients = []
    while len({each.id.partition("-")[0] for each in (await led.sessions(0, 1000, 0.0)).sessions}) < 2:
        clients.append(await client_of(led))
    return clients


async def until(fact):
    async with asyncio.timeout(60):
        while not (found := await fact()):  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.02)
        return found


def events(led, name):
    return [report.facts for report in led.reports if report.event == name]


async def metric(led, name):
    return sum(sample.value for family in await led.metrics(0.0) for sample in family.samples if sample.name == name)


async def test_what_a_sidecar_is_told_reaches_each_worker_and_their_answers_are_one():
    async with running(workers=2, retained_bytes_max=64 << 20) as led:
        assert [facts["worker"] for facts in events(led, "worker_started")] in ([1, 2], [2, 1])
        assert (await led.condition(0.0)).endpoints == []
        led.apply(Snapshot((Endpoint("mq1", "127.0.0.1", 1, tags={"rack": "a"}),)), 0.0)
        (view,) = (await led.condition(0.0)).endpoints
        assert (view.name, view.address, view.tags) == ("mq1", "127.0.0.1:1", {"rack": "a"})
        clients = await clients_of_both(led)
        assert await led.headcount() == len(clients)
        page = await led.sessions(0, 1000, 0.0)
        assert page.total == len(clients) == len({each.id for each in page.sessions})
        one_by_one = [await led.sessions(number, 1, 0.0) for number in range(len(clients))]
        assert {each.total for each in one_by_one} == {len(clients)}
        assert [each.sessions[0].id for each in one_by_one] == [each.id for each in page.sessions]
        assert sum(load.sessions for load in (await led.loads(0.0)).values()) == len(clients)
        assert await metric(led, "sidehop_sessions") == len(clients)
        assert await metric(led, "sidehop_sessions_opened_total") == len(clients)
        assert await metric(led, "sidehop_retained_limit_bytes") == 64 << 20
        assert await metric(led, "sidehop_workers") == 2


async def test_a_worker_that_dies_is_replaced_and_takes_only_its_own_sessions_with_it():
    async with running(workers=2) as led:
        led.apply(Snapshot((Endpoint("mq1", "127.0.0.1", 1),)), 0.0)
        clients = await clients_of_both(led)
        opened = await metric(led, "sidehop_sessions_opened_total")
        victim = led._workers[1]
        lost = (await victim.ask(crew.Question("headcount"), int)) or 0
        os.kill(victim.pid, signal.SIGKILL)

        async def replaced():
            return 3 in led._workers and len(events(led, "worker_started")) == 3

        await until(replaced)
        (died,) = events(led, "worker_died")
        assert (died["worker"], died["reason"]) == (1, "killed by SIGKILL")
        assert await led.headcount() == len(clients) - lost
        assert sum(reader._eof or reader.exception() is not None for reader, _ in clients) == lost > 0
        assert await metric(led, "sidehop_worker_deaths_total") == 1
        assert await metric(led, "sidehop_sessions_opened_total") == opened, "what counts never falls"
        assert [view.name for view in (await led.condition(0.0)).endpoints] == ["mq1"], "the new one knows the brokers"
        clients += await clients_of_both(led)  # the two that are there now


async def test_a_worker_that_answers_no_more_is_told_and_then_replaced(monkeypatch):
    monkeypatch.setattr(crew, "PULSE_S", 0.05)
    async with running(workers=2) as led:
        opened = [len(await clients_of_both(led)), await metric(led, "sidehop_sessions_opened_total")]
        assert opened[0] == opened[1]
        monkeypatch.setattr(crew, "SILENCE_MAX_S", crew.ANSWER_MAX_S + 2)
        os.kill(led._workers[2].pid, signal.SIGSTOP)

        async def told():
            return "worker 2 does not answer" in (await led.condition(0.0)).troubles

        await until(told)
        assert await metric(led, "sidehop_sessions_opened_total") == opened[0], "what it last said still counts"

        async def replaced():
            return [facts["reason"] for facts in events(led, "worker_died")]

        assert await until(replaced) == ["it did not answer for 6 s and was killed"]


async def test_a_worker_that_dies_again_and_again_is_replaced_more_and_more_slowly(monkeypatch):
    pauses = []

    async def paused(pause_s):
        pauses.append(pause_s)
        if len(pauses) == 9:
            raise RuntimeError("enough")

    async def dead(number, settings):
        raise BlockingIOError(11, "no room for another process")

    led = Crew(Settings(listen=ListenPolicy(port=0)), lambda report: reports.append(report), lambda: 0)
    reports = []
    monkeypatch.setattr(crew.asyncio, "sleep", paused)
    monkeypatch.setattr(crew.Worker, "start", dead)
    await led.start()
    with pytest.raises(RuntimeError):
        await led._keep(None)
    await led.close()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert "no room for another process" in reports[0].facts["reason"]


async def test_without_any_worker_it_is_not_ready_and_says_so():
    async with running(workers=2) as led:
        led._workers.clear()
        condition = await led.condition(0.0)
        assert (condition.troubles, condition.usable) == (["no worker is running"], 0)


async def test_another_process_on_the_address_is_noticed_though_workers_share_it():
    async with running(workers=2) as led:
        other = Crew(Settings(listen=ListenPolicy(port=led.port, workers=2)), lambda report: None, lambda: 0)
        with pytest.raises(OSError, match="in use"):
            await other.start()
        await other.close()
        with pytest.raises(OSError, match="in use"), socket.socket() as alone:
            alone.bind(("127.0.0.1", led.port))


def test_each_worker_has_its_part_of_the_limits_that_are_for_all():
    listen = ListenPolicy(workers=3, sessions_max=10, retained_bytes_max=100_000_000)
    share = crew._share(Settings(listen=listen, dial=DialPolicy(attachments_max=4)), 5000)
    assert (share.listen.workers, share.listen.port) == (1, 5000)
    assert share.listen.sessions_max == 4
    assert share.listen.retained_bytes_max == 33_333_333
    assert share.dial.attachments_max == 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {
            "SIDEHOP_DISCOVERY__STATIC__NODES": "mq1,mq2",
            "SIDEHOP_HEALTH__USER": "probe",
            "SIDEHOP_HEALTH__PASSWORD": "hunter2",
            "SIDEHOP_DISCOVERY__OPTIONS__TOKEN": "hunter2",
            "SIDEHOP_SESSION__DIRECT_REPLY_TO": "emulated",
        },
    ],
)
def test_settings_reach_a_worker_as_they_are(environment):
    settings = load(None, environment)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=Settings) == settings
