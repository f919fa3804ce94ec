"""Not too many sessions knock at one broker at once, and none keeps a place it doesn't use."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from proxy.errors import ConfigError
from proxy.net.dialler import Dialler, NoBroker, broker_tls
from proxy.net.link import Link
from proxy.net.policy import DialPolicy
from tests.support.ports import free_port
from tests.upstream.pools import NOBODY, Lab, endpoint


@asynccontextmanager
async def broker(port: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Accepts and says nothing; yields who is there."""
    there: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: there.append(writer), "127.0.0.1", port)
    try:
        yield there
    finally:
        server.close()
        for writer in there:
            writer.close()


def dialler(lab: Lab, **policy: float) -> Dialler:
    return Dialler(DialPolicy(**{"spread_s": 0, **policy}), lab.pool, Random(1), ssl.create_default_context)


async def dial(dialler: Dialler, *avoid: str, resumes: bool = False) -> tuple[str, Link]:
    found, link = await dialler.dial(NOBODY, frozenset(avoid), resumes, Link)
    return found.name, link


async def until(fact) -> None:
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


async def test_only_so_many_attach_at_once_and_each_release_lets_one_in():
    port = free_port()
    lab = Lab(endpoint("a", port=port))
    async with broker(port) as there:
        dialling = dialler(lab, attachments_max=3)
        tasks = [asyncio.create_task(dial(dialling)) for _ in range(10)]
        for done in range(3, 11):
            await until(lambda done=done: sum(task.done() for task in tasks) == done == len(there))
            dialling.release("a")
        links = [link for _, link in await asyncio.gather(*tasks)]
        for link in links:
            link.abort()


async def test_one_that_stops_waiting_takes_nobody_s_place():
    port = free_port()
    lab = Lab(endpoint("a", port=port))
    async with broker(port):
        dialling = dialler(lab, attachments_max=1)
        _, first = await dial(dialling)
        impatient = asyncio.create_task(dial(dialling))
        patient = asyncio.create_task(dial(dialling))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        assert not patient.done()
        dialling.release("a")
        async with asyncio.timeout(10):
            _, second = await patient
        dialling.release("a")
        for link in (first, second):
            link.abort()


class Drawn(Random):
    """Draws these shares of the interval it is asked for."""

    def __init__(self, *shares: float) -> None:
        super().__init__(1)
        self._shares = list(shares)

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._shares.pop(0)


async def test_sessions_of_a_dead_broker_look_for_the_next_one_at_times_that_are_drawn():
    port = free_port()
    lab = Lab(endpoint("a", port=port))
    dialling = Dialler(DialPolicy(spread_s=0.5), lab.pool, Drawn(1.0, 0.1, 0.5), ssl.create_default_context)
    arrived = []

    async def resume(number: int) -> Link:
        _, link = await dial(dialling, resumes=True)
        arrived.append(number)
        return link

    async with broker(port):
        for link in await asyncio.gather(*(resume(number) for number in range(3))):
            link.abort()
    assert arrived == [1, 2, 0]


async def test_a_new_client_is_not_kept_waiting_by_the_spread():
    port = free_port()
    lab = Lab(endpoint("a", port=port))
    dialling = dialler(lab, spread_s=3600)
    async with broker(port):
        resuming = asyncio.create_task(dial(dialling, resumes=True))
        async with asyncio.timeout(10):
            _, link = await dial(dialling)
        assert not resuming.done()
        resuming.cancel()
        await asyncio.gather(resuming, return_exceptions=True)
        link.abort()


async def test_a_refused_connection_says_who_and_why_and_keeps_no_place():
    port = free_port()
    lab = Lab(endpoint("a", port=port))
    dialling = dialler(lab, attachments_max=1)
    for _ in range(3):
        with pytest.raises(NoBroker, match=rf"127\.0\.0\.1:{port}: Connect") as refused:
            await dial(dialling)
        assert refused.value.endpoint == "a"
    async with broker(port):
        async with asyncio.timeout(10):
            name, link = await dial(dialling)
        assert name == "a"
        link.abort()


async def test_a_failure_is_told_to_the_pool():
    port = free_port()
    lab = Lab(endpoint("a", port=port), health={"fall": 1})
    with pytest.raises(NoBroker):
        await dial(dialler(lab))
    assert lab.states() == {"a": "down"}


async def test_without_any_endpoint_the_text_says_so():
    with pytest.raises(NoBroker, match="no usable broker"):
        await dial(dialler(Lab()))


async def test_what_was_tried_is_avoided():
    first, second = free_port(), free_port()
    lab = Lab(endpoint("a", port=first), endpoint("b", port=second))
    async with broker(first), broker(second):
        dialling = dialler(lab)
        for _ in range(5):
            name, link = await dial(dialling, "a", resumes=True)
            assert name == "b"
            dialling.release("b")
            link.abort()


async def test_a_broker_that_does_not_answer_is_left_in_time():
    lab = Lab(endpoint("a", host="192.0.2.1"))  # TEST-NET-1: nobody is there
    with pytest.raises(NoBroker):
        await dial(dialler(lab, connect_timeout_s=0.05))


async def test_broken_certificates_are_refused_at_start(tmp_path):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    with pytest.raises(ConfigError, match="tls_ca"):
        broker_tls(DialPolicy(tls_ca=str(rubbish)))


async def test_authorities_are_read_for_the_first_broker_with_tls():
    tls = broker_tls(DialPolicy())
    assert tls() is tls()
